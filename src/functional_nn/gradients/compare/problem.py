"""The common form of all comparisons: a function and its pullback, on lists of arrays; random parameters and inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from functional_nn.core.errors import InputError, inside, shortened, shown
from functional_nn.core.functions import argument_names, path_name
from functional_nn.core.layer import (
    Layer,
    Params,
    Residuals,
    State,
    backward_of,
    checked_forward,
    checked_init,
    cotangent_error,
    cotangents_of,
    types_of,
)
from functional_nn.core.shapes import Shape, stand_in
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_function
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, evaluate
from functional_nn.jaxprs.walk import fresh, inner_programs
from functional_nn.layers.combinators.hand_vjp import ByFormula

EXAMPLES = 3
"""The least number of examples in the batch for comparing a layer. Each example makes the Jacobians larger."""

Array: TypeAlias = jax.Array | np.ndarray
Leaves: TypeAlias = Sequence[Array]
"""The floating-point arrays of a pytree, in order."""
Function: TypeAlias = Callable[[Leaves], Leaves]
Pullback: TypeAlias = Callable[[Leaves, Leaves], Leaves]


class Problem(NamedTuple):
    """A function with its hand-derived pullback.

    Args:
        names: the names of the arrays with respect to which the function is differentiated.
        leaves: these arrays.
        function: ``function(leaves) -> outputs``, both lists of floating-point arrays.
        pullback: ``pullback(leaves, y_bars) -> bars``: it takes a cotangent of each output, and returns one of each
            leaf.
        residuals: ``residuals(leaves)``, what a layer's forward pass keeps for its backward pass; None for a function.
        backward: ``backward(residuals, y_bars) -> bars``, the layer's backward pass; None for a function.
        domain: ``domain(leaves)`` moves any point to one where the pullback has to be right; None if it is everywhere.
    """

    names: list[str]
    leaves: Leaves
    function: Function
    pullback: Pullback
    residuals: Callable[[Leaves], Residuals] | None = None
    backward: Callable[[Residuals, Leaves], Leaves] | None = None
    domain: Function | None = None


class DifferentiableLeaves(NamedTuple):
    """The floating-point leaves of a pytree with their paths, and the functions that put leaves back into the tree.

    A complex array counts as two leaves: its real and its imaginary part.

    Args:
        names: the paths of the leaves.
        leaves: the floating-point arrays.
        join: ``join(leaves)`` returns the tree with other floating-point leaves.
        join_cotangents: ``join_cotangents(leaves)`` returns a tree of cotangents. Values without a
            derivative (integers, masks, keys) become None. The cotangent of a complex z = a + ib is ā - i b̄, as in JAX.
    """

    names: list[str]
    leaves: list[Array]
    join: Callable[[Leaves], PyTree]
    join_cotangents: Callable[[Leaves], PyTree]


def differentiable_leaves(tree: PyTree, names: Sequence[str] = ()) -> DifferentiableLeaves:
    """Takes the leaves of a pytree that have a derivative.

    Args:
        tree: the pytree.
        names: names for the first level, if the tree is a tuple.

    >>> parts = differentiable_leaves(({"weight": jnp.ones(2)}, jnp.arange(3)), ("params", "tokens"))
    >>> parts.names, parts.join_cotangents([7.0])
    (['params/weight'], ({'weight': 7.0}, None))
    """
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    found_names, found_leaves = [], []
    for path, leaf in paths_and_leaves:
        dtype, name = jnp.result_type(leaf), path_name(path, names)
        if jnp.issubdtype(dtype, jnp.floating):
            found_names.append(name)
            found_leaves.append(leaf)
        elif jnp.issubdtype(dtype, jnp.complexfloating):
            found_names += [f"{name} (real part)".strip(), f"{name} (imaginary part)".strip()]
            is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
            found_leaves += [jax.eval_shape(jnp.real, leaf)] * 2 if is_shape else [leaf.real, leaf.imag]

    def joined(leaves: Leaves, imaginary: complex, *, keep_others: bool) -> PyTree:
        remaining = iter(leaves)
        parts = []
        for _, leaf in paths_and_leaves:
            dtype = jnp.result_type(leaf)
            if jnp.issubdtype(dtype, jnp.floating):
                parts.append(next(remaining))
            elif jnp.issubdtype(dtype, jnp.complexfloating):
                parts.append(next(remaining) + imaginary * next(remaining))
            else:
                parts.append(leaf if keep_others else None)
        return jax.tree.unflatten(structure, parts)

    return DifferentiableLeaves(
        found_names,
        found_leaves,
        partial(joined, imaginary=1j, keep_others=True),
        partial(joined, imaginary=-1j, keep_others=False),
    )


def cast(tree: PyTree, dtype: str | np.dtype | type[np.generic]) -> PyTree:
    """Converts floating-point leaves to another type, and complex ones to the complex type of this precision.

    They become NumPy arrays: float64 then works without x64 mode.
    """

    complex_dtype = np.result_type(dtype, np.complex64)

    def convert(leaf: Array) -> Array:
        if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, np.generic):  # a key
            return leaf
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            return array.astype(complex_dtype)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(convert, tree)


def check_finite(argument: str, leaves: Leaves) -> None:
    """Raises InputError if a number is not finite."""
    for leaf in map(np.asarray, leaves):
        if not np.isfinite(leaf).all():
            raise InputError(argument, "finite numbers", f"NaN or infinity in {shown(leaf)}")


def function_problem(
    function: Callable[..., PyTree],
    hand_vjp: Callable[..., PyTree],
    arguments: Sequence[PyTree],
    domain: Callable[..., PyTree] | None = None,
) -> Problem:
    """Makes the problem of ``function(*arguments) -> y`` and ``hand_vjp(*arguments, y_bar) -> bars``.

    ``domain(*arguments)`` returns the arguments of a point at which ``hand_vjp`` has to be right.
    """
    names = argument_names(function, len(arguments))
    check_function("hand_vjp", hand_vjp, "a function", ", ".join([*names, "y_bar"]))
    inputs = differentiable_leaves(tuple(arguments), names)

    def inside_domain(domain: Callable[..., PyTree], leaves: Leaves) -> Leaves:
        moved = differentiable_leaves(one_of_each(domain(*inputs.join(leaves)), names, "domain", "arguments")).leaves
        expected, given = ([np.shape(leaf) for leaf in point] for point in (leaves, moved))
        if expected != given:
            raise InputError("domain", f"a function that returns arguments of the shapes {expected}", given)
        return [np.asarray(leaf, np.float64) for leaf in moved]

    def outputs(leaves: Leaves) -> Leaves:
        with in_plain_words("function"):
            y = differentiable_leaves(function(*inputs.join(leaves))).leaves
            return list(map(jnp.asarray, y))  # an output may be a number of Python

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        joined = inputs.join(leaves)
        # Only the structure of y is needed here, so y is not computed.
        with in_plain_words("function"):
            y = differentiable_leaves(jax.eval_shape(function, *joined))
        with in_plain_words("hand_vjp"):
            bars = hand_vjp(*joined, y.join_cotangents(y_bars))
        return bars_of(one_of_each(bars, names, "hand_vjp"), inputs)

    return Problem(
        inputs.names, inputs.leaves, outputs, pullback, domain=partial(inside_domain, domain) if domain else None
    )


def pullback_of_number(gradient: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Makes the pullback of a function that returns one number: the gradient times the number's cotangent."""

    def pullback(*arguments_and_bar: PyTree) -> PyTree:
        *arguments, y_bar = arguments_and_bar
        return jax.tree.map(lambda bar: bar * y_bar.astype(jnp.result_type(bar)), gradient(*arguments))

    return pullback


def one_of_each(values: PyTree, names: Sequence[str], argument: str, what: str = "cotangents") -> tuple[PyTree, ...]:
    """What a function of the user returned, such as cotangents, as a tuple with one for each argument.

    For a single argument, it may return the cotangent itself instead of a tuple.

    Args:
        values: what it returned.
        names: the names of the arguments.
        argument: the name of the function, for the error.
        what: what it has to return, for the error.
    """
    if len(names) == 1 and not (type(values) is tuple and len(values) == 1):
        return (values,)
    if type(values) is not tuple or len(values) != len(names):
        expected = f"a tuple of {len(names)} {what} ({', '.join(names)})"
        given = f"a {type(values).__name__} of {len(values)}" if isinstance(values, list | tuple) else shown(values)
        raise InputError(argument, expected, given)
    return values


@contextmanager
def in_plain_words(argument: str) -> Iterator[None]:
    """Says in plain words that a function of the user cannot be traced, or keeps a traced value for a later call."""
    try:
        yield
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        remedy = "Use jax.numpy in place of numpy and math, and jnp.where in place of if."
        given = "one that needs the values of its arguments"
        raise InputError(argument, "a function that JAX can trace", given, remedy) from error
    except jax.errors.UnexpectedTracerError as error:
        given = "one that uses a value of an earlier call, as from a cache"
        raise InputError(argument, "a function of its arguments alone", given, IMPURE) from error


IMPURE = (
    "Does it read a cache, a counter or random numbers outside of its arguments? Compute in it all that it needs, or "
    "pass it as an argument. A wrong rule of custom_vmap shows in the same way."
)


def bars_of(bars: PyTree, inputs: DifferentiableLeaves, argument: str = "hand_vjp") -> Leaves:
    """Returns the leaves of a pytree of cotangents, and checks that it has the inputs' structure, kinds and shapes."""
    like = inputs.join_cotangents(inputs.leaves)
    expected, given = jax.tree.structure(like), jax.tree.structure(bars)
    if expected != given:
        remedy = "Give a cotangent for each argument, in its structure; None for what has no derivative."
        others = jax.tree.leaves(inputs.join(inputs.leaves))
        if integers := [leaf for leaf in others if jnp.issubdtype(jnp.result_type(leaf), jnp.integer)]:
            remedy += f" Integers, such as {shown(integers[0])}, have none: write 1.0, not 1, for what has one."
        wanted, found = (str(tree).removeprefix("PyTreeDef(").removesuffix(")") for tree in (expected, given))
        raise InputError(argument, f"cotangents of structure {wanted}", found, remedy)
    leaves = []
    for bar, primal in zip(jax.tree.leaves(bars), jax.tree.leaves(like), strict=True):
        dtype, is_complex = jnp.result_type(bar), jnp.issubdtype(jnp.result_type(primal), jnp.complexfloating)
        if not jnp.issubdtype(dtype, jnp.complexfloating if is_complex else jnp.floating):
            kind = "complex" if is_complex else "real floating-point"
            remedy = "The cotangent of a real argument is real, that of a complex one is complex."
            name = inputs.names[len(leaves)]
            raise InputError(f"{argument}: {name}", f"a cotangent of {kind} numbers", dtype, remedy)
        # The cotangent of a + ib is ā - i b̄.
        leaves += [jnp.real(bar), -jnp.imag(bar)] if is_complex else [bar]
    for name, bar, leaf in zip(inputs.names, leaves, inputs.leaves, strict=True):
        if jnp.shape(bar) != jnp.shape(leaf):
            raise cotangent_error(f"{argument}: {name}", jnp.shape(bar), jnp.shape(leaf))
    return leaves


def layer_problem(
    layer: Layer, params: Params, state: State, x: PyTree, *, train: bool, key: jax.Array, dtype: str
) -> Problem:
    """Makes the problem of a layer: its output as a function of its parameters and its input.

    Args:
        layer: the layer.
        params: its parameters.
        state: its state.
        x: its input.
        train: whether the layer runs in training mode.
        key: for layers that draw random numbers.
        dtype: the type that the parameters and the input are converted to. The state gets at least float32.
    """
    params, x = cast((params, x), dtype)
    state = cast(state, np.float64 if dtype == "float64" else np.float32)
    if isinstance(layer.forward, ByFormula):
        # Its residuals count as constants, so a second derivative needs those of the layer inside.
        layer = layer.forward.layer
    inputs = differentiable_leaves((params, x), ("", "x"))
    names = [name.removeprefix("/") for name in inputs.names]

    def outputs(leaves: Leaves) -> Leaves:
        params, x = inputs.join(leaves)
        return differentiable_leaves(layer.apply(params, state, x, train=train, key=key)[0]).leaves

    def forward(leaves: Leaves) -> tuple[PyTree, Residuals]:
        params, x = inputs.join(leaves)
        with in_plain_words(f"{layer.name}: forward"):
            y, _, residuals = checked_forward(layer, params, state, x, train=train, key=key)
        return y, residuals

    y_shape, _ = jax.eval_shape(forward, inputs.leaves)

    def backward(residuals: Residuals, y_bars: Leaves) -> Leaves:
        y_bar = differentiable_leaves(y_shape).join_cotangents(y_bars)
        try:
            with in_plain_words(f"{layer.name}: backward"):
                returned = backward_of(layer)(residuals, y_bar)
        except (TypeError, ValueError, IndexError) as error:
            # A layer inside got what another one returned. The message of its operation does not say so.
            if isinstance(error, InputError | jax.errors.JAXTypeError) or not layer.layers:
                raise
            given = f"{type(error).__name__}: {shortened(error)}"
            remedy = "Check each of its layers alone: one of them may return a cotangent of a wrong shape."
            raise InputError(f"{layer.name}: backward", "one that runs", given, remedy) from error
        with inside(layer.name):
            return bars_of(cotangents_of(returned, types_of(params, x)), inputs, "backward")

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        return backward(forward(leaves)[1], y_bars)

    return Problem(names, inputs.leaves, outputs, pullback, lambda leaves: forward(leaves)[1], backward)


def draw_parameters(layer: Layer, in_shape: Shape, random: np.random.Generator) -> tuple[Params, State]:
    """Draws all parameters, including biases, from a normal distribution, and a positive state.

    A layer's own ``init`` starts many parameters at 0 or 1, where errors in a formula do not show.
    """
    shapes = jax.eval_shape(lambda key: checked_init(layer, key, in_shape), jax.random.key(0))
    params, state = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape).astype(leaf.dtype)), shapes)
    return params, jax.tree.map(lambda leaf: (jnp.abs(leaf) + 0.5).astype(leaf.dtype), state)


def number_of_examples(in_shape: Shape) -> int:
    """The size of the batch: the smallest from ``EXAMPLES`` on that is not the length of an axis of ``in_shape``.

    If lengths are equal, a product with a forgotten transposition may have a legal shape.

    >>> number_of_examples((5,)), number_of_examples((3, 4))
    (3, 5)
    """
    lengths = {length for example in jax.tree.leaves(stand_in(in_shape)) for length in example.shape[1:]}
    return next(count for count in itertools.count(EXAMPLES) if count not in lengths)


def draw_input(in_shape: Shape, random: np.random.Generator, batch: int) -> PyTree:
    """Draws an input from a normal distribution: one array, or a tuple of arrays for several shapes."""
    return jax.tree.map(lambda example: random.normal(size=(batch, *example.shape[1:])), stand_in(in_shape))


def with_stopped_as_constants(function: Function, leaves: Leaves) -> Function:
    """The function whose derivative at a point is the one that ``stop_gradient`` defines there.

    Every result of ``jax.lax.stop_gradient`` is replaced by its value at the point. It no longer changes with the
    input: x + stop_gradient(round(x) - x) becomes x + constant, with derivative 1.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.

    Raises:
        InputError: ``stop_gradient`` is used inside a loop or a branch, where it has several values.

    >>> with jax.enable_x64(True):
    ...     rounded = lambda leaves: [leaves[0] + jax.lax.stop_gradient(jnp.round(leaves[0]) - leaves[0])]
    ...     frozen = with_stopped_as_constants(rounded, [jnp.array(2.75)])
    ...     print(frozen([jnp.array(2.75)])[0], frozen([jnp.array(2.875)])[0])
    3.0 3.125
    """
    program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
    stopped: dict[EquationPath, list[Value]] = {}

    def hook(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
        if path in stopped:
            return stopped[path]
        results = compute(operands)
        if equation.primitive.name == "stop_gradient":
            if isinstance(results[0], Tracer):
                remedy = "Write the step as a function of its own and check that."
                raise InputError("stop_gradient_as_constant", "stop_gradient outside of loops", "one in a loop", remedy)
            stopped[path] = results
        return results

    evaluate(program, [jnp.asarray(leaf) for leaf in leaves], hook)  # this fills ``stopped``
    return lambda leaves: evaluate(program, list(leaves), hook)


def inner_product(y_bars: Leaves, y: Leaves) -> Leaves:
    """⟨ȳ, y⟩, the sum over all outputs, as the only output."""
    return [sum((jnp.sum(bar * part) for bar, part in zip(y_bars, y, strict=True)), jnp.zeros(()))]


CONVERTED_KINDS = "fic"
"""The kinds of numbers whose width depends on the switch for 64-bit numbers: floating-point, integer, complex."""


@contextmanager
def converted_anew(program: Callable[[], object]) -> Iterator[None]:
    """A context in which the NumPy arrays that a program captures are converted to their 64-bit types.

    A function may use NumPy arrays that are not its arguments. When JAX traces it, it converts such an array to float32
    or float64, as the switch for 64-bit numbers says. It keeps the converted array as long as a traced program uses it,
    and returns it for the same NumPy array even if the switch has changed in the meantime. So a function that was
    jitted in float32 would be checked with rounded numbers, or JAX could not compile it ("Cannot lower jaxpr"). After
    the check, the same would happen to the user's program in float32.

    ``jax.clear_caches`` drops the traced programs, and with them the converted arrays. The user's programs are then
    compiled again, which takes time. So the caches are cleared only if the program captures NumPy arrays.

    Args:
        program: traces everything that is checked. It is only traced, not run.
    """
    if not _captures_arrays(program):
        yield
        return
    jax.clear_caches()
    try:
        yield
    finally:
        jax.clear_caches()


def pulled_back(problem_in: Callable[[str], Problem]) -> Leaves:
    """Runs the function and the formula of a problem once, for ``converted_anew``."""
    problem = problem_in("float64")
    leaves = list(map(jnp.asarray, problem.leaves))
    return problem.pullback(leaves, [jnp.zeros_like(y) for y in problem.function(leaves)])


def _captures_arrays(program: Callable[[], object]) -> bool:
    """Whether a program uses NumPy arrays that exist longer than its trace.

    A layer may also make an array while it is traced. This array is a new one in every trace, so only arrays that occur
    in two traces count.
    """
    with jax.enable_x64(True):
        try:
            first, second = (jax.make_jaxpr(fresh(program))() for _ in range(2))
        except (TypeError, ValueError):
            # Two types meet in one operation: an array may still have the type of an older trace.
            return True
        return bool(_arrays(first) & _arrays(second))


def _arrays(program: ClosedJaxpr, *, literals: bool = True) -> set[int]:
    """The identities of the NumPy arrays in a traced program whose type depends on the switch.

    An array without axes is written into an equation. It is looked for outside of calls only: functions of JAX contain
    such arrays, too, and they are always the same.
    """
    values = list(program.consts)
    if literals:
        values += [v.val for equation in program.eqns for v in equation.invars if isinstance(v, Literal)]
    inner = [one for equation in program.eqns for one in inner_programs(equation)]
    found = {id(v) for v in values if isinstance(v, np.ndarray) and v.dtype.kind in CONVERTED_KINDS}
    return found.union(*(_arrays(one, literals=False) for one in inner))


MORE_BITS = 18
"""A constant that needs more bits than this, but at most the 24 of float32, was probably rounded to float32."""
SIMPLE_FRACTION = 1 / 8
"""Multiples of it, such as 300000.5, are exact in float32 up to two million. They were probably not rounded."""
LARGEST_FRACTION = 2.0**40
"""Only numbers up to this one count: all large numbers of float64 are multiples of 1/8."""


def is_simple_fraction(numbers: Array) -> np.ndarray:
    """Which numbers look exact: they need at most 18 bits, or are multiples of 1/8 below 2⁴⁰."""
    size = np.abs(np.asarray(numbers, np.float64))
    mantissa, _ = np.frexp(size)
    with np.errstate(invalid="ignore", over="ignore"):
        is_simple = (size % SIMPLE_FRACTION == 0) & (size < LARGEST_FRACTION)
        return ((mantissa * 2.0**MORE_BITS) % 1 == 0) | is_simple | ~np.isfinite(mantissa)
