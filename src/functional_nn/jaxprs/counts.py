"""Floating-point operations and bytes, counted from the traced program.

A multiplication and an addition count one each, so a product of (m, k) and (k, n) counts 2 m k n. An elementwise
operation counts one per output element, even a transcendental one. A reduction counts one per input element. Moves,
comparisons and conversions count as 0, and so do elementwise operations and reductions of integers. Matrix products and
convolutions of integers count. Equations that no result needs count, too: ``walk.live`` removes them. The body of a
``scan`` counts once for each step, and the body of a ``while`` counts once. A ``cond`` counts as its branch with the
most operations. A convolution counts the products of every window with the weights, including padding. The stride of a
transposed convolution leaves holes between its inputs; they count as 0. Where a convolution is computed by matrix
products, as on a CPU, these count as they are, with the zeros between the weights of neighbors.

A product of complex matrices counts as four real ones, a complex addition 2 and a complex multiplication 6. A Fourier
transform of n numbers counts 5 n log₂ n, and half of it if its input or output is real. A ragged product counts every
row once, with the matrix of its group.

``uncounted`` gives the names of the operations that have no count here.

References:
    Frigo and Johnson 2005, "The design and implementation of FFTW3" (the counts of a Fourier transform).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.typing import DTypeLike

from functional_nn.jaxprs import walk

PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
"""The names of the operations."""


def product_name(equation: JaxprEqn) -> str:
    """The shapes of a product: ``128×784 · 784×128``.

    >>> import jax
    >>> product_name(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 3)), jnp.ones((3, 4))).eqns[0])
    '2×3 · 3×4'
    """
    left, right = (walk.array_type(operand) for operand in equation.invars)
    kind = "" if equation.primitive.name == "dot_general" else " convolution"
    name = f"{'×'.join(map(str, left.shape))} · {'×'.join(map(str, right.shape))}{kind}"
    return name if left.dtype == jnp.float32 else f"{name} {left.dtype.name}"


ELEMENTWISE = frozenset(
    {"add", "add_any", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "floor", "ceil", "round"}
    | {"pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"}
    | {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"}
    | {"logistic", "erf", "erfc", "erf_inv", "clamp"}
)
REDUCTIONS = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"}
    | {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}
)
OVER_WINDOWS = frozenset(("reduce_window_sum", "reduce_window_max", "reduce_window_min"))
SUMS_OF_DEVICES = frozenset(
    f"{name}{end}"
    for name in ("psum", "psum_invariant", "unreduced_psum", "reduce_scatter", "unreduced_reduce_scatter")
    for end in ("", "_start")
)
FUSED_PRODUCTS = frozenset(
    {"scaled_dot", "scaled_matmul", "scaled_matmul_wrapper", "cudnn_fusion"}
    | {
        f"dot_product_attention_{way}{wrapper}"
        for way in ("fwd", "bwd", "fp8_fwd", "fp8_bwd")
        for wrapper in ("", "_wrapper")
    }
)
UNCOUNTED = frozenset(
    {"cholesky", "lu", "qr", "geqrf", "geqp3", "householder_product", "eig", "eigh", "svd", "schur", "hessenberg"}
    | {"triangular_solve", "tridiagonal", "tridiagonal_solve", "cholesky_update", "reduce_window", "reduce"}
    | {"custom_call", "ffi_call", "pallas_call", "pure_callback", "io_callback", "while"}
    | {"lgamma", "digamma", "polygamma", "zeta", "igamma", "igammac", "igamma_grad_a", "random_gamma_grad"}
    | {"regularized_incomplete_beta", "bessel_i0e", "bessel_i1e", "random_gamma"}
    | {"symmetric_product", "ormqr", "select_and_gather_add"}
    | SUMS_OF_DEVICES
    | FUSED_PRODUCTS
)
"""Operations whose number of floating-point operations is not known here. Of a ``while`` the number of steps is not."""
ADDING_UP = frozenset(("scatter-add", "scatter_add", "scatter-sub", "scatter_sub"))
MULTIPLYING = frozenset(("scatter-mul", "scatter_mul"))
EXTREMES = frozenset(("scatter-min", "scatter_min", "scatter-max", "scatter_max"))
COMPLEX_COUNTS = {
    **dict.fromkeys(("add", "add_any", "sub", "neg", "reduce_sum", "reduce_window_sum", "cumsum", *ADDING_UP), 2),
    **dict.fromkeys(("mul", "reduce_prod", "cumprod", *MULTIPLYING), 6),
}
"""The operations of a function of complex numbers, for each element."""


def uncounted(program: walk.TracedProgram) -> Counter[str]:
    """How often one call runs the operations that have no count, by their names. The true number is at least the count.

    >>> from functional_nn.jaxprs.walk import trace
    >>> dict(uncounted(trace(lambda x: jnp.linalg.cholesky(x) @ x, jnp.ones((3, 3)))))
    {'cholesky': 1}
    """
    counts: Counter[str] = Counter()
    for equation in walk.closed(program).jaxpr.eqns:
        name, programs = equation.primitive.name, walk.inner_programs(equation)
        if name in UNCOUNTED:
            counts[name] += 1
        elif not programs and name in ELEMENTWISE | REDUCTIONS and _is_complex(equation) and name not in COMPLEX_COUNTS:
            counts[f"complex {name}"] += 1
        inner = [uncounted(inner_program) for inner_program in programs]
        # Each branch of a cond can have names of its own.
        counts += reduce(or_, inner) if name == "cond" else _of_all_runs(equation, inner)
    return counts


def _of_all_runs(equation: JaxprEqn, inner: Sequence[Counter[str]]) -> Counter[str]:
    """The counts of the programs inside an equation, added up. Of the branches of a ``cond``, the largest counts."""
    if equation.primitive.name == "cond":
        return max(inner, key=Counter.total)
    repeats = walk.times(equation)
    return Counter({name: repeats * number for name, number in sum(inner, Counter[str]()).items()})


def _is_complex(equation: JaxprEqn) -> bool:
    return jnp.issubdtype(walk.array_type(equation.outvars[0]).dtype, jnp.complexfloating)


def flops_by_scope(program: walk.TracedProgram, scope: str = "") -> Counter[str]:
    """The operations under each name stack (``chain_0/dense_1``) of a traced program.

    >>> from functional_nn.jaxprs.walk import trace
    >>> flops_by_scope(trace(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))).total()
    48
    """
    counts: Counter[str] = Counter()
    for equation in walk.closed(program).jaxpr.eqns:
        place = walk.within(scope, equation)
        inner = [flops_by_scope(inner_program, place) for inner_program in walk.inner_programs(equation)]
        if not inner:
            counts[place] += flops_of(equation)
        counts += _of_all_runs(equation, inner)
    return counts


def flops_of(equation: JaxprEqn) -> int:
    """The operations of one equation that has no inner program."""
    name = equation.primitive.name
    operands = [walk.array_type(variable) for variable in equation.invars]
    if not equation.outvars:
        return 0
    result = walk.array_type(equation.outvars[0])
    if name in ELEMENTWISE:
        return _per_element(name, result.dtype) * result.size
    if name in REDUCTIONS:
        is_running_total = name.startswith("cum")
        # Over axes of length 1, nothing is added.
        elements = operands[0].size if is_running_total or operands[0].size > result.size else 0
        return _per_element(name, operands[0].dtype) * elements
    if name in ("dot_general", "ragged_dot_general"):
        return _product_flops(equation)
    if name == "fft":
        return _fourier_flops(equation)
    if name == "conv_general_dilated":
        weight, numbers = operands[1], equation.params["dimension_numbers"]
        # An element of the result meets the weights of its own output channel.
        products = result.size * weight.size // weight.shape[numbers.rhs_spec[0]]
        return (8 if _is_complex(equation) else 2) * products // math.prod(equation.params["lhs_dilation"])
    if name in OVER_WINDOWS:
        elements = result.size * math.prod(equation.params["window_dimensions"])
        return _per_element(name, result.dtype) * elements
    if name == "select_and_scatter_add":
        return operands[0].size * (1 + math.prod(equation.params["window_dimensions"]))
    if name in ADDING_UP | MULTIPLYING | EXTREMES:
        return _per_element(name, result.dtype) * operands[2].size
    return 0


def _per_element(name: str, dtype: DTypeLike) -> int:
    """The operations of an elementwise function or a reduction for each element. Integers and booleans have none."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return COMPLEX_COUNTS.get(name, 0)
    return 1 if jnp.issubdtype(dtype, jnp.floating) else 0


def _product_flops(equation: JaxprEqn) -> int:
    """Every element of the left operand meets each free element of the right one; in a ragged product in one group."""
    left, right = (walk.array_type(variable) for variable in equation.invars[:2])
    ragged = equation.params.get("ragged_dot_dimension_numbers")
    (_, contracted), (_, batch) = ragged.dot_dimension_numbers if ragged else equation.params["dimension_numbers"]
    taken = {*contracted, *batch, *(ragged.rhs_group_dimensions if ragged else ())}
    free = math.prod(size for axis, size in enumerate(right.shape) if axis not in taken)
    return (8 if _is_complex(equation) else 2) * left.size * free


def _fourier_flops(equation: JaxprEqn) -> int:
    """5 n log₂ n for each transform of n complex numbers, and half of it for real ones."""
    lengths = equation.params["fft_lengths"]
    source, result = walk.array_type(equation.invars[0]), walk.array_type(equation.outvars[0])
    n, transforms = math.prod(lengths), math.prod(source.shape[: source.ndim - len(lengths)])
    is_real = not all(jnp.issubdtype(array.dtype, jnp.complexfloating) for array in (source, result))
    return round(transforms * (2.5 if is_real else 5) * n * math.log2(max(n, 1)))


READ_WHOLE = frozenset(
    {"dot_general", "ragged_dot_general", "conv_general_dilated", "sort", "fft", "select_and_scatter_add"}
    | {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "custom_call", "ffi_call", "pallas_call"}
    | {"reduce_window", *OVER_WINDOWS}
    | {"cholesky", "triangular_solve", "lu", "qr", "eigh", "svd"}
)
"""Operations that read their operands from memory and write their results there."""
TAKEN = frozenset(("gather", "dynamic_slice"))
"""Operations that read their indices, but of their first operand only the elements that they return."""
REPLACING = {"dynamic_update_slice": 1, "scatter": 2}
COMBINING = dict.fromkeys(ADDING_UP | MULTIPLYING | EXTREMES, 2)
"""Operations that read their indices and new elements, and write a part of an array, while the rest stays in place. The
value is the index of the operand with the new elements. ``COMBINING`` operations read the same number of old elements.
"""


VIEWS = frozenset(("reshape", "squeeze", "expand_dims", "transpose", "name", "stop_gradient"))
"""Operations that return the same elements in another shape or order."""


def bytes_by_scope(program: ClosedJaxpr, scope: str = "") -> Counter[str]:
    """The fewest bytes that a traced program moves under each name stack (``chain_0/dense_1``).

    >>> import jax.numpy as jnp
    >>> from functional_nn.jaxprs.walk import trace
    >>> bytes_by_scope(trace(lambda x, w: jnp.exp(x) @ w, jnp.ones((2, 3)), jnp.ones((3, 4)))).total()
    152
    """
    flat = walk.flattened(program, scope)
    counts: Counter[str] = Counter()
    given = {*flat.inputs, *flat.constants}
    # A view of an argument that is a result is a copy.
    shown = {view: array for view, array in _viewed(flat).items() if view not in flat.outputs or array not in given}
    steps = [step for step in flat.steps if shown.keys().isdisjoint(step.outputs)]

    def arrays(places: Iterable[walk.Place]) -> set[int]:
        return {shown.get(place, place) for place in places if isinstance(place, int)}

    # Operations that are not fused read and write memory. This also determines which arrays must be in memory.
    in_memory, needed = {*given}, arrays(flat.outputs)
    for step in steps:
        if not _is_fused(step):
            counts += _moved(step)
            in_memory.update(step.outputs)
            needed |= arrays(step.inputs)
    # Fused operations read each array once, when it is first needed. They write the arrays that others need.
    for step in filter(_is_fused, steps):
        read = arrays(step.inputs) & in_memory
        in_memory -= read
        written = needed.intersection(step.outputs)
        counts[step.scope] += sum(size_of(flat.shapes[place]) for place in (*read, *written))
    return counts


def _viewed(flat: walk.Flat) -> dict[int, int]:
    """For each view, the array that it shows. A view has no memory of its own."""
    viewed: dict[int, int] = {}
    for step in flat.steps:
        if step.equation.primitive.name in VIEWS and isinstance(source := step.inputs[0], int):
            viewed[step.outputs[0]] = viewed.get(source, source)
    return viewed


def size_of(array: object) -> int:
    """The bytes of an array, or of a shape and type. Random keys and tokens count as 0."""
    itemsize = getattr(getattr(array, "dtype", None), "itemsize", 0)
    return getattr(array, "size", 0) * itemsize


def _is_fused(step: walk.Step) -> bool:
    name = step.equation.primitive.name
    apart = (READ_WHOLE, TAKEN, REPLACING, COMBINING)
    return not (any(name in names for names in apart) or walk.inner_programs(step.equation))


def _moved(step: walk.Step) -> Counter[str]:
    """The bytes that are moved by an operation that is not fused."""
    equation, scope = step.equation, step.scope
    operands = [size_of(walk.array_type(variable)) for variable in equation.invars]
    results = sum(size_of(walk.array_type(variable)) for variable in equation.outvars)
    name = equation.primitive.name
    # The program inside a ``pallas_call`` computes one block.
    programs = [] if name in READ_WHOLE else walk.inner_programs(equation)
    inner = [bytes_by_scope(program, scope) for program in programs]
    if inner:
        return _of_all_runs(equation, inner)
    if name in TAKEN:
        return Counter({scope: 2 * results + sum(operands[1:])})
    if name in REPLACING:
        return Counter({scope: sum(operands[1:]) + operands[REPLACING[name]]})
    if name in COMBINING:
        return Counter({scope: sum(operands[1:]) + 2 * operands[COMBINING[name]]})
    literals = sum(size_of(walk.array_type(literal)) for literal in equation.invars if isinstance(literal, Literal))
    return Counter({scope: sum(operands) - literals + results})


PARTLY_READ = TAKEN | REPLACING.keys() | COMBINING.keys() | {"slice", "split", "unstack"}
"""Operations of which only some elements of the first operand may be needed."""


def least_bytes(program: ClosedJaxpr) -> int:
    """The bytes of the arguments that a call reads whole, and of the results that it computes.

    All other arrays may stay in a chip's own memory between two operations. An argument of which a part is enough does
    not count, such as the images from which a loop takes a batch in each step. Of an argument that is returned with new
    elements in some places, such as a key-value cache, only these elements count: a donated argument is written in
    place.

    >>> import jax.numpy as jnp
    >>> from functional_nn.jaxprs.walk import trace
    >>> least_bytes(trace(lambda x, w: jnp.exp(jnp.exp(x) @ w), jnp.ones((2, 3)), jnp.ones((3, 4))))
    104
    """
    flat = walk.flattened(program)
    read = sum(
        size_of(flat.shapes[place]) for place, whole in zip(flat.inputs, _read_whole(flat), strict=True) if whole
    )
    written = dict(zip(flat.outputs, _written(flat), strict=True))  # a result that is returned twice counts once
    return read + sum(written.values())


def _read_whole(flat: walk.Flat) -> list[bool]:
    """Which arguments of a program it reads whole for certain, in the order of the arguments."""
    viewed, reordered = _viewed(flat), set[int]()  # views with their elements in another order
    read: set[int] = set()
    for step in flat.steps:
        if viewed.keys().isdisjoint(step.outputs):
            operands = zip(step.inputs, _operands_read_whole(step), strict=True)
            read |= {viewed.get(place, place) for place, whole in operands if whole and isinstance(place, int)}
        elif step.equation.primitive.name == "transpose" or step.inputs[0] in reordered:
            reordered.update(step.outputs)
    read |= {viewed[place] for place in reordered.intersection(flat.outputs)}
    return [place in read for place in flat.inputs]


def _operands_read_whole(step: walk.Step) -> list[bool]:
    name = step.equation.primitive.name
    if name == "scan":
        scan = walk.scan_parts(step.equation)
        return [scan.length > 0 and whole for whole in _read_whole(walk.flattened(scan.body))]
    # Of a branch or of another loop, it is not certain that it runs.
    whole = [not walk.inner_programs(step.equation)] * len(step.inputs)
    if name in PARTLY_READ:
        whole[0] = False
    return whole


def _written(flat: walk.Flat) -> list[int]:
    """For each result, the least number of bytes that the program has to write, if it may change arguments in place."""
    written: dict[object, int] = {}  # an argument has 0 until some of its elements are replaced
    for step in flat.steps:
        before = [written.get(place, 0) if isinstance(place, int) else 0 for place in step.inputs]
        sizes = [size_of(flat.shapes[place]) for place in step.outputs]
        written.update(zip(step.outputs, map(min, sizes, _written_by(step, before, sizes)), strict=True))
    return [written.get(place, 0) if isinstance(place, int) else 0 for place in flat.outputs]


def _written_by(step: walk.Step, before: list[int], sizes: list[int]) -> list[int]:
    """The same for the results of one step. ``before`` has the bytes of its operands, ``sizes`` of whole results."""
    equation, name = step.equation, step.equation.primitive.name
    if name in VIEWS and name != "transpose":
        return before[:1]
    if name in REPLACING or name in COMBINING:
        changed = walk.array_type(equation.invars[(REPLACING | COMBINING)[name]])
        return [before[0] + size_of(changed)]
    if name == "scan":
        scan = walk.scan_parts(equation)
        _, initial, _ = scan.split_operands(before)
        carry, _ = scan.split_results(_written(walk.flattened(scan.body)))
        runs = scan.length > 0
        return [*(start + runs * new for start, new in zip(initial, carry, strict=True)), *sizes[scan.carried :]]
    if name == "while":  # it is not certain that it runs
        return walk.while_parts(equation).split_operands(before)[2]
    if name == "cond":
        written = [_written(walk.flattened(branch)) for branch in walk.branches(equation)]
        return [min(each) for each in zip(*written, strict=True)]
    return sizes
