"""The one abstraction: a layer is three pure functions over plain pytrees."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.core import Tracer
from jax.tree_util import Partial

from functional_nn.checks import check_arrays, check_flag, is_array, is_numeric, shown, tree_in_native_order
from functional_nn.errors import FormulaMissing, InputError, inside
from functional_nn.inputs import Masked, Shape, is_shape, shape_of, traced

Params: TypeAlias = Mapping[str, Any]
State: TypeAlias = Mapping[str, Any]
Residuals: TypeAlias = Any


MARK = "functional_nn:"
"""Before a layer's name in the marks that combinators leave in traced programs."""

BACKWARD = "backward"
"""The scope, within a layer's, of the work of its hand-derived backward pass."""

EXAMPLES = "functional_nn:examples"
"""The mapped axis under which every example is alone; see ``check_batch_is_whole``."""


class Layer(NamedTuple):
    """What a network starts as, what it computes, and how its gradient flows back.

    Args:
        name: used in parameter trees and in error messages.
        init: ``init(key, in_shape) -> (params, state)``; ``in_shape`` leaves out the batch axis.
        forward: ``forward(params, state, x, *, train, key=None) -> (y, state, residuals)``; ``x`` has one
            leading batch axis, and ``residuals``, a pytree of arrays, is what the backward pass needs.
        backward: ``backward(residuals, y_bar) -> (params_bar, x_bar)``, derived by hand from the formula. It
            never calls JAX's automatic differentiation, so that it can be compared with it.
        takes_mask: whether ``forward`` knows ``Masked`` sequences; combinators give other layers the values alone.

    >>> import functional_nn as fnn
    >>> layer = fnn.dense(2)
    >>> params, state = layer.init(jax.random.key(0), (3,))
    >>> y, state = layer.apply(params, state, jnp.ones((5, 3)), train=False)
    >>> y.shape
    (5, 2)
    """

    name: str
    init: Callable[[Any, Shape], tuple[Params, State]]
    forward: Callable[..., tuple[Any, State, Residuals]]
    backward: Callable[[Residuals, Any], tuple[Params, Any]]
    takes_mask: bool = False

    def __repr__(self) -> str:
        return f"Layer({self.name!r})"

    def apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        """The forward pass without its residuals: ``(y, state)``. What ``jax.grad`` differentiates."""
        params, state, x = _check_call(self, params, state, x, train, key)
        y, state, _ = self.forward(params, state, x, train=train, key=key)
        return y, state

    def vjp(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State, Partial]:
        """The forward pass and the hand-derived pullback: ``(y, state, pullback)``, in the shape of ``jax.vjp``.

        ``pullback(y_bar)`` gives ``(params_bar, x_bar)``. It is a pytree, so it passes through ``jit``,
        ``vmap`` and ``scan`` like any value.
        """
        params, state, x = _check_call(self, params, state, x, train, key)
        y, state, residuals = self.forward(params, state, x, train=train, key=key)
        return y, state, Partial(Pullback(self.backward, _shapes(y)), residuals)


class Pullback(NamedTuple):
    """A layer's backward pass that refuses cotangents of another shape than the output's."""

    backward: Callable[[Residuals, Any], tuple[Params, Any]]
    shapes: tuple[Any, ...]

    def __call__(self, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
        given = _shapes(y_bar)
        if given != self.shapes:
            expected = f"what the output is, of shape {_listed(self.shapes)}"
            raise InputError("y_bar", expected, _listed(given) or shown(y_bar))
        return self.backward(residuals, tree_in_native_order(y_bar))


def _shapes(y: Any) -> tuple[Any, ...]:
    """The shape of each array in an output or its cotangent, in a tuple of its own where it is masked."""
    if isinstance(y, Masked):
        return tuple((shape,) for shape in _shapes(y.values))
    if isinstance(y, tuple):
        return tuple(shape for part in y for shape in _shapes(part))
    return (y.shape,) if is_array(y) and is_numeric(y) else (shown(y),)


def _listed(shapes: tuple[Any, ...]) -> str:
    return ", ".join(f"{shape[0]}, masked" if shape and isinstance(shape[0], tuple) else str(shape) for shape in shapes)


def _check_call(layer: Layer, params: Any, state: Any, x: Any, train: Any, key: Any) -> tuple[Any, Any, Any]:
    """Refuses what no layer takes; what this one takes it looks at itself. Gives back params, state and x."""
    check_trees(params, state)
    check_arrays("x", x)
    if isinstance(x, Masked) and not layer.takes_mask:
        expected = f"one array, since {layer.name} knows no masks"
        raise InputError("x", expected, "a masked sequence", "Put it into a chain, which carries the mask on.")
    check_flag("train", train, "Under jit it is static: jax.jit(…, static_argnames='train').")
    if key is not None:
        check_key(key)
    return tree_in_native_order((params, state, x))


def check_trees(params: Any, state: Any) -> None:
    """Refuses what are no nested dicts of arrays."""
    for argument, tree in (("params", params), ("state", state)):
        if not isinstance(tree, Mapping):
            raise InputError(argument, "a dict, as init gave it", shown(tree))
        for leaf in jax.tree.leaves(tree):
            if not is_array(leaf) or not is_numeric(leaf):
                raise InputError(argument, "a nested dict of arrays", f"one with {shown(leaf)}")


def stateless(
    name: str,
    forward: Callable[[jax.Array], tuple[jax.Array, Residuals]],
    backward: Callable[[Residuals, jax.Array], jax.Array],
) -> Layer:
    """A layer of ``x -> (y, residuals)`` and ``residuals, y_bar -> x_bar``, without parameters, state or randomness."""

    def layer_forward(params, state, x, *, train, key=None):
        y, residuals = forward(x)
        return y, state, residuals

    return Layer(
        name,
        init=lambda key, in_shape: ({}, {}),
        forward=layer_forward,
        backward=lambda residuals, y_bar: ({}, backward(residuals, y_bar)),
    )


def as_layer(value: Any) -> Layer:
    """Takes a layer as it is, an activation as a layer, and any function ``x -> y`` as a layer without a formula."""
    if isinstance(value, Layer):
        return value
    if hasattr(value, "as_layer"):
        return value.as_layer()
    expected = "layers, activations or functions of one array"
    if not callable(value):
        remedy = "Write chain(*layers)." if isinstance(value, list | tuple) else ""
        raise InputError("layers", expected, repr(value), remedy)
    name = getattr(value, "__name__", "function").strip("<>")
    if (getattr(value, "__module__", "") or "").startswith("functional_nn.layers"):
        raise InputError("layers", expected, f"the function {name}, which makes one", f"Write {name}(…).")

    def no_formula(residuals, y_bar):
        raise FormulaMissing(
            f"{name} is a plain function without a hand-derived backward pass: use jax.grad of apply, or give "
            f"its derivative with functional_nn.Activation({name!r}, function, derivative)."
        )

    function: Callable[[Any], Any] = value

    def forward(x):
        y = function(x)
        with inside(name):
            check_arrays("y", y)
        return y, ()

    return stateless(name, forward, no_formula)


def unique_names(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Numbers equal names in their order: ``dense, relu, dense`` become ``dense_0, relu_0, dense_1``."""
    seen: dict[str, int] = {}
    names = []
    for layer in layers:
        if not isinstance(layer.name, str) or not layer.name or "/" in layer.name:
            raise InputError("name", "a name without '/', which separates the names in a path", shown(layer.name))
        count = seen.get(layer.name, 0)
        seen[layer.name] = count + 1
        names.append(f"{layer.name}_{count}")
    return tuple(names)


def child_keys(key: jax.Array | None, names: Sequence[str]) -> Any:
    """A key for each name. It depends on the name alone, so a layer whose name stays keeps its key.

    All are derived at once: one small program to compile, and none where no layer uses its key.
    """
    if key is None or not names:
        return [None] * len(names)
    check_key(key)
    numbers = jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def child_init(name: str, layer: Layer, key: Any, in_shape: Shape) -> tuple[Params, State, Shape]:
    """Initialises one layer of a combinator: its parameters, its state and its output's shape."""
    with inside(name):
        made = layer.init(key, in_shape)
        if not isinstance(made, tuple) or len(made) != 2:
            raise InputError("init", "(params, state) to come back", type(made).__name__)
        params, state = made
        return params, state, output_shape(layer, params, state, in_shape)


def child_forward(
    name: str, layer: Layer, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None
) -> tuple[Any, State, Residuals]:
    """Runs one layer of a combinator with its own parameters and state, and marks its work with its name.

    The mark stands in the traced program (``named_scope`` for the operations, ``checkpoint_name`` for the
    output), where summaries, profiles and rematerialisation policies find it; it costs nothing at run time.
    """
    with inside(name), jax.named_scope(name):
        y, state, residuals = run(layer, params.get(name, {}), state.get(name, {}), x, train=train, key=key)
        return _marked(y, MARK + name), state, residuals


def run(
    layer: Layer, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None
) -> tuple[Any, State, Residuals]:
    """The forward pass. Of a masked sequence a layer that takes no mask gets the values, 0 where they are padding."""
    mask = x.mask if isinstance(x, Masked) and not layer.takes_mask else None
    made = layer.forward(params, state, x if mask is None else _real(mask, x.values), train=train, key=key)
    if not isinstance(made, tuple) or len(made) != 3:
        raise InputError("forward", "(y, state, residuals) to come back", type(made).__name__)
    if mask is None:
        return made
    y, state, residuals = made
    if y.shape[:2] != mask.shape:
        expected = f"outputs that keep the axes (batch, time) = {mask.shape} of the mask"
        remedy = "Reduce the time axis by a layer that knows masks: a recurrent one, attention, global pooling."
        raise InputError("x", expected, f"outputs of shape {y.shape}", remedy)
    return Masked(y, mask), state, (residuals, mask)


def run_backward(layer: Layer, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
    """The backward pass of ``run``: what stood on padding has no part in the output."""
    if not isinstance(y_bar, Masked) or layer.takes_mask:
        return layer.backward(residuals, y_bar)
    residuals, mask = residuals
    params_bar, x_bar = layer.backward(residuals, y_bar.values)
    return params_bar, Masked(None if x_bar is None else _real(mask, x_bar), None)


def child_backward(name: str, layer: Layer, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
    """The backward pass of ``child_forward``, its work marked with the layer's name and as backward."""
    with jax.named_scope(name), jax.named_scope(BACKWARD):
        return run_backward(layer, residuals, y_bar)


def _real(mask: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.where(jnp.expand_dims(mask, range(2, values.ndim)), values, jnp.zeros((), values.dtype))


def _marked(y: Any, mark: str) -> Any:
    """Marks an output, the first one where there are several."""
    first, *others = jax.tree.leaves(y)
    return jax.tree.unflatten(jax.tree.structure(y), [checkpoint_name(first, mark), *others])


def output_shape(layer: Layer, params: Params, state: State, in_shape: Any, dtype: Any = None) -> Any:
    """The shape of one example's output, without the batch axis, from tracing ``apply``; nothing is computed."""

    def apply(x):
        return jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False)[0], params, state, x)

    return shape_of(traced(apply, in_shape, dtype))


def is_concrete(*values: Any) -> bool:
    """Whether values can be looked at now: under ``jit``, ``grad`` or ``vmap`` they cannot."""
    return not any(isinstance(value, Tracer) for value in values)


def check_entries(argument: str, tree: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses parameters or state of another layer."""
    if not isinstance(tree, Mapping) or any(name not in tree for name in names):
        given = ", ".join(map(str, tree)) or "nothing" if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
        raise InputError(argument, f"entries {', '.join(names)}", given, "Use what this network's own init gave.")
    for name in names:
        if tree[name] is None:
            raise InputError(f"{argument}/{name}", "an array, or a dict of arrays", "None")


def check_shape(in_shape: Shape, expected: str) -> Shape:
    """Refuses what is no shape of at least one axis."""
    if not is_shape(in_shape) or not in_shape or min(in_shape) < 1:
        raise InputError("in_shape", expected, repr(in_shape), "It leaves out the batch axis: (784,) or (28, 28, 1).")
    return tuple(in_shape)


def check_floating(x: jax.Array, expected: str = "floating-point numbers") -> None:
    """Refuses integers where a layer computes: images as uint8 would be taken for values up to 255."""
    if not is_array(x):
        raise InputError("x", "one array", f"{len(x)} inputs" if isinstance(x, tuple) else shown(x))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError("x", expected, f"{x.dtype} of shape {x.shape}", "Convert it: images as x / 255.")


def check_key(key: Any) -> jax.Array:
    """Refuses to draw without a key, or from what is none; JAX's old keys, two numbers, are taken too."""
    remedy = "Pass key=jax.random.key(seed)."
    if key is None:
        raise InputError("key", "a key, since random numbers are drawn here", None, remedy)
    is_key = is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    is_old_key = is_array(key) and key.dtype == jnp.uint32 and key.ndim == 1
    if not is_key and not is_old_key:
        raise InputError("key", "one key", shown(key), remedy)
    return key


def check_batch_is_whole() -> None:
    """Called by layers that couple the examples of a batch: refuses where every example is taken alone."""
    try:
        jax.lax.axis_index(EXAMPLES)
    except NameError:
        return
    remedy = "Use a layer that treats examples alone (layer_norm, group_norm), or train=False."
    raise InputError("x", "a whole batch, since this layer couples its examples", "single examples", remedy)
