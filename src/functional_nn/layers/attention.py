"""Attention layers: scaled dot-product attention and multi-head attention."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, backward_of
from functional_nn.core.layer_checks import check_entries, check_floating, check_key
from functional_nn.core.masked import Masked, Value, check_mask, mask_of, values_of, with_mask_of
from functional_nn.core.shapes import is_shape
from functional_nn.core.validation import check_count, check_flag
from functional_nn.layers.initializers import Initializer, weight_and_bias

PROJECTIONS = ("query", "key", "value", "output")


def dot_product_attention(*, causal: bool = False, rotary: bool = False, name: str = "dot_product_attention") -> Layer:
    """Scaled dot-product attention: for each query, the mean of the values, weighted by its similarity to their keys.

    Math:
        For each example and head, with d = head_size and j over the keys that query i sees:

        sᵢⱼ = qᵢ · kⱼ / √d, pᵢⱼ = exp sᵢⱼ / Σⱼ exp sᵢⱼ, cᵢ = Σⱼ pᵢⱼ vⱼ

        A query sees the real keys and, if causal, only those up to its own step. A query that sees no key has p = 0
        and c = 0. This is so if no key is real, and for a query that is padding.

        With rotary positions q and k are rotated first: qᵢ ← Rᵢ qᵢ, kⱼ ← Rⱼ kⱼ. Rᵢ rotates features n and n + d/2 in
        their plane by the angle i ωₙ, ωₙ = 10000^(-2n/d). As Rᵢᵀ Rⱼ = Rⱼ₋ᵢ, scores depend on distances only.

    Shapes:
        x = (q, k, v): q (batch, time, heads, head_size), k (batch, keys, heads, head_size), v (batch, keys, heads,
        any size), c (batch, time, heads, the size of v). q and k may be ``Masked``; c is ``Masked`` if q is.

    Gradient:
        From c to p: v_barⱼ = Σᵢ pᵢⱼ c_barᵢ, p_barᵢⱼ = c_barᵢ · vⱼ. Through the softmax, whose derivative is
        ∂pᵢⱼ/∂sᵢₗ = pᵢⱼ (δⱼₗ - pᵢₗ):

        s_barᵢₗ = Σⱼ p_barᵢⱼ pᵢⱼ (δⱼₗ - pᵢₗ) = pᵢₗ (p_barᵢₗ - Σⱼ pᵢⱼ p_barᵢⱼ), which is 0 where i does not see l

        From s: q_barᵢ = Σⱼ s_barᵢⱼ kⱼ / √d, k_barⱼ = Σᵢ s_barᵢⱼ qᵢ / √d. A rotation is undone by its transpose:
        q_barᵢ ← Rᵢᵀ q_barᵢ, k_barⱼ ← Rⱼᵀ k_barⱼ.

    The largest score is subtracted before exp. For 16-bit inputs scores and softmax are computed in float32.

    Args:
        causal: whether a query sees only keys up to its own step. Queries and keys then have the same time.
        rotary: whether q and k are rotated by their positions. head_size must then be even.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for shapes that do not fit together.

    >>> q = k = jnp.zeros((1, 2, 1, 3))
    >>> v = jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1)
    >>> print(dot_product_attention(causal=True).apply({}, {}, (q, k, v), train=False)[0].ravel())
    [2. 3.]

    References:
        Vaswani et al. 2017, "Attention is all you need", equation 1; Su et al. 2021, "RoFormer", equation 34 (there
        neighboring features form a plane; here, as in most implementations, features that are half a head apart).
    """
    causal = check_flag("causal", causal)
    rotary = check_flag("rotary", rotary)

    def forward(params, state, x, *, train, key=None):
        _check_parts(x, causal, rotary)
        queries, keys, values = x
        q, k, v = _real(queries), _real(keys), _real(with_mask_of(keys, values))
        if rotary:
            q, k = _rotated(q, 1), _rotated(k, 1)
        p = _softmax(_scores(q, k) / math.sqrt(q.shape[-1]), _visible(queries, keys, causal))
        c = jnp.einsum("bhij,bjhd->bihd", p.astype(v.dtype), v)
        # Residuals are a pytree of arrays, so "keys are masked" is kept as () and "they are not" as None.
        keys_are_masked = () if isinstance(keys, Masked) else None
        return with_mask_of(queries, c), state, (q, k, v, p, keys_are_masked)

    def backward(residuals, y_bar):
        q, k, v, p, keys_are_masked = residuals
        c_bar = values_of(y_bar)
        # c = p v: the cotangents of its two factors.
        v_bar = jnp.einsum("bhij,bihd->bjhd", p.astype(v.dtype), c_bar)
        p_bar = _scores(c_bar, v)
        # The softmax. Where i does not see j, p is 0 and so is s_bar. The factor 1 / √d of the scores is included.
        s_bar = p * (p_bar - jnp.sum(p * p_bar, axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])
        # The scores q · k.
        q_bar = jnp.einsum("bhij,bjhd->bihd", s_bar.astype(q.dtype), k)
        k_bar = jnp.einsum("bhij,bihd->bjhd", s_bar.astype(q.dtype), q)
        if rotary:
            q_bar, k_bar = _rotated(q_bar, -1), _rotated(k_bar, -1)
        if keys_are_masked is not None:
            k_bar = Masked(k_bar, None)
        return {}, (with_mask_of(y_bar, q_bar), k_bar, v_bar)

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward, takes_mask=True)


def attention(
    heads: int,
    *,
    head_size: int | None = None,
    out_size: int | None = None,
    causal: bool = False,
    rotary: bool = False,
    bias: bool = True,
    initializer: Initializer = "glorot",
    name: str = "attention",
) -> Layer:
    """Multi-head attention of a sequence to itself (self-attention) or to another sequence (cross-attention).

    Math:
        q = x W_query + b_query, k = m W_key, v = m W_value + b_value, y = c W_output + b_output

        where m is the memory, the sequence that x attends to (x itself if no other is given), and
        c = ``dot_product_attention`` of q, k, v. A step of x that sees no step of m has y = 0. Keys have no bias: it
        would add the same number to all scores of a query, which does not change the softmax.

    Shapes:
        x (batch, time, in_size), or (x, m) with m (batch, memory_time, memory_size); either may be ``Masked``.
        query/weight (in_size, heads, head_size), key/weight and value/weight (memory_size, heads, head_size),
        query/bias and value/bias (heads, head_size), output/weight (heads, head_size, out_size), output/bias
        (out_size,), y (batch, time, out_size)

    Gradient:
        The projections are ``dense`` layers, so with n over batch and time, and y_barₙ = 0 where step n sees nothing:

        weight_bar = Σₙ inputₙ output_barₙᵀ, bias_bar = Σₙ output_barₙ, input_bar = output_bar Wᵀ

        The output projection comes first, and its input_bar is c_bar. ``dot_product_attention`` computes q_bar, k_bar
        and v_bar from c_bar. Then the other projections give x_bar = q_bar W_queryᵀ and
        m_bar = k_bar W_keyᵀ + v_bar W_valueᵀ. If x is its own memory, the two are added.

    Args:
        heads: the number of heads. Each head computes its own attention weights, in its own subspace.
        head_size: the features of one head; by default in_size / heads.
        out_size: the number of outputs; by default in_size.
        causal: whether a step sees only steps up to itself.
        rotary: whether queries and keys are rotated by their positions; see ``dot_product_attention``.
        bias: whether queries, values and outputs have biases.
        initializer: of each projection, as one matrix; see ``initializers``.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for shapes that do not fit together, and for an in_size that is not a multiple of heads.

    >>> layer = attention(2)
    >>> params, state = layer.init(jax.random.key(0), ((5, 6), (7, 3)))
    >>> y, _ = layer.apply(params, state, (jnp.ones((1, 5, 6)), jnp.ones((1, 7, 3))), train=False)
    >>> y.shape, params["query"]["weight"].shape, params["key"]["weight"].shape
    ((1, 5, 6), (6, 2, 3), (3, 2, 3))

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.2.2.
    """
    check_count("heads", heads)
    for argument, size in {"head_size": head_size, "out_size": out_size}.items():
        if size is not None:
            check_count(argument, size)
    bias = check_flag("bias", bias)
    attend = dot_product_attention(causal=causal, rotary=rotary)
    entries = {part: ("weight", "bias") if bias and part != "key" else ("weight",) for part in PROJECTIONS}

    def init(key, in_shape):
        shapes = (in_shape, in_shape) if is_shape(in_shape) else in_shape
        if not isinstance(shapes, tuple | list) or [is_shape(shape) and len(shape) for shape in shapes] != [2, 2]:
            expected = "a shape (time, in_size), or a pair of such shapes: of x and of the memory"
            raise InputError("in_shape", expected, repr(in_shape), "It leaves out the batch axis.")
        (_, in_size), (_, memory_size) = shapes
        if head_size is None and in_size % heads:
            remedy = "Give head_size, or use another number of heads."
            raise InputError("heads", f"a divisor of the {in_size} features", heads, remedy)
        inner = (int(heads), int(head_size or in_size // heads))
        outer = (int(out_size or in_size),)
        projection_shapes = [((in_size,), inner), ((memory_size,), inner), ((memory_size,), inner), (inner, outer)]
        params = {}
        keys = jax.random.split(check_key(key), len(PROJECTIONS))
        for part, part_key, (part_in, part_out) in zip(PROJECTIONS, keys, projection_shapes, strict=True):
            drawn = _draw_projection(initializer, part_key, part_in, part_out)
            params[part] = {entry: drawn[entry] for entry in entries[part]}
        return params, {}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, PROJECTIONS)
        for part in PROJECTIONS:
            check_entries(f"params/{part}", params[part], entries[part])

        # x alone is its own memory.
        is_pair = isinstance(x, tuple) and not isinstance(x, Masked)
        source, memory = x if is_pair else (x, x)
        _check_sequence("x", source, params["query"]["weight"].shape[0])
        _check_sequence("memory" if is_pair else "x", memory, params["key"]["weight"].shape[0])

        x_values, memory_values = _real(source), _real(memory)
        q = with_mask_of(source, _project(params["query"], x_values))
        k = with_mask_of(memory, _project(params["key"], memory_values))
        c, _, attended = attend.forward({}, {}, (q, k, _project(params["value"], memory_values)), train=train)
        c = values_of(c)

        # A step that sees nothing has c = 0, but its output would be the bias. So its output is set to 0.
        visible = _visible(q, k, causal)
        sees = None if visible is None else jnp.any(visible, axis=(1, 3))[:, :, None]
        y = with_mask_of(source, _where(sees, _project(params["output"], c)))

        # Residuals are a pytree of arrays, so "x is a pair" is kept as () and "it is not" as None.
        weights = {part: params[part]["weight"] for part in PROJECTIONS}
        return y, state, (x_values, memory_values, c, attended, weights, sees, () if is_pair else None)

    def backward(residuals, y_bar):
        x, memory, c, attended, weights, sees, is_pair = residuals
        params_bar = {}

        def through_projection(part, inputs, outputs_bar):
            """Puts the cotangents of one projection's parameters into params_bar, and returns that of its inputs."""
            weight_bar, bias_bar, inputs_bar = _project_backward(weights[part], inputs, values_of(outputs_bar))
            part_bar = {"weight": weight_bar, "bias": bias_bar}
            params_bar[part] = {entry: part_bar[entry] for entry in entries[part]}
            return inputs_bar

        c_bar = through_projection("output", c, _where(sees, values_of(y_bar)))
        _, (q_bar, k_bar, v_bar) = backward_of(attend)(attended, with_mask_of(y_bar, c_bar))
        x_bar = through_projection("query", x, q_bar)
        memory_bar = through_projection("key", memory, k_bar) + through_projection("value", memory, v_bar)
        # If x is its own memory, it is used in both places, so the two cotangents are added.
        if is_pair is None:
            return params_bar, with_mask_of(y_bar, x_bar + memory_bar)
        return params_bar, (with_mask_of(y_bar, x_bar), with_mask_of(k_bar, memory_bar))

    return Layer(name, init, forward, backward, takes_mask=True)


def _scores(q, k):
    """qᵢ · kⱼ for each head, in float32 or wider."""
    dtype = jnp.float32 if jnp.finfo(q.dtype).bits < 32 else q.dtype
    return jnp.einsum("bihd,bjhd->bhij", q, k, preferred_element_type=dtype)


def _visible(queries, keys, causal):
    """Whether each query (axis 2) sees each key (axis 3); None if every query sees every key."""
    visible = None
    if causal:
        visible = jnp.tri(values_of(queries).shape[1], dtype=bool)[None, None]
    for mask, axes in ((mask_of(queries), (1, 3)), (mask_of(keys), (1, 2))):
        if mask is not None:
            real = jnp.expand_dims(mask, axes)
            visible = real if visible is None else visible & real
    return visible


def _softmax(s, visible):
    """exp s / Σ exp s over the visible keys, and 0 for all others."""
    if visible is not None:
        s = jnp.where(visible, s, -jnp.inf)
    # If a query sees no key, its largest score is -∞ and the sum is 0. They are replaced by 0 and 1: otherwise
    # -∞ - (-∞) and 0 / 0 would make the result and its derivative NaN.
    largest = lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True))
    exponentials = jnp.exp(s - jnp.where(largest == -jnp.inf, 0, largest))
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0, 1, total)


def _rotated(x, direction):
    """Rᵢ xᵢ for every step i, or Rᵢᵀ xᵢ for the direction -1."""
    time, size = x.shape[1], x.shape[3]
    angles = direction * np.outer(np.arange(time), 10_000.0 ** (-2 * np.arange(size // 2) / size))
    cosine = jnp.asarray(np.cos(angles), x.dtype)[None, :, None]
    sine = jnp.asarray(np.sin(angles), x.dtype)[None, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([cosine * first - sine * second, sine * first + cosine * second], axis=-1)


def _draw_projection(initializer, key, in_shape, out_shape):
    weight, bias = weight_and_bias(initializer, key, (math.prod(in_shape), math.prod(out_shape)))
    return {"weight": weight.reshape(*in_shape, *out_shape), "bias": bias.reshape(out_shape)}


def _project(entries, x):
    """x W + b. The product sums over all axes of x after batch and time."""
    y = jnp.tensordot(x, entries["weight"], axes=x.ndim - 2)
    if "bias" in entries:
        y = y + entries["bias"][None, None]
    return y


def _project_backward(weight, x, y_bar):
    """The cotangents of W, b and x, for y = x W + b."""
    batch_and_time = (0, 1)
    weight_bar = jnp.tensordot(x, y_bar, axes=(batch_and_time, batch_and_time))
    bias_bar = jnp.sum(y_bar, axis=batch_and_time)
    # y's axes after batch and time are the last axes of the weight; x_bar is summed over them.
    out_axes = tuple(range(2, y_bar.ndim)), tuple(range(x.ndim - 2, weight.ndim))
    return weight_bar, bias_bar, jnp.tensordot(y_bar, weight, axes=out_axes)


def _where(sees, y):
    """y, with 0 for steps that see nothing."""
    return y if sees is None else jnp.where(sees, y, 0)


def _real(x):
    """The values of a sequence, with 0 in place of padding. Padding may hold NaN, and 0 · NaN is not 0."""
    if not isinstance(x, Masked):
        return x
    return jnp.where(jnp.expand_dims(x.mask, range(2, x.values.ndim)), x.values, 0)


def _check_sequence(argument: str, x: Value, features: int) -> None:
    check_mask(x)
    x = values_of(x)
    if isinstance(x, tuple) or x.ndim != 3 or x.shape[-1] != features:
        given = f"{len(x)} inputs" if isinstance(x, tuple) else f"shape {x.shape}"
        remedy = "For attention to another sequence, give a pair (x, memory)."
        raise InputError(argument, f"sequences of {features} features, (batch, time, {features})", given, remedy)
    check_floating(x)


def _check_parts(x: Value, causal: bool, rotary: bool) -> None:
    if not isinstance(x, tuple) or len(x) != 3 or isinstance(x[2], Masked):
        expected = "(queries, keys, values); only queries and keys may be masked"
        given = f"{len(x)} inputs" if isinstance(x, tuple) else f"a {type(x).__name__}"
        raise InputError("x", expected, given)
    check_mask(x[0])
    check_mask(x[1])
    q, k, v = (values_of(part) for part in x)
    for part in (q, k, v):
        check_floating(part)
    given = f"shapes {q.shape}, {k.shape} and {v.shape}"
    have_four_axes = q.ndim == k.ndim == v.ndim == 4
    if not have_four_axes or (k.shape[0], *k.shape[2:]) != (q.shape[0], *q.shape[2:]):
        raise InputError("x", "queries and keys (batch, time, heads, head_size) that differ in time only", given)
    if v.shape[:3] != k.shape[:3]:
        raise InputError("x", "a value for every key, (batch, time, heads, …)", given)
    if causal and q.shape[1] != k.shape[1]:
        remedy = "Steps of two different sequences have no common order."
        raise InputError("x", "queries and keys of the same time, since causal=True", given, remedy)
    if rotary and q.shape[3] % 2:
        raise InputError("rotary", "an even head_size, since features are rotated in pairs", given)
