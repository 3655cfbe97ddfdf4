"""The layer: what a network starts as, what it computes, and its hand-derived gradient."""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.tree_util import Partial

from functional_nn.core import validation
from functional_nn.core.errors import FormulaMissing, InputError, check, inside, shown
from functional_nn.core.masked import Masked, Value, check_mask, without_padding
from functional_nn.core.shapes import Shape, Shapes, shape_of, traced
from functional_nn.core.texts import counted
from functional_nn.core.trees import PyTree, flatten, is_under, map_with_path

Params: TypeAlias = Mapping[str, PyTree]
"""Parameters: a nested dict of arrays."""

State: TypeAlias = Mapping[str, PyTree]
"""What a layer remembers between calls, such as running statistics: a nested dict of arrays."""

Residuals: TypeAlias = PyTree
"""What a forward pass keeps for the backward pass: a pytree of arrays."""

MOST_SHOWN_OF_A_NETWORK, MOST_NESTED = 80, 2
"""How many characters, and how many levels of layers inside layers, the ``repr`` of a network shows."""


Forward: TypeAlias = Callable[..., tuple[Value, State, Residuals]]
"""``forward(params, state, x, *, train, key=None) -> (y, state, residuals)``."""

Backward: TypeAlias = Callable[[Residuals, Value], tuple[Params, Value]]
"""``backward(residuals, y_bar) -> (params_bar, x_bar)``."""


class Layer(NamedTuple):
    """What a network starts as, what it computes, and how its gradient flows back.

    Args:
        name: used in parameter trees and in error messages.
        init: ``init(key, in_shape) -> (params, state)``; ``in_shape`` leaves out the batch axis.
        forward: ``forward(params, state, x, *, train, key=None) -> (y, state, residuals)``; ``x`` has one
            leading batch axis, and ``residuals``, a pytree of arrays, is what the backward pass needs.
        backward: ``backward(residuals, y_bar) -> (params_bar, x_bar)``, derived by hand from the formula. It
            never calls JAX's automatic differentiation, so that it can be compared with it. Without one, ``apply``
            and ``jax.grad`` work as always, and ``vjp`` raises ``FormulaMissing``.
        takes_mask: whether ``forward`` takes ``Masked`` sequences; combinators give other layers the values alone.
        layers: the layers inside a combinator with their names, ``(("dense_0", layer), …)``, which ``repr`` shows.
        joined_by_jax: whether JAX differentiates what stands between the layers inside, as in ``compose``.
        faster_by_formula: whether networks with this layer were measured to train faster by the formula than by
            ``jax.grad``, as with convolutions, recurrent layers and attention; see ``is_faster_by_formula``.

    >>> import functional_nn as fnn, jax.numpy as jnp, jax
    >>> layer = fnn.dense(2)
    >>> params, state = layer.init(jax.random.key(0), (3,))
    >>> y, state = layer.apply(params, state, jnp.ones((5, 3)), train=False)
    >>> y.shape
    (5, 2)
    >>> fnn.chain(layer, fnn.relu, fnn.residual(fnn.dense(2)))
    chain(dense_0, relu_0, residual_0(dense_0))
    """

    name: str
    init: Callable[[Any, Shape], tuple[Params, State]]
    forward: Forward
    backward: Backward | None = None
    takes_mask: bool = False
    layers: tuple[tuple[str, Layer], ...] = ()
    joined_by_jax: bool = False
    faster_by_formula: bool = False

    def __repr__(self) -> str:
        text = _structure(self, self.name, MOST_NESTED) if self.layers else f"Layer({self.name!r})"
        return text if len(text) <= MOST_SHOWN_OF_A_NETWORK else f"{text[: MOST_SHOWN_OF_A_NETWORK - 1]}…"

    def __call__(self, *arguments: object, **options: object) -> None:
        """Raises a TypeError that says how a layer is called: a layer holds no parameters."""
        raise TypeError(
            f"A layer holds no parameters, so it is not called itself. Write params, state = {self.name}.init(key, "
            f"in_shape), then y, state = {self.name}.apply(params, state, x, train=False)."
        )

    def apply(
        self, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Value, State]:
        """The forward pass without its residuals: ``(y, state)``. ``jax.grad`` differentiates it."""
        params, state, x = _check_call(self, params, state, x, train, key)
        y, state, _ = checked_forward(self, params, state, x, train=train, key=key)
        return y, state

    def vjp(
        self, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Value, State, Partial]:
        """The forward pass and the hand-derived pullback: ``(y, state, pullback)``, in the shape of ``jax.vjp``.

        ``pullback(y_bar)`` gives ``(params_bar, x_bar)``, each cotangent in the type of what it belongs to. It is a
        pytree, so it passes through ``jit``, ``vmap`` and ``scan`` like any value.
        """
        if self.backward is None:
            with inside(self.name):
                _no_formula((), None)
        params, state, x = _check_call(self, params, state, x, train, key)
        y, state, residuals = checked_forward(self, params, state, x, train=train, key=key)
        return y, state, Partial(Pullback(backward_of(self), _shapes(y), types_of(params, x)), residuals)


class Pullback(NamedTuple):
    """A layer's backward pass. It requires a cotangent of the output's shape.

    Args:
        backward: the backward pass of the layer.
        shapes: the shapes of the output.
        types: the shapes and types of parameters and input. The cotangents are cast to these types.
    """

    backward: Backward
    shapes: tuple[str, ...]
    types: Types

    def __call__(self, residuals: Residuals, y_bar: Value) -> tuple[Params, Value]:
        if isinstance(y_bar, Masked):
            y_bar = Masked(y_bar.values, None)  # a mask has no gradient, whatever is given for it
        check("y_bar", y_bar, f"what the output is, of shape {', '.join(self.shapes)}", _shapes(y_bar) == self.shapes)
        params_bar, x_bar = cotangents_of(self.backward(residuals, validation.tree_of_jax("y_bar", y_bar)), self.types)
        return cast_cotangents(self.types, params_bar, x_bar)


def backward_of(layer: Layer) -> Backward:
    """A layer's backward pass. If it has none, a function that raises ``FormulaMissing``."""
    return layer.backward or _no_formula


def _no_formula(residuals: Residuals, y_bar: Value) -> tuple[Params, Value]:
    raise FormulaMissing(
        "this layer has no hand-derived backward pass. Use jax.grad of apply, or give one: "
        "functional_nn.Layer(name, init, forward, backward), or for a plain function its derivative: "
        "functional_nn.Activation(name, function, derivative)."
    )


def has_formula(layer: Layer) -> bool:
    """Whether a layer and all layers inside it have a backward pass."""
    return layer.backward is not None and all(has_formula(inner) for _, inner in layer.layers)


def is_faster_by_formula(layer: Layer) -> bool:
    """Whether a network trains by its formula with ``gradient="auto"``: it has one, and a layer in it is faster by it.

    >>> import functional_nn as fnn
    >>> is_faster_by_formula(fnn.chain(fnn.conv(3, 3), fnn.relu)), is_faster_by_formula(fnn.dense(3))
    (True, False)
    """

    def is_faster(layer: Layer) -> bool:
        return layer.faster_by_formula or any(is_faster(inner) for _, inner in layer.layers)

    return is_faster(layer) and has_formula(layer)


def checked_forward(
    layer: Layer, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None
) -> tuple[Value, State, Residuals]:
    """A layer's forward pass. Raises an InputError unless it returns three values."""
    result = layer.forward(params, state, x, train=train, key=key)
    remedy = "residuals are the arrays that backward needs, and () if it needs none."
    return _returned("forward", result, ("y", "state", "residuals"), remedy)


def checked_init(layer: Layer, key: jax.Array | None, in_shape: Shape) -> tuple[Params, State]:
    """A layer's initial parameters and state. Raises an InputError unless ``init`` returns these two."""
    remedy = "A layer without state returns (params, {})."
    return _returned("init", layer.init(key, in_shape), ("params", "state"), remedy)


def _returned(argument: str, result: object, names: tuple[str, ...], remedy: str = "") -> Any:
    """What a user's function returned, which has to be a tuple of these values."""
    if not isinstance(result, tuple) or len(result) != len(names):
        given = shown(result)
        if isinstance(result, tuple):
            given = counted(len(result), "value")
        raise InputError(argument, f"({', '.join(names)}) to come back", given, remedy)
    return result


def _structure(layer: Layer, name: str, levels: int) -> str:
    """A name with the names of the layers inside: ``chain(dense_0, relu_0)``. The last level shows "…" instead."""
    if not layer.layers:
        return name
    if not levels:
        return f"{name}(…)"
    inner = (_structure(child, child_name, levels - 1) for child_name, child in layer.layers)
    return f"{name}({', '.join(inner)})"


def _shapes(y: Value) -> tuple[str, ...]:
    """The path and the shape of each array in an output or its cotangent, except for masks, which are booleans."""
    texts = []
    for path, leaf in flatten(y).items():
        is_array = validation.is_array(leaf) and validation.is_numeric(leaf)
        if not is_array or leaf.dtype != bool:
            texts.append(f"{path} {leaf.shape if is_array else shown(leaf)}".lstrip())
    return tuple(texts)


def _check_call(
    layer: Layer, params: Params, state: State, x: Value, train: bool, key: jax.Array | None
) -> tuple[Params, State, Value]:
    """Checks what every layer requires of its arguments; gives back params, state and x as arrays of JAX."""
    validation.check_trees(params, state)
    validation.check_arrays("x", x)
    takes_x = layer.takes_mask or not isinstance(x, Masked)
    remedy = "Put the layer into a chain, which handles the mask."
    check("x", x, f"one array, since {layer.name} takes no mask", takes_x, remedy)
    validation.check_flag("train", train, "Under jit it is static: jax.jit(…, static_argnames='train').")
    if key is not None:
        validation.check_key(key)
    of_jax = validation.tree_of_jax
    return of_jax("params", params), of_jax("state", state), of_jax("x", x)


def stateless(
    name: str,
    forward: Callable[[jax.Array], tuple[jax.Array, Residuals]],
    backward: Callable[[Residuals, jax.Array], jax.Array],
) -> Layer:
    """A layer without parameters, state or randomness: ``x -> (y, residuals)`` and ``residuals, y_bar -> x_bar``."""

    def layer_forward(params, state, x, *, train, key=None):
        y, residuals = forward(x)
        return y, state, residuals

    def layer_backward(residuals, y_bar):
        return {}, backward(residuals, y_bar)

    return Layer(name, lambda key, in_shape: ({}, {}), layer_forward, layer_backward)


def held_arrays(value: object) -> list[jax.Array]:
    """The arrays inside a callable object, such as an Equinox module: in its pytree or in its attributes.

    Functions, methods and classes hold none. ``functools.partial`` counts as a function: who writes one chooses what is
    constant.
    """
    if isinstance(value, FunctionType | MethodType | BuiltinFunctionType | functools.partial | type):
        return []
    leaves = jax.tree.leaves(value)
    if any(leaf is value for leaf in leaves):  # not a pytree, so its attributes are looked at
        leaves = jax.tree.leaves(getattr(value, "__dict__", {}))
    return [leaf for leaf in leaves if validation.is_array(leaf)]


def as_layer(value: Any) -> Layer:
    """A layer as it is, an activation as a layer, and any function ``x -> y`` as a layer without a formula."""
    if isinstance(value, Layer):
        return value
    if hasattr(value, "as_layer"):  # an activation
        return value.as_layer()
    name = getattr(value, "__name__", "function").strip("<>")
    given, remedy = None, ""
    if validation.is_of_pytorch(value):
        given = f"a PyTorch module, {type(value).__name__}"
        remedy = (
            "Build the network from the layers of functional_nn. functional_nn.exchange.from_torch(net, module, "
            "in_shape) takes over the module's parameters: docs/how_to/coming_from_pytorch.md."
        )
    elif not validation.is_function(value):
        given, remedy = repr(value), "Write chain(*layers)." if isinstance(value, list | tuple) else ""
        if isinstance(getattr(value, "layer", None), Layer):
            remedy = "Write model.layer."
    elif arrays := held_arrays(value):
        given = f"a {type(value).__name__}, which holds {counted(len(arrays), 'array')}"
        remedy = (
            "They would be constants that training does not change. Write functional_nn.exchange.layer_of(…) for a "
            "module of Flax or Equinox, and a Layer for any other object: docs/how_to/adding_a_layer.md, section "
            "Modules of other libraries."
        )
    elif (getattr(value, "__module__", "") or "").startswith("functional_nn.layers"):
        given, remedy = f"the function {name}, which makes one", f"Write {name}(…)."
    if given is not None:
        raise InputError("layers", "layers, activations or functions of one array", given, remedy)
    function = cast(Callable[[jax.Array], jax.Array], value)

    def forward(params, state, x, *, train, key=None):
        y = function(x)
        with inside(name):
            validation.check_arrays("y", y)
        return y, state, ()

    return Layer(name, lambda key, in_shape: ({}, {}), forward)


Types: TypeAlias = tuple[tuple[str, jax.ShapeDtypeStruct], ...]
"""The shapes and types of all arrays in parameters and in an input, by path."""


def types_of(params: Params, x: Value) -> Types:
    """The shapes and types in parameters and in the input that belongs to them."""
    leaves = flatten({"params_bar": params, "x_bar": x}).items()
    return tuple((path, jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))) for path, leaf in leaves)


def cotangents_of(returned: object, types: Types) -> tuple[PyTree, PyTree]:
    """``(params_bar, x_bar)``, as a backward pass returned it. None, for an array or a tree, stands for no gradient.

    Raises:
        InputError: if it is no pair, or a pair in the other order, or if a cotangent is missing or has another shape.
    """
    pair = tuple(returned) if isinstance(returned, list) else returned
    params_bar, x_bar = _returned("backward", pair, ("params_bar", "x_bar"))
    if params_bar is not None and not isinstance(params_bar, Mapping):
        remedy = "params_bar is a dict like params, and {} for a layer without parameters."
        given = "(x_bar, params_bar)" if isinstance(x_bar, Mapping) else f"{shown(params_bar)} as params_bar"
        raise InputError("backward", "(params_bar, x_bar) to come back", given, remedy)
    leaves = leaves_and_none({"params_bar": params_bar, "x_bar": x_bar})
    found = {path: None if leaf is None else jnp.shape(leaf) for path, leaf in leaves.items()}
    like = {path: kind.shape for path, kind in types}
    missing = [path for path in like if not any(is_under(path, other) for other in found)]
    others = [path for path in found if found[path] is not None and path not in like]
    if missing or others:
        wrong = f"none for {missing[0]}" if missing else f"also {others[0]}"
        raise InputError("backward", f"cotangents {', '.join(like)}", wrong, "None stands for no gradient.")
    for path, shape in found.items():
        if shape is not None and shape != like[path]:
            raise cotangent_error(f"backward: {path}", shape, like[path])
    return params_bar, x_bar


def cast_cotangents(types: Types, params_bar: PyTree, x_bar: PyTree) -> tuple[PyTree, PyTree]:
    """The cotangents in the types of what they belong to, as ``jax.vjp`` gives them.

    If parameters and input have different types, the products in a formula have the wider one.
    """
    dtypes = {path: kind.dtype for path, kind in types}

    def cast(path, bar):
        dtype = dtypes.get(path)
        if dtype is None or not all(jnp.issubdtype(kind, jnp.floating) for kind in (dtype, jnp.result_type(bar))):
            return bar
        return bar if jnp.result_type(bar) == dtype else jnp.asarray(bar, dtype)

    bars = map_with_path(cast, {"params_bar": params_bar, "x_bar": x_bar})
    return bars["params_bar"], bars["x_bar"]


def leaves_and_none(tree: PyTree) -> dict[str, PyTree]:
    """Each array by its path, and None where it stands in place of an array or a tree."""
    return flatten(tree, lambda node: node is None)


def cotangent_error(argument: str, given: Shape, expected: Shape) -> InputError:
    """The error for a cotangent of another shape than that of what it belongs to, with its likely cause.

    >>> print(cotangent_error("weight", (5, 3), (3, 5)))
    weight: expected a cotangent of shape (3, 5), got (5, 3). Transpose it.
    >>> print(cotangent_error("bias", (8, 5), (5,)))
    bias: expected a cotangent of shape (5,), got (8, 5). Sum over the axes along which it was broadcast.
    """
    remedy = "A cotangent has the shape of what it belongs to."
    with suppress(ValueError):
        if np.broadcast_shapes(expected, given) == given:
            remedy = "Sum over the axes along which it was broadcast."
    if given == expected[::-1]:
        remedy = "Transpose it."
    return InputError(argument, f"a cotangent of shape {expected}", given, remedy)


@dataclass(frozen=True)
class TwoForwardPasses:
    """One function in two versions that differ in speed and rounding only.

    Calling it calls ``differentiable``. ``with_hand_vjp`` takes ``by_hand`` instead, since there JAX does not
    differentiate the code, and what is fastest to compute may be slow to differentiate.
    """

    differentiable: Forward
    by_hand: Forward

    def __call__(self, *arguments: Any, **options: Any) -> tuple[Value, State, Residuals]:
        return self.differentiable(*arguments, **options)


def for_hand_vjp(layer: Layer) -> Layer:
    """The layer with the version of its forward pass that JAX does not differentiate, where it has one."""
    if isinstance(layer.forward, TwoForwardPasses):
        return layer._replace(forward=layer.forward.by_hand)
    return layer


def composed_forward(make_forward: Callable[..., Forward], layers: tuple[Layer, ...]) -> Forward:
    """A combinator's forward pass, ``make_forward(*layers)``, in two versions where a layer inside has two."""
    by_hand = tuple(for_hand_vjp(layer) for layer in layers)
    if all(one is other for one, other in zip(layers, by_hand, strict=True)):
        return make_forward(*layers)
    return TwoForwardPasses(make_forward(*layers), make_forward(*by_hand))


Result = TypeVar("Result")


def with_key_if_needed(function: Callable[[jax.Array | None], Result]) -> Result:
    """``function(None)``; if a layer draws random numbers in evaluation, so that it needs a key, ``function(key)``."""
    try:
        return function(None)
    except InputError as error:
        if error.argument != "key":
            raise
        return function(jax.random.key(0))


def output_shape(layer: Layer, params: Params, state: State, in_shape: Shapes) -> Shapes:
    """The shape of one example's output, without the batch axis. ``apply`` is traced, and nothing is computed."""

    def apply(x):
        return with_key_if_needed(
            lambda key: jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False, key=key)[0], params, state, x)
        )

    return shape_of(traced(apply, in_shape))


MARK = "functional_nn:"
"""The prefix of the marks that combinators put on layers' outputs in traced programs; the layer's name follows."""

BACKWARD = "backward"
"""The name scope, inside a layer's own scope, of its hand-derived backward pass."""


def unique_names(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Names with numbers, so that equal names differ: ``dense, relu, dense`` become ``dense_0, relu_0, dense_1``."""
    counts: Counter[str] = Counter()
    names = []
    for layer in layers:
        check_name(layer.name)
        names.append(f"{layer.name}_{counts[layer.name]}")
        counts[layer.name] += 1
    return tuple(names)


def named_layers(layers: Sequence[object], named: Mapping[str, object]) -> dict[str, Layer]:
    """The layers inside a combinator by name: first those that get a kind and a number as their name, then the named.

    >>> import functional_nn as fnn
    >>> list(named_layers([fnn.dense(3), fnn.relu], {"head": fnn.dense(2)}))
    ['dense_0', 'relu_0', 'head']
    """
    unnamed = tuple(as_layer(layer) for layer in layers)
    members = dict(zip(unique_names(unnamed), unnamed, strict=True))
    for name, layer in named.items():
        check_name(name)
        if name in members:
            raise InputError("layers", "names that differ", f"{name} twice", "Choose another name.")
        members[name] = as_layer(layer)
    return members


def check_name(name: object) -> None:
    """Requires a name that can be a part of a path and of a scope in a traced program."""
    expected = f"a name without '/', which separates the names in a path, and not {BACKWARD!r}"
    check("name", name, expected, isinstance(name, str) and name not in ("", BACKWARD) and "/" not in name)


def put_entries(tree: dict[str, Params], name: str, entries: Params) -> None:
    """Puts a layer's parameters, state or cotangents into a combinator's tree, if it has any."""
    if entries:
        tree[name] = entries


def check_no_other_names(names: Sequence[str], **trees: Params) -> None:
    """Requires that parameters and state hold no entries of other layers."""
    for argument, tree in trees.items():
        if unknown := set(tree) - set(names):
            expected = f"entries for the layers {', '.join(names)}"
            given = f"also {', '.join(sorted(unknown))}"
            raise InputError(argument, expected, given, "Use the ones that this network's init returned.")


def child_keys(key: jax.Array | None, names: Sequence[str]) -> jax.Array | list[None]:
    """A random key for each name. It depends on the name alone, so a layer keeps its key when others are added.

    All keys are derived at once: one small program to compile, and none where no layer uses its key.
    """
    if key is None or not names:
        return [None] * len(names)
    validation.check_key(key)
    # A checksum of the name, since Python's ``hash`` of a text differs from process to process.
    numbers = jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def child_init(name: str, layer: Layer, key: jax.Array | None, in_shape: Shape) -> tuple[Params, State, Shape]:
    """Initializes one layer of a combinator: its parameters, its state and its output shape."""
    with inside(name):
        params, state = checked_init(layer, key, in_shape)
        return params, state, output_shape(layer, params, state, in_shape)


def child_forward(
    name: str, layer: Layer, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None
) -> tuple[Value, State, Residuals]:
    """The forward pass of one layer of a combinator, with its own parameters and state, marked with its name.

    The mark is in the traced program (``named_scope`` for the operations, ``checkpoint_name`` for the output), for
    summaries, profiles and rematerialization policies. It costs nothing at run time.
    """
    own_params, own_state = params.get(name, {}), state.get(name, {})
    with inside(name), jax.named_scope(name):
        y, new_state, residuals = forward_with_mask(layer, own_params, own_state, x, train=train, key=key)
        # The name of the child, as a mark in traced programs, is on the first array of its output.
        first, *others = jax.tree.leaves(y)
        y = jax.tree.unflatten(jax.tree.structure(y), [checkpoint_name(first, MARK + name), *others])
        return y, new_state, residuals


def child_backward(name: str, layer: Layer, residuals: Residuals, y_bar: Value) -> tuple[Params, Value]:
    """The backward pass of ``child_forward``, marked with the layer's name and as backward."""
    with inside(name), jax.named_scope(name), jax.named_scope(BACKWARD):
        return backward_with_mask(layer, residuals, y_bar)


def forward_with_mask(
    layer: Layer, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None
) -> tuple[Value, State, Residuals]:
    """The forward pass of any layer, also of a masked sequence.

    A layer that takes no mask gets the values alone, with 0 in place of padding. The mask is attached to its output.
    """
    if not isinstance(x, Masked) or layer.takes_mask:
        return checked_forward(layer, params, state, x, train=train, key=key)
    check_mask(x)
    y, state, residuals = checked_forward(layer, params, state, without_padding(x), train=train, key=key)
    expected = f"one array that keeps the axes (batch, time) = {x.mask.shape} of the mask"
    remedy = "Reduce the time axis by a layer that takes masks, such as a recurrent one, attention or global pooling."
    check("output", y, expected, validation.is_array(y) and y.shape[:2] == x.mask.shape, remedy)
    return Masked(y, x.mask), state, (residuals, x.mask)


def backward_with_mask(layer: Layer, residuals: Residuals, y_bar: Value) -> tuple[Params, Value]:
    """The backward pass of ``forward_with_mask``. Padding did not reach the output, so its cotangent is 0."""
    if not isinstance(y_bar, Masked) or layer.takes_mask:
        return backward_of(layer)(residuals, y_bar)
    residuals, mask = residuals
    params_bar, x_bar = backward_of(layer)(residuals, y_bar.values)
    return params_bar, Masked(None if x_bar is None else without_padding(Masked(x_bar, mask)), None)
