"""The search for the operation that first made a result NaN or infinite, with its cause and a remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from functional_nn.core.display import html_text
from functional_nn.core.errors import InputError, shown
from functional_nn.core.functions import argument_names, path_name
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_function, in_native_order
from functional_nn.jaxprs import non_finite_origin
from functional_nn.jaxprs.counts import PRODUCTS
from functional_nn.jaxprs.non_finite_origin import Origin, Recorder
from functional_nn.jaxprs.walk import array_type, equations, fresh, in_words, layer_of

WIDTH = 110
LARGE = 1e4
"""If a result overflows, the report names an argument with larger numbers than this."""
QUICK_OPERATIONS, QUICK_RUNS, QUICK_NUMBERS = 600, 50_000, 5 * 10**7
"""The largest program for a quick search: its operations, how often they run, and how many numbers they compute.
Such a search takes at most about ten seconds and 1 GB."""


@dataclass(frozen=True)
class NonFinite:
    """Where a NaN or an infinite number comes from. It prints as a few lines, and is true if there is such a number.

    Args:
        affected: the paths of the results that are not finite, such as ``loss``; empty if all results are finite.
        argument: the path of the argument that is not finite, such as ``params/dense_0/weight``; "" if an operation
            made the number.
        in_batch: whether this argument is a batch of the training data, in which the index counts.
        operation: the first operation with such a result, by the name of JAX's primitive, such as ``log``.
        layer: the path of its layer, such as ``residual_0/dense_1``; "" outside of layers.
        stage: ``"forward pass"``, ``"backward pass"``, or, in a run of ``fit``, ``"optimizer's update"``; "" for an
            argument or a constant.
        derivative_of: in the backward pass, the operations of the forward pass that it differentiates, if known.
        place: the source line, as ``file.py:12 (function)``.
        code: the text of this line.
        inside: the function of JAX that the operation is a part of, such as ``norm``.
        steps: for each loop around it, from the outermost, its kind and the number of the step, from 0.
        index: the index of the first such element, in the operation's result or in the argument.
        value: this element: NaN or infinite.
        dtype, shape: the type and the shape of this array.
        count: how many of its elements are not finite.
        operands: for each operand, the number from which the element was computed, or the range of these numbers.
        cause: the likely cause, as a sentence.
        remedy: what to do, as a sentence.
        note: a further sentence, such as about very large parameters.
    """

    affected: tuple[str, ...] = ()
    argument: str = ""
    in_batch: bool = False
    operation: str = ""
    layer: str = ""
    stage: str = ""
    derivative_of: tuple[str, ...] = ()
    place: str = ""
    code: str = ""
    inside: str = ""
    steps: tuple[tuple[str, int], ...] = ()
    index: tuple[int, ...] = ()
    value: complex = 0.0
    dtype: str = ""
    shape: tuple[int, ...] = ()
    count: int = 0
    operands: tuple[str, ...] = ()
    cause: str = ""
    remedy: str = ""
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.affected)

    @property
    def sentence(self) -> str:
        """The origin and its cause, in one or two sentences."""
        if not self:
            return "All results are finite."
        if self.argument:
            of_batch = " of this batch" if self.in_batch else ""
            return f"{self._element} of the argument {self.argument}{of_batch} is {self.value}. {self.cause}"
        return f"{self._made}{self.place and f' ({self.place})'}: {self.equation_in_words}. {self.cause}"

    @property
    def operation_in_words(self) -> str:
        """The operation with its pass, layer and loops, in words."""
        parts = [in_words(self.operation)]
        if self.inside not in ("", self.operation):
            parts.append(f"a part of {self.inside}")
        if self.derivative_of:
            parts.append(f"in the derivative of {' or '.join(self.derivative_of)}")
        parts.append(f"in the {self.stage}{self.layer and f' of {self.layer}'}")
        return ", ".join([*parts, *(f"in step {step} of a {kind}" for kind, step in self.steps)])

    @property
    def equation_in_words(self) -> str:
        """The operation with its numbers, such as ``log(0) = -inf``."""
        return f"{self.operation}({', '.join(self.operands) or '…'}) = {self.value}"

    @property
    def _made(self) -> str:
        return f"The first such number was made by {self.operation_in_words}"

    @property
    def _element(self) -> str:
        return f"Element {self.index}" if self.index else "The number"

    def __str__(self) -> str:
        if not self:
            return self.sentence
        array = f"{self.dtype} of shape {self.shape}" if self.shape else f"one {self.dtype}"
        others = f"{self.count:,} of its elements are not finite" if self.count > 1 else "no other element is"
        if self.argument:
            found = f"The argument {self.argument} is not finite ({array}{(self.shape and f'; {others}') or ''})."
            lines = [found, f"  {self._element} is {self.value}."]
        else:
            in_array = f"element {self.index} of a {array}: {self.equation_in_words} ({others})"
            lines = [self._made, self.place and f"  at {self.place}", self.code and f"     {self.code}"]
            lines.append(f"  {in_array if self.shape else self.equation_in_words}")
        more = len(self.affected) - 5
        lines.insert(0, f"Not finite: {', '.join(self.affected[:5])}{f' and {more} more' if more > 0 else ''}.\n")
        texts = (f"\nCause: {self.cause}", f"Remedy: {self.remedy}", self.note)
        wrapped = [textwrap.fill(text, WIDTH, break_on_hyphens=False, replace_whitespace=False) for text in texts]
        return "\n".join(filter(None, [*lines, *wrapped]))

    __repr__ = __str__
    _repr_html_ = html_text


def find_non_finite_in(function: Callable[..., PyTree], *arguments: PyTree) -> NonFinite:
    """Finds the operation that first made a NaN or an infinite number in the result of a function.

    The function is traced and then computed operation by operation, also inside ``jit``, loops and branches. The search
    starts at the non-finite elements of the results and goes back through non-finite elements. It ends at an argument,
    or at operations whose operands are finite. The first of these operations is the origin. So harmless infinite
    numbers, such as those of a mask, are not reported.

    To search in a gradient, give the function that computes it: ``find_non_finite_in(jax.grad(loss), params)``.

    Args:
        function: ``function(*arguments)`` returns a pytree of arrays. It may be made by ``jax.jit``, ``jax.vmap``,
            ``jax.grad`` and so on.
        arguments: the arguments for which its result is not finite, pytrees of arrays.

    Raises:
        InputError: if an argument is not a pytree of arrays, or is traced.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> def loss(w):
    ...     return jnp.log(w - 2).sum()
    >>> found = fnn.find_non_finite_in(loss, jnp.array([3.0, 2.0]))
    >>> found.operation, found.index, found.cause
    ('log', (1,), 'The logarithm of 0 is -inf.')
    >>> print(fnn.find_non_finite_in(loss, jnp.array([3.0, 4.0])))
    All results are finite.
    """
    check_function("function", function, "a function of the arguments")
    return find_origin(function, arguments, argument_names(function, len(arguments)))


def find_origin(
    function: Callable[..., PyTree], arguments: Sequence[PyTree], names: Sequence[str], *, only_if_quick: bool = False
) -> NonFinite:
    """Does the search of ``find_non_finite_in`` with given names of the arguments.

    If the function returns a dict, its keys name the results. With ``only_if_quick``, a large program raises an
    error.
    """
    arguments = jax.tree.map(in_native_order, tuple(arguments))
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        name = path_name(path, names)
        leaves[name] = _checked_leaf(name, leaf)
    # With jax_debug_nans, JAX would raise an error before the search can see anything.
    with jax.debug_nans(False), jax.debug_infs(False):
        program, results_tree = jax.make_jaxpr(fresh(function), return_shape=True)(*arguments)
        if only_if_quick and not _is_quick(program):
            raise NotImplementedError("The program is too large for a quick search.")
        recorder = Recorder()
        results = recorder.run(program, list(leaves.values()))
        named = results_tree if isinstance(results_tree, dict) else {"result": results_tree}
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(named)]
        bad = {path: result for path, result in zip(paths, results, strict=True) if result.bad.any()}
        if not bad:
            return NonFinite()
        bad_arguments, origins = non_finite_origin.trace_back(results, recorder.operations)
        if bad_arguments:
            number, elements = min(bad_arguments.items())
            path = list(leaves)[number]
            of_array = _of_array(leaves[path], non_finite_origin.first_index(elements))
            return NonFinite(tuple(bad), path, **of_array, **_cause_of_argument(path)._asdict())
        origin = non_finite_origin.first_origin(origins)
        if origin is None:  # no operation reads a constant that is a result
            result = next(iter(bad.values()))
            of_array = _of_array(result.array, non_finite_origin.first_index(result.bad))
            return NonFinite(tuple(bad), operation="constant", stage="forward pass", **of_array, **CONSTANT._asdict())
        return _operation_report(tuple(bad), origin, origins, recorder, leaves)


def _is_quick(program: ClosedJaxpr) -> bool:
    located = list(equations(program))
    sizes = [sum(array_type(variable).size for variable in there.equation.outvars) for there in located]
    numbers = sum(there.repeats * size for there, size in zip(located, sizes, strict=True))
    runs = sum(there.repeats for there in located)
    return len(located) <= QUICK_OPERATIONS and runs <= QUICK_RUNS and numbers <= QUICK_NUMBERS


def _checked_leaf(path: str, leaf: object) -> jax.Array:
    if isinstance(leaf, Tracer):
        remedy = "Call it outside of jax.jit and other transforms, with the function that they transform."
        raise InputError(path, "an array with known numbers", shown(leaf), remedy)
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError, OverflowError):
        remedy = "Give the function arguments that are arrays, and let it close over everything else."
        raise InputError(path, "an array of numbers", shown(leaf), remedy) from None


def _operation_report(
    affected: tuple[str, ...],
    origin: Origin,
    origins: Sequence[Origin],
    recorder: Recorder,
    leaves: Mapping[str, jax.Array],
) -> NonFinite:
    operation, numbers = origin.operation, origin.numbers
    is_backward = non_finite_origin.is_in_backward_pass(operation)
    derivative_of: set[str] = set()
    if is_backward:
        names = {name for name, place in recorder.steep if place == operation.place}
        # JAX computes factors such as 1/(2·√x) by divisions and powers in the forward pass, so these count last.
        derivative_of = names - {"div", "integer_pow", operation.kind} or names & {"div"} or names
    limits = [(float(read.min()), float(read.max())) for read in numbers if read.size]
    operands = [f"({low:.6g} to {high:.6g})" if low < high else f"{low:.6g}" for low, high in limits]
    if operation.kind == "integer_pow":
        operands.append(str(operation.equation.params["y"]))
    cause = _cause(origin, origins, sorted(derivative_of))
    return NonFinite(
        affected,
        operation=operation.kind,
        layer=layer_of(operation.scope)[0],
        stage="backward pass" if is_backward else "forward pass",
        derivative_of=tuple(sorted(derivative_of)),
        place=str(operation.place or ""),
        code=operation.place.code if operation.place else "",
        inside=operation.around.function,
        steps=operation.around.steps,
        operands=tuple(operands),
        note=_note_on_large_arguments(leaves) if cause.cause.startswith(OVERFLOW) else "",
        **_of_array(operation.results[origin.result].array, origin.element),
        **cause._asdict(),
    )


def _of_array(array: jax.Array, index: tuple[int, ...]) -> dict[str, Any]:
    """What a report says about an array and one of its elements."""
    numbers = np.asarray(array)
    count = int(np.sum(~np.isfinite(numbers)))
    of_element = {"index": index, "value": numbers[index].item()}
    return {**of_element, "dtype": str(array.dtype), "shape": array.shape, "count": count}


def _note_on_large_arguments(leaves: Mapping[str, jax.Array]) -> str:
    """A sentence about the argument with the largest numbers, if they are very large."""
    largest = {path: _largest(leaf) for path, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    path = max(largest, key=lambda path: largest[path], default="")
    if not path or largest[path] < LARGE:
        return ""
    advice = " Parameters grow so large if training diverges: use a smaller learning rate."
    return f"The numbers in {path} are as large as {largest[path]:.1e}.{advice if path.startswith('params') else ''}"


def _largest(array: jax.Array) -> float:
    """The largest absolute value of the finite elements; 0 if there are none."""
    sizes = np.abs(np.asarray(array).astype(np.float64))
    return float(np.max(sizes, initial=0, where=np.isfinite(sizes)))


# Causes and remedies


class Cause(NamedTuple):
    """A sentence about the cause, and one about the remedy."""

    cause: str
    remedy: str


SUMS = frozenset(("add", "add_any", "sub", "cumsum", "reduce_sum", "reduce_window_sum", *PRODUCTS))
"""Operations that add numbers."""
GROWTH = (
    "Keep the numbers smaller: normalize the inputs, use a smaller learning rate, or limit the gradient "
    "(fnn.training.with_clipping)."
)
SAFE_LOGARITHM = (
    "Compute from logits (fnn.cross_entropy, jax.nn.log_softmax, jax.nn.log_sigmoid), or keep the number above 0: "
    "jnp.log(jnp.maximum(x, 1e-6))."
)
SAFE_DIVISION = "Add a small number to the divisor, or replace 0 before the division: x / jnp.where(d == 0, 1, d)."
SAFE_ROOT = (
    "Keep the number under the root above 0, also for the gradient: jnp.sqrt(jnp.maximum(x, 1e-6)). Compute a variance "
    "as jnp.mean((x - jnp.mean(x)) ** 2), because rounding can make jnp.mean(x**2) - jnp.mean(x) ** 2 negative."
)
SAFE_MATRIX = "Add a small multiple of the identity matrix, a + 1e-6 * jnp.eye(n), or use jnp.linalg.lstsq."
SAFE_INDEX = "Check the indices, such as tokens and class numbers: they must be below the length of the axis."
INSIDE = "Limit the argument before the operation, for example by jnp.clip."
OVERFLOW = "Overflow: "
HIDDEN = (
    " The forward pass does not use the number, as with jnp.where. But the backward pass multiplies a cotangent of 0 "
    "by the derivative, and 0 · ∞ = NaN."
)
CONSTANT = Cause(
    "A constant that the program reads here is NaN or infinite.",
    "Look at where it comes from: an array that the function closes over, or a condition under which jnp.where "
    "chooses it, such as a label that is out of range.",
)

SINGULARITIES: tuple[tuple[str, Callable[..., Any], str, str], ...] = (
    ("log log2", lambda x: x < 0, "The logarithm of a negative number is not defined.", SAFE_LOGARITHM),
    ("log log2", lambda x: x < 1, "The logarithm of 0 is -inf.", SAFE_LOGARITHM),
    ("log1p", lambda x: x < -1, "log1p(x) is the logarithm of 1 + x, which is negative here.", SAFE_LOGARITHM),
    ("log1p", lambda x: x == -1, "log1p(x) is the logarithm of 1 + x, and the logarithm of 0 is -inf.", SAFE_LOGARITHM),
    ("div rem", lambda x, d: (x == 0) & (d == 0), "0 / 0 is not defined.", SAFE_DIVISION),
    ("div rem", lambda x, d: d == 0, "The divisor is 0.", SAFE_DIVISION),
    ("sqrt rsqrt", lambda x: x < 0, "The square root of a negative number is not defined.", SAFE_ROOT),
    ("rsqrt", lambda x: x < 1, "1 / √x is infinite at 0.", SAFE_ROOT),
    ("integer_pow", lambda x: x == 0, "0 to a negative power is infinite.", SAFE_DIVISION),
    ("pow", lambda x, y: (x == 0) & (y < 0), "0 to a negative power is infinite.", SAFE_DIVISION),
    ("pow", lambda x, y: (x < 0) & (y % 1 != 0), "A negative number has real powers for integers only.", INSIDE),
    ("atanh digamma erf_inv lgamma", lambda x: True, "The function is not finite for this argument.", INSIDE),
    ("cholesky", lambda *_: True, "The matrix is not positive definite.", SAFE_MATRIX),
    ("custom_linear_solve lu triangular_solve", lambda *_: True, "The matrix is singular.", SAFE_MATRIX),
    ("gather", lambda *_: True, "An index is outside of the array. JAX puts NaN there.", SAFE_INDEX),
)
"""Operations, a condition on the numbers that they read, the cause, and the remedy; the first one that holds counts."""


def _cause(origin: Origin, origins: Sequence[Origin], derivative_of: Sequence[str]) -> Cause:
    kind, made = origin.operation.kind, origin.kind
    if made == "made of infinity":
        return _cause_of_infinity(kind, is_constant=all(other.kind != "made" for other in origins))
    if made != "made":
        return CONSTANT
    cause = _singularity(origin)
    if cause and derivative_of:
        return _cause_in_derivative(derivative_of, is_hidden=non_finite_origin.is_hidden(origin, origins))
    # If the operation is defined and finite at these numbers, its result was too large for the type.
    cause = cause or _overflow(kind, origin.operation.results[origin.result].array.dtype)
    if not non_finite_origin.is_in_backward_pass(origin.operation) and non_finite_origin.is_hidden(origin, origins):
        return Cause(cause.cause + HIDDEN, _harmless_argument(kind))
    return cause


def _singularity(origin: Origin) -> Cause | None:
    """The cause if an operation is undefined or infinite for finite numbers; None if its result is just too large."""
    kind, numbers = origin.operation.kind, origin.numbers
    for kinds, condition, cause, remedy in SINGULARITIES:
        if kind in kinds.split() and np.any(condition(*numbers)):
            return Cause(cause, remedy)
    # The parts of a sum may overflow to ∞ and -∞, and their sum is NaN.
    if not np.isinf(origin.value) and kind not in SUMS:
        return Cause(f"{kind} is not defined for these numbers.", "Keep its arguments where it is defined.")
    return None


def _overflow(kind: str, dtype: np.dtype) -> Cause:
    """The cause if a result is too large for its type."""
    if kind not in non_finite_origin.ELEMENTWISE | non_finite_origin.REDUCTIONS | SUMS | {"cumprod"}:
        return Cause(f"{kind} makes a number that is not finite of finite numbers.", "Look at what it computes.")
    largest, remedy = float(jnp.finfo(dtype).max), GROWTH
    if kind in ("exp", "exp2", "expm1", "sinh", "cosh"):
        remedy = "Subtract the largest argument first, as jax.nn.softmax does, or limit the argument."
    elif dtype == np.float16:
        remedy = "Compute this in float32, or in bfloat16, which reaches 3.4e38."
    text = f"{largest:,.0f}" if largest < 1e6 else f"{largest:.1e}"
    return Cause(f"{OVERFLOW}a number is larger than {text}, the largest {dtype}.", remedy)


def _cause_of_argument(path: str) -> Cause:
    first, *_ = path.split("/")
    name, makers = first, ". In data, remove such examples or replace the numbers, for example by np.nan_to_num."
    if first == "params":
        name, makers = "The parameter", ": an initializer, a file, or a step of training that diverged."
    return Cause(f"{name} is not finite before anything is computed.", f"Look at what made it{makers}")


def _cause_of_infinity(kind: str, *, is_constant: bool) -> Cause:
    """The cause of a NaN that was made of infinite numbers."""
    if is_constant:
        cause = "The infinite number is a constant of the program, such as that of a mask."
        remedy = (
            "If a row of a mask allows nothing, its maximum is -inf. Use a large finite number such as -1e30, or "
            "fnn.dot_product_attention, which gives 0 for such rows."
        )
        return Cause(f"{kind} of an infinite number is not defined. {cause}", remedy)
    cause = f"{kind} of an infinite number is not defined, such as ∞ - ∞, 0 · ∞ or ∞ / ∞."
    return Cause(cause, "Keep its arguments finite. Choose with jnp.where instead of multiplying by 0.")


def _cause_in_derivative(functions: Sequence[str], *, is_hidden: bool) -> Cause:
    """The cause if a factor of a derivative of these operations is not finite.

    ``is_hidden`` says whether it is multiplied by a cotangent of 0, as for a value that ``jnp.where`` does not choose.
    """
    first, *_ = functions
    cause = f"The derivative of {' or '.join(functions)} is not finite at this point."
    if is_hidden:
        return Cause(cause + HIDDEN, _harmless_argument(first))
    if first in ("div", "atan2"):
        return Cause(cause, _harmless_argument(first))
    points = " and ".join(f"{point:g}" for point in non_finite_origin.STEEP_AT[first])
    how = "by adding 1e-6 to it" if points == "0" else "by jnp.clip"
    return Cause(cause, f"Keep the argument of {first} away from {points}, for example {how}.")


def _harmless_argument(kind: str) -> str:
    if kind in ("div", "rem", "atan2"):
        return "Replace the divisor before the division: jnp.where(d == 0, 0, x / jnp.where(d == 0, 1, d))."
    call = f"jnp.{kind}(jnp.where(ok, x, 0.5){', y' if kind == 'pow' else ''})"
    return f"Choose a harmless argument before the operation: jnp.where(ok, {call}, 0)."
