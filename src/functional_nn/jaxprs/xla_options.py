"""Options for compiling with XLA: for train steps, for programs that run once, and as far as this version has them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend.core import JaxprEqn
from jax.stages import Compiled, Lowered

from functional_nn.jaxprs.inner_programs import LOOPS, TracedProgram, array_type, closed, inner_programs

Options: TypeAlias = dict[str, str | bool | int]
"""Values of XLA's options by name."""

QUICK: Options = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""For a program that is a small part of an epoch. XLA's older generator of kernels for the CPU takes two thirds of the
time to compile, though programs may run slower. All kernels in one piece are less work than many pieces, as long as
other programs are compiled at the same time."""

FIRST_LEVEL: Options = {"xla_backend_optimization_level": 1}
"""LLVM's first level of optimization in place of its third. Programs that draw random numbers take two thirds of the
work to compile and 1.05 of the time to run. Train steps take 0.8 to 0.97 of the work and 0.91 to 1.0 of the time, but
up to 1.03 of the time if they have loops in them, such as an LSTM's."""

RUN_ONCE: Options = {"xla_backend_optimization_level": 0}
"""For a program whose compilation takes far longer than its one run.

It may round differently: values from it and from ``create_train_state`` or ``make_epoch`` can differ in the last bit.
"""

RUN_A_FEW_TIMES: Options = RUN_ONCE | {"xla_cpu_use_fusion_emitters": False}
"""The same with the older generator of kernels, which compiles faster."""

SUMS: Options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
"""YNNPACK computes the sums. By default it also computes convolutions, but inside a loop on one core only."""
SUMS_AND_PRODUCTS: Options = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""YNNPACK computes the sums and the matrix products."""

ONE_BY_ONE: Options = {"xla_disable_hlo_passes": "tree_reduction_rewriter"}
"""A sum adds its numbers in order. By default a sum of more than 32 numbers is computed in parts of 32. This rounds
less if the sum is long, but each level of parts is one more kernel to compile."""

SHORT = 256
"""A sum is short if it has at most this many numbers. Added in order, its error is at most 256 · 2⁻²⁴ of the sum of
their absolute values."""

THIN = 128
"""A matrix product is thin if two of its dimensions are at most this. XLA's own thin products were seen to be faster
than YNNPACK's."""


def step_options(program: TracedProgram, loops: int = 1) -> Options:
    """The options for a program of train steps, chosen by its matrix products and its loops.

    Operations are ordered for little memory. XLA's own order puts small operations between the large products of a
    step, and these take long enough for the thread of the second core to fall asleep. YNNPACK computes the sums and, as
    a rule, the products. It computes thin products on one core only, so XLA computes the products if all of them are
    thin and no step has a loop in it. If no step has a loop in it, ``FIRST_LEVEL`` is enough, and often faster.

    Args:
        program: traced.
        loops: how many loops each step stands in.
    """
    looped = any(depth >= loops for _, depth in _equations(program, *LOOPS))
    thin = all(sorted(_sizes(product))[1] <= THIN for product, _ in _equations(program, "dot_general"))
    library = SUMS if thin and not looped else SUMS_AND_PRODUCTS
    order: Options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return library | order | ({} if looped else FIRST_LEVEL)


def sum_options(program: TracedProgram) -> Options:
    """``ONE_BY_ONE`` for a traced program if all of its sums are short, products of two vectors included."""
    lengths: list[float] = []
    for equation, _ in _equations(program, "reduce_sum"):
        lengths.append(array_type(equation.invars[0]).size / max(array_type(equation.outvars[0]).size, 1))
    for equation, _ in _equations(program, "dot_general"):
        left, shared, right = _sizes(equation)
        if left == right == 1:
            lengths.append(shared)
    return ONE_BY_ONE if lengths and max(lengths) <= SHORT else {}


def _equations(program: TracedProgram, *names: str, depth: int = 0) -> Iterator[tuple[JaxprEqn, int]]:
    """The equations of these names in a traced program, and in how many loops each stands.

    Unlike ``walk.equations``, this yields the loops themselves. It reads no scopes, since every compilation runs it.
    """
    for equation in closed(program).jaxpr.eqns:
        name = equation.primitive.name
        if name in names:
            yield equation, depth
        for inner in inner_programs(equation):
            yield from _equations(inner, *names, depth=depth + (name in LOOPS))


def _sizes(product: JaxprEqn) -> tuple[int, int, int]:
    """The three dimensions of a matrix product, however many axes each of them has."""
    (contracted, _), (batch, _) = product.params["dimension_numbers"]
    left, right = (array_type(operand) for operand in product.invars)
    shared = math.prod(left.shape[axis] for axis in contracted)
    members = math.prod(left.shape[axis] for axis in batch)
    both = max(shared * members, 1)  # arrays without elements must not cause a division by 0
    return left.size // both, shared, right.size // both


def compile_lowered(lowered: Lowered, options: Mapping[str, str | bool | int]) -> Compiled:
    """A compiled program, with those of the options that this version of XLA has.

    If ``JAX_DISABLE_MOST_OPTIMIZATIONS`` tells JAX to optimize little, JAX chooses the level of optimization.
    """
    if jax.config.values["jax_disable_most_optimizations"]:
        options = {name: value for name, value in options.items() if name != "xla_backend_optimization_level"}
    return _compiled_with_known(lowered, options)[0]


def known_options(options: Mapping[str, str | bool | int]) -> Options:
    """Those of the options that this version of XLA has. This compiles a small program, so the answers are kept.

    >>> known_options({"xla_of_tomorrow": 1, "xla_backend_optimization_level": 0})
    {'xla_backend_optimization_level': 0}
    """
    return dict(_known(tuple(options.items())))


@functools.cache
def _known(options: tuple[tuple[str, str | bool | int], ...]) -> Options:
    return _compiled_with_known(jax.jit(lambda: 0.0).lower(), dict(options))[1]


def _compiled_with_known(lowered: Lowered, options: Mapping[str, str | bool | int]) -> tuple[Compiled, Options]:
    """A compiled program, and the options it was compiled with: those that this version of XLA has."""
    known = dict(options)
    while True:
        try:
            return lowered.compile(cast(dict[str, Any], known)), known
        except jax.errors.JaxRuntimeError as error:
            # Before it compiles anything, XLA complains about the first option that it does not have, by name.
            fewer = {name: value for name, value in known.items() if f"option: '{name}'" not in str(error)}
            if fewer == known:
                raise
            known = fewer


def quick_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.jit`` that compiles several times as fast, to slower programs: for programs that run a few times."""
    return jax.jit(function, compiler_options=known_options(RUN_A_FEW_TIMES))


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Inside this context programs are compiled, and not taken from JAX's cache on disk."""
    before = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        reset_cache()  # JAX looks at the setting once
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()
