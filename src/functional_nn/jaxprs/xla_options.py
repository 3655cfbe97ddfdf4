"""How XLA is asked to compile: with which options, and without looking for what it compiled before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend.core import jaxprs_in_params

QUICK: Any = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""For a program that is a small part of an epoch: XLA's older generator of kernels for the CPU, which takes two thirds
of the time, though programs may be slower for it; and all kernels in one piece, which is less work than in many, for
what is compiled while other programs are."""

FIRST_LEVEL: Any = {"xla_backend_optimization_level": 1}
"""LLVM's first level of optimization in place of its third. Random numbers are two thirds of the work to compile and
take 1.05 of the time, train steps 0.8 to 0.97 of the work and 0.91 to 1.0 of the time, but up to 1.03 where they have
loops in them, as an LSTM's."""

RUN_ONCE: Any = {"xla_backend_optimization_level": 0}
"""For a program whose compilation takes far longer than its one run.

It may round differently: values here and from ``create_train_state`` or ``make_epoch`` can differ in the last bit.
"""

SUMS: Any = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
SUMS_AND_PRODUCTS: Any = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""What YNNPACK has of a program. By default that is convolutions too, which in a loop it does on one core only."""

ONE_BY_ONE: Any = {"xla_disable_hlo_passes": "tree_reduction_rewriter"}
"""A sum goes from its first number to its last. By default one of more than 32 numbers goes by parts of 32, which
rounds less where it is long, but is a kernel more to compile for each level of parts."""

SHORT = 256
"""A short sum has so many numbers at most: one by one, its error is at most 256 · 2⁻²⁴ of the sum of their sizes."""

LOOPS = ("scan", "while")
"""The primitives that are loops."""

THIN = 128
"""Of a thin product at least two dimensions are at most this: where YNNPACK was seen to lose to XLA's own."""


def step_options(program: Any, loops: int = 1) -> dict[str, Any]:
    """For a program of train steps, by what its traced steps multiply and whether they have loops in them.

    Operations are ordered for little memory: XLA's own order puts small ones between a step's large products, long
    enough for the second core's thread to fall asleep. YNNPACK has the sums and, as a rule, the products. It does thin
    ones on one core, so they stay XLA's own where two dimensions of every product are at most ``THIN`` and no step has
    a loop in it. Where none has, ``FIRST_LEVEL`` is enough, and often quicker.

    Args:
        program: traced.
        loops: in so many each step stands.
    """
    looped = any(depth >= loops for _, depth in _equations(program, *LOOPS))
    thin = all(sorted(_sizes(product))[1] <= THIN for product, _ in _equations(program, "dot_general"))
    library = SUMS if thin and not looped else SUMS_AND_PRODUCTS
    order = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return library | order | ({} if looped else FIRST_LEVEL)


def sum_options(program: Any) -> dict[str, Any]:
    """``ONE_BY_ONE`` for a traced program whose sums are short, products of two vectors among them."""
    sums = (equation for equation, _ in _equations(program, "reduce_sum"))
    lengths = [equation.invars[0].aval.size / max(equation.outvars[0].aval.size, 1) for equation in sums]
    products = (_sizes(equation) for equation, _ in _equations(program, "dot_general"))
    lengths += [shared for left, shared, right in products if left == right == 1]
    return ONE_BY_ONE if lengths and max(lengths) <= SHORT else {}


def _equations(program: Any, *names: str, depth: int = 0) -> Iterator[tuple[Any, int]]:
    """Those of these names in a traced program, and in how many loops each stands."""
    for equation in getattr(program, "jaxpr", program).eqns:
        name = equation.primitive.name
        if name in names:
            yield equation, depth
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner, *names, depth=depth + (name in LOOPS))


def _sizes(product: Any) -> tuple[int, int, int]:
    """The three dimensions of a product, however many axes they are spread over."""
    (contracted, _), (batch, _) = product.params["dimension_numbers"]
    left, right = (operand.aval for operand in product.invars)
    shared = math.prod(left.shape[axis] for axis in contracted)
    members = math.prod(left.shape[axis] for axis in batch)
    both = max(shared * members, 1)  # of arrays without elements, nothing is divided by 0
    return left.size // both, shared, right.size // both


def compile_lowered(lowered: Any, options: dict[str, Any]) -> Any:
    """With those of these options that this version of XLA has.

    Where JAX is told to optimize little, by ``JAX_DISABLE_MOST_OPTIMIZATIONS``, the level of optimization is its own.
    """
    if jax.config.values["jax_disable_most_optimizations"]:
        options = {name: value for name, value in options.items() if name != "xla_backend_optimization_level"}
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        known = {name: value for name, value in options.items() if f"option: '{name}'" not in str(error)}
        if known == options:
            raise
        return compile_lowered(lowered, known)


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Programs are compiled, and not taken from JAX's cache on disk."""
    before = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        reset_cache()  # JAX looks at the setting once
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()
