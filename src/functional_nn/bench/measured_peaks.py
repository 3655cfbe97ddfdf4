"""Peak speed of the device, measured beside the program with products and streams of bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.bench.compiled_program import Timing, clocked
from functional_nn.jaxprs.counts import PRODUCTS, flops_by_scope, flops_of, product_name, size_of
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.walk import array_type, equations, trace

MatmulPrecision: TypeAlias = lax.Precision | tuple[lax.Precision, lax.Precision] | None

OWN_SHAPES = 3
"""How many of the program's own products are measured: those with the most operations."""
MOST_REPEATS = 1000
LEAST_STREAM = 65_536


class Scale(NamedTuple):
    """How large the measured products and streams are.

    Args:
        sizes: of the square products. The smaller one does not fill a large accelerator.
        stream: bytes of the large stream.
        flops, bytes: the work of one call, of either kind, so that the launch takes only a small part of the time.
    """

    sizes: tuple[int, ...]
    stream: int
    flops: float
    bytes: float


SCALES = {"cpu": Scale((1024,), 32 * 2**20, 2e8, 2.5e8)}
SCALE_OF_ACCELERATORS = Scale((1024, 4096), 256 * 2**20, 2e11, 4e9)


class Rate(NamedTuple):
    """Operations and bytes per second that one measurement reached in its best call, on all devices of the program."""

    name: str
    flops_per_second: float
    bytes_per_second: float


class Peaks(NamedTuple):
    """The largest rates that the device reached beside the program, and all measured rates.

    >>> peaks = Peaks((Rate("1024³", 2e12, 1e9), Rate("stream of 64 MB", 1e8, 1e11)))
    >>> peaks.flops_per_second, peaks.bytes_per_second
    (2000000000000.0, 100000000000.0)
    """

    rates: tuple[Rate, ...]

    @property
    def flops_per_second(self) -> float:
        """The largest number of operations per second."""
        return max(rate.flops_per_second for rate in self.rates)

    @property
    def bytes_per_second(self) -> float:
        """The largest number of bytes per second."""
        return max(rate.bytes_per_second for rate in self.rates)


class Trial(NamedTuple):
    """A program that repeats one operation.

    Args:
        name: the operation.
        run: makes a call; returns its seconds.
        repeats: how often a call repeats the operation.
        flops: floating-point operations of one repeat.
        bytes: bytes that one repeat moves.
    """

    name: str
    run: Callable[[], float]
    repeats: int
    flops: int
    bytes: int

    def rate(self, timing: Timing, times_faster: int = 1) -> Rate:
        """The rate of the best call, multiplied by how many times faster several devices are."""
        seconds = timing.best / self.repeats / times_faster
        return Rate(self.name, self.flops / seconds, self.bytes / seconds)


def trials(program: ClosedJaxpr, working_set: int, *, own_products: bool = True) -> list[Trial]:
    """The measurements that give the peaks for a traced program.

    They are square products in the type of the program's heaviest product (float32 if it has none), its own heaviest
    products, and streams over arrays of two sizes: the program's working set, and a large one. One kind of stream reads
    and writes an array, the other reads an array and sums it up. Without ``own_products``, the program's products are
    not measured.
    """
    heaviest = heaviest_products(program)
    dtype = array_type(heaviest[0].invars[0]).dtype if heaviest else jnp.dtype(jnp.float32)
    precision = heaviest[0].params["precision"] if heaviest else None
    made = [_square_product(size, dtype, precision) for size in _scale().sizes]
    if own_products:
        made += map(_product_of_program, heaviest)
    # A power of two, so that programs with similar working sets share a compiled stream.
    within = 2 ** math.ceil(math.log2(max(working_set // 2, LEAST_STREAM)))
    for size in sorted({within, _scale().stream}):
        made += _streams(size)
    return made


def _scale() -> Scale:
    return SCALES.get(jax.default_backend(), SCALE_OF_ACCELERATORS)


def heaviest_products(program: ClosedJaxpr) -> list[JaxprEqn]:
    """One equation for each different product in the program: at most three, with the most operations first."""
    totals: Counter[str] = Counter()
    products: dict[str, JaxprEqn] = {}
    for _, equation, repeats, *_ in equations(program):
        # A product of empty arrays has no operations.
        if equation.primitive.name in PRODUCTS and flops_of(equation):
            types = [str(variable.aval) for variable in (*equation.invars, *equation.outvars)]
            key = f"{equation.primitive.name} {types} {sorted(equation.params.items(), key=str)}"
            totals[key] += repeats * flops_of(equation)
            products[key] = equation
    return [products[key] for key, _ in totals.most_common(OWN_SHAPES)]


@lru_cache(maxsize=64)
def _square_product(size: int, dtype: np.dtype, precision: MatmulPrecision) -> Trial:
    x = _random_numbers((size, size), dtype)

    def product(x, y):
        return jnp.matmul(x, y, precision=precision)

    return _repeated_product(f"{size}³", product, x, x, flops_by_scope(trace(product, x, x)).total())


def _product_of_program(equation: JaxprEqn) -> Trial:
    left, right = (_random_numbers(operand.shape, operand.dtype) for operand in map(array_type, equation.invars))
    name = product_name(equation)
    return _repeated_product(name, lambda x, y: bind(equation, (x, y))[0], left, right, flops_of(equation))


def _random_numbers(shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """Numbers from -1 to 1, or integers from 0 to 7. With equal numbers, some devices use less power and are faster."""
    uniform = np.random.default_rng(0).random(shape, np.float32)
    return jnp.asarray(2 * uniform - 1 if jnp.issubdtype(dtype, jnp.inexact) else 8 * uniform).astype(dtype)


def _repeated_product(
    name: str, product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, y: jax.Array, flops: int
) -> Trial:
    """A loop of products. Each product reads an element of the previous result, so it has to wait for it.

    The loop carries the whole result, so that all of it is computed. In an unrolled loop XLA computed only one element
    of an outer product.
    """
    out = jax.eval_shape(product, x, y)

    def again(out, x, y):
        x = x.at[(0,) * x.ndim].set(out[(0,) * out.ndim].astype(x.dtype))
        return product(x, y), x, y

    moved = size_of(x) + size_of(y) + size_of(out)
    return _repeated(name, again, (jnp.zeros(out.shape, out.dtype), x, y), flops, moved)


@lru_cache(maxsize=64)
def _streams(size: int) -> tuple[Trial, Trial]:
    """Two loops: one reads and writes an array of ``size`` bytes, the other one reads it and sums it up."""

    def scaled(x):
        # The numbers stay near 1. With infinite or subnormal numbers, the speed could be another one.
        return (x * 0.999 + 0.001,)

    def summed(total, x):
        x = x.at[0].set(total)  # each sum depends on the previous one, so XLA cannot leave one out
        return jnp.sum(x), x

    count, name = size // 4, f"of {size / 2**20:.3g} MiB"
    x = jnp.ones(count, jnp.float32)
    return (
        _repeated(f"stream {name}", scaled, (x,), 2 * count, 2 * size),
        _repeated(f"sum {name}", summed, (jnp.float32(0), x), count, size),
    )


def _repeated(
    name: str, again: Callable[..., tuple[jax.Array, ...]], carry: tuple[jax.Array, ...], flops: int, moved: int
) -> Trial:
    """A program that repeats ``again`` on its own results, the first of which it returns.

    Args:
        name: the operation.
        again: one repeat.
        carry: the arguments of the first repeat.
        flops, moved: operations and bytes of one repeat.
    """
    share = max(flops / _scale().flops, moved / _scale().bytes)
    repeats = max(1, min(MOST_REPEATS, math.ceil(1 / share)))

    def run(*carry):
        return lax.fori_loop(0, repeats, lambda _, carry: again(*carry), carry)[0]

    compiled = jax.jit(run).lower(*carry).compile()
    # The first call is slower than the others, and is not measured.
    jax.block_until_ready(compiled(*carry))
    return Trial(name, lambda: clocked(compiled, *carry)[0], repeats, flops, moved)
