"""What the device can do, measured beside the program: products and streams of bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.bench.measure.timing import Timing, clocked
from functional_nn.jaxprs.bytes_moved import size_of
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.flops import flops_of
from functional_nn.jaxprs.walk import equations

PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
OWN_SHAPES = 3
"""Products of the program that its peaks are measured at: those with most operations in all."""
SIZES = {"cpu": (1024,)}
LARGE = (1024, 4096)
"""Sizes of the square products: a large accelerator is not filled by the smaller one."""
WORK = {"cpu": (2e8, 2.5e8)}
MUCH = (2e11, 4e9)
"""Operations and bytes that one call of a measurement has at the least, so that its launch takes little of it."""
MOST_REPEATS = 1000
LEAST_STREAM, LARGE_STREAM = 65_536, {"cpu": 32 * 2**20}


class Rate(NamedTuple):
    """What was reached at something: operations and bytes a second, in the best of so many calls."""

    name: str
    flops_per_second: float
    bytes_per_second: float


class Peaks(NamedTuple):
    """What the device reached beside the program: the best that was seen at anything, and all that was tried.

    >>> peaks = Peaks((Rate("1024³", 2e12, 1e9), Rate("stream of 64 MB", 1e8, 1e11)))
    >>> peaks.flops_per_second, peaks.bytes_per_second
    (2000000000000.0, 100000000000.0)
    """

    rates: tuple[Rate, ...]

    @property
    def flops_per_second(self) -> float:
        """The largest number of operations a second."""
        return max(rate.flops_per_second for rate in self.rates)

    @property
    def bytes_per_second(self) -> float:
        """The largest number of bytes a second."""
        return max(rate.bytes_per_second for rate in self.rates)


class Trial(NamedTuple):
    """A program that does one thing so many times, and what one time costs."""

    name: str
    run: Callable[[], float]
    repeats: int
    flops: int
    bytes: int

    def rate(self, timing: Timing) -> Rate:
        """What it reached in its best call."""
        seconds = timing.best / self.repeats
        return Rate(self.name, self.flops / seconds, self.bytes / seconds)


def trials(program: Any, working_set: int) -> list[Trial]:
    """What the peaks of a traced program are measured by.

    Square products in the type of its heaviest product (float32 where it has none), its own heaviest products, and
    streams over arrays as large as its working set, and over large ones. A stream reads and writes an array, or
    reads and sums it up.
    """
    platform = jax.default_backend()
    own = heaviest_products(program)
    dtype = own[0].invars[0].aval.dtype if own else jnp.dtype(jnp.float32)
    precision = own[0].params["precision"] if own else None
    made = [_square(size, dtype, precision) for size in SIZES.get(platform, LARGE)]
    made += [_own(_product_of(equation)) for equation in own]
    within = 2 ** math.ceil(math.log2(max(working_set // 2, LEAST_STREAM)))
    for size in sorted({within, LARGE_STREAM.get(platform, 256 * 2**20)}):
        made += [_stream(size, False), _stream(size, True)]
    return made


def heaviest_products(program: Any) -> list[Any]:
    """An equation of each kind of product that the program has, at most three, those with most operations first."""
    totals: Counter[_Product] = Counter()
    for _, equation, repeats, _ in equations(program):
        if equation.primitive.name in PRODUCTS:
            totals[_product_of(equation)] += repeats * flops_of(equation)
    return [product.equation for product, _ in totals.most_common(OWN_SHAPES)]


def product_name(equation: Any) -> str:
    """A product in words: ``128×784 · 784×128``.

    >>> product_name(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 3)), jnp.ones((3, 4))).eqns[0])
    '2×3 · 3×4'
    """
    left, right = (v.aval for v in equation.invars)
    kind = "" if equation.primitive.name == "dot_general" else " convolution"
    name = f"{'×'.join(map(str, left.shape))} · {'×'.join(map(str, right.shape))}{kind}"
    return name if left.dtype == jnp.float32 else f"{name} {left.dtype.name}"


@dataclass(frozen=True)
class _Product:
    """A product of a program; those of the same shapes, types and parameters are equal."""

    text: str
    equation: Any = field(compare=False)


def _product_of(equation: Any) -> _Product:
    types = [str(variable.aval) for variable in (*equation.invars, *equation.outvars)]
    return _Product(f"{equation.primitive.name} {types} {sorted(equation.params.items(), key=str)}", equation)


def _work() -> tuple[float, float]:
    return WORK.get(jax.default_backend(), MUCH)


def _repeats(own: float, work: float) -> int:
    return max(1, min(MOST_REPEATS, math.ceil(work / max(own, 1))))


@lru_cache(maxsize=64)
def _square(size: int, dtype: Any, precision: Any) -> Trial:
    x = jnp.ones((size, size), dtype)
    return _repeated(f"{size}³", lambda x, y: jnp.matmul(x, y, precision=precision), (x, x), 2 * size**3)


@lru_cache(maxsize=64)
def _own(product: _Product) -> Trial:
    equation = product.equation
    operands = tuple(jnp.ones(variable.aval.shape, variable.aval.dtype) for variable in equation.invars)
    return _repeated(product_name(equation), lambda *o: bind(equation, o)[0], operands, flops_of(equation))


def _repeated(name: str, product: Callable[..., Any], operands: tuple[Any, ...], flops: int) -> Trial:
    """Each product waits for the one before: an element of that one is put into its first operand.

    The loop carries the whole result, so all of it is computed. Unrolled, XLA made one element of an outer product.
    """
    repeats = _repeats(flops, _work()[0])
    out = jax.eval_shape(product, *operands)

    def run(x, y):
        def again(_, carry):
            x, out = carry
            x = x.at[(0,) * x.ndim].set(out[(0,) * out.ndim].astype(x.dtype))
            return x, product(x, y)

        return lax.fori_loop(0, repeats, again, (x, jnp.zeros(out.shape, out.dtype)))[1]

    moved = sum(size_of(operand) for operand in operands) + size_of(out)
    return Trial(name, _caller(run, *operands), repeats, flops, moved)


@lru_cache(maxsize=64)
def _stream(size: int, summed: bool) -> Trial:
    x = jnp.ones(size // 4, jnp.float32)
    moved = size if summed else 2 * size
    repeats = _repeats(moved, _work()[1])

    def add_up(_, carry):
        x, total = carry
        x = x.at[0].set(total)
        return x, jnp.sum(x)

    def run(x):
        if summed:
            return lax.fori_loop(0, repeats, add_up, (x, jnp.float32(0)))[1]
        return lax.fori_loop(0, repeats, lambda _, x: x * 0.999 + 0.001, x)

    name = f"{'sum' if summed else 'stream'} of {size / 2**20:.3g} MiB"
    return Trial(name, _caller(run, x), repeats, size // 4 * (1 if summed else 2), moved)


def _caller(run: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    compiled = jax.jit(run).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    return lambda: clocked(compiled, *arguments)[0]
