"""XLA compiler options: for train steps, for programs that run once, and which ones this version of XLA has."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend.core import JaxprEqn
from jax.stages import Compiled, Lowered

from functional_nn.jaxprs.walk import TracedProgram, all_equations, array_type, closed, equations, inner_programs

Result = TypeVar("Result")

Options: TypeAlias = dict[str, str | bool | int]
"""Values of XLA's options by name."""

QUICK: Options = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""For a program that is a small part of an epoch. XLA's older kernel generator for the CPU needs two thirds of the time
to compile, but programs may run slower. Compiling all kernels in one piece is less work than in many pieces. This
helps if other programs are compiled at the same time."""

FIRST_LEVEL: Options = {"xla_backend_optimization_level": 1}
"""LLVM's optimization level 1 instead of 3. For programs that draw random numbers, compiling takes two thirds of the
work, and running takes 1.05 times as long. For train steps, compiling takes 0.8 to 0.97 of the work, and running takes
0.91 to 1.0 of the time; with loops in the step, as in an LSTM, up to 1.03 of the time."""

RUN_ONCE: Options = {"xla_backend_optimization_level": 0}
"""For a program without derivatives whose compilation takes far longer than its one run.

The program may round differently: its values and those of ``create_train_state`` or ``make_epoch`` can differ in the
last bit. If an expression is computed at two places, it may even be rounded in two ways in one program. Then no element
of a window equals its maximum, and the derivative of the maximum is NaN.
"""

SUMS: Options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
"""YNNPACK computes the sums. By default it also computes convolutions, but inside a loop on one core only."""
SUMS_AND_PRODUCTS: Options = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""YNNPACK computes the sums and the matrix products."""

LEFT_OUT = "xla_disable_hlo_passes"
"""The option with the names of XLA's passes to leave out, separated by commas."""

ONE_BY_ONE: Options = {LEFT_OUT: "tree_reduction_rewriter"}
"""A sum adds its numbers in order. By default a sum of more than 32 numbers is computed in parts of 32. This rounds
less if the sum is long, but each level of parts is one more kernel to compile."""

SHORT = 256
"""A sum is short if it has at most this many numbers. Added in order, its error is at most 256 · 2⁻²⁴ of the sum of
their absolute values."""

THIN = 128
"""A matrix product is thin if two of its dimensions are at most this, and small if all three are. In measurements, XLA
computed thin products faster than YNNPACK, unless they were small."""


def step_options(program: TracedProgram, loops: int = 1) -> Options:
    """The options for a program of train steps, chosen by its matrix products and its loops.

    The operations are ordered to save memory. XLA's own order puts small operations between the large products of a
    step. They take so long that the thread of the second core falls asleep. YNNPACK computes the sums and usually the
    products. It computes thin products on one core only. So XLA computes the products if all of them are thin, not all
    are small, and no step contains a loop. If no step contains a loop, ``FIRST_LEVEL`` is enough, and often faster.

    Args:
        program: the traced program.
        loops: the number of loops around each step.
    """
    looped = any(located.loops > loops for located in equations(program))
    products = [sorted(_sizes(product)) for product in _named(program, "dot_general")]
    thin = all(middle <= THIN for _, middle, _ in products) and any(largest > THIN for *_, largest in products)
    library = SUMS if thin and not looped else SUMS_AND_PRODUCTS
    order: Options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return library | order | ({} if looped else FIRST_LEVEL)


def sum_options(program: TracedProgram) -> Options:
    """Returns ``ONE_BY_ONE`` if all sums of a traced program are short, including products of two vectors."""
    lengths: list[float] = []
    for equation in _named(program, "reduce_sum"):
        lengths.append(array_type(equation.invars[0]).size / max(array_type(equation.outvars[0]).size, 1))
    for equation in _named(program, "dot_general"):
        left, shared, right = _sizes(equation)
        if left == right == 1:
            lengths.append(shared)
    return ONE_BY_ONE if lengths and max(lengths) <= SHORT else {}


def beside_others(options: Mapping[str, str | bool | int]) -> Options:
    """The same options, for a program that runs at the same time as others, one for each core or device of a CPU.

    XLA divides elementwise operations into tasks for a pool of as many threads as there are cores. A task that comes
    when its work is done stays in the queue until a thread is free. If each thread is busy with a program, the queue
    grows, and after some time convolutions return wrong values, without an error (jaxlib 0.10 and 0.12; decision 8
    has what is known). So the operations are not divided. Each program has only one core anyway.

    >>> beside_others(ONE_BY_ONE)
    {'xla_disable_hlo_passes': 'tree_reduction_rewriter,cpu-parallel-task-assigner'}
    """
    passes = [str(options[LEFT_OUT])] if LEFT_OUT in options else []
    return {**options, LEFT_OUT: ",".join([*passes, "cpu-parallel-task-assigner"])}


def _named(program: TracedProgram, name: str) -> Iterator[JaxprEqn]:
    """Yields the equations with this name in a traced program."""
    return (equation for equation in all_equations(program) if equation.primitive.name == name)


def _sizes(product: JaxprEqn) -> tuple[int, int, int]:
    """The three dimensions of a matrix product. Each one may combine several axes."""
    (contracted, _), (batch, _) = product.params["dimension_numbers"]
    left, right = (array_type(operand) for operand in product.invars)
    shared = math.prod(left.shape[axis] for axis in contracted)
    members = math.prod(left.shape[axis] for axis in batch)
    both = max(shared * members, 1)  # arrays without elements must not cause a division by 0
    return left.size // both, shared, right.size // both


def compile_lowered(lowered: Lowered, options: Mapping[str, str | bool | int]) -> Compiled:
    """Compiles a program with those options that this version of XLA has.

    If ``JAX_DISABLE_MOST_OPTIMIZATIONS`` is set, JAX chooses the optimization level.
    """
    if jax.config.values["jax_disable_most_optimizations"]:
        options = {name: value for name, value in options.items() if name != "xla_backend_optimization_level"}
    return _compiled_with_known(lowered, options)[0]


def known_options(options: Mapping[str, str | bool | int]) -> Options:
    """Returns those options that this version of XLA has. It compiles a small program for this, and caches the answer.

    >>> known_options({"xla_of_tomorrow": 1, "xla_backend_optimization_level": 0})
    {'xla_backend_optimization_level': 0}
    """
    return dict(_known(tuple(options.items())))


@functools.cache
def _known(options: tuple[tuple[str, str | bool | int], ...]) -> Options:
    return _compiled_with_known(jax.jit(lambda: 0.0).lower(), dict(options))[1]


def _compiled_with_known(lowered: Lowered, options: Mapping[str, str | bool | int]) -> tuple[Compiled, Options]:
    """Compiles a program. Returns it with the options that were used: those that this version of XLA has."""
    known = dict(options)
    while True:
        try:
            return lowered.compile(cast(dict[str, str | bool], known)), known
        except jax.errors.JaxRuntimeError as error:
            # Before XLA compiles, it raises an error with the name of the first option that it does not have.
            fewer = {name: value for name, value in known.items() if f"option: '{name}'" not in str(error)}
            if fewer == known:
                raise
            known = fewer


def quick_jit(function: Callable[..., Result]) -> Callable[..., Result]:
    """Like ``jax.jit``, but compiles in a third to half of the time. Use it for programs that run rarely.

    The optimization level is 0, or 1 if the program compares floating-point numbers for equality. The derivative of a
    maximum does so. See ``RUN_ONCE`` for what would go wrong at level 0.
    """
    levels: tuple[Options, Options] = RUN_ONCE, FIRST_LEVEL
    if jax.config.values["jax_disable_most_optimizations"]:
        levels = {}, {}  # JAX chooses the optimization level
    by_level = [jax.jit(function, compiler_options=known_options(level | QUICK)) for level in levels]

    def compiled(*arguments: object) -> Result:
        return by_level[_compares_for_equality(by_level[0].trace(*arguments).jaxpr)](*arguments)

    return compiled


def _compares_for_equality(program: TracedProgram) -> bool:
    """Whether results of a program depend on the equality of two floating-point numbers, other than a test for NaN."""
    jaxpr = closed(program).jaxpr
    needed = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed.isdisjoint(map(id, equation.outvars)):
            continue  # as for the derivative of a maximum whose gradient is stopped
        needed.update(map(id, equation.invars))
        if equation.primitive.name in ("eq", "ne"):
            left, right = equation.invars
            if left is not right and jnp.issubdtype(array_type(left).dtype, jnp.inexact):
                return True
        if any(map(_compares_for_equality, inner_programs(equation))):
            return True
    return False


@contextmanager
def compiling_anew() -> Iterator[None]:
    """A context in which programs are always compiled, and never read from JAX's cache on disk."""
    before = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        reset_cache()  # JAX reads the setting only once, unless it is reset
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()
