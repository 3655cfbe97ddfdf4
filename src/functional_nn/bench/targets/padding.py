"""Padding of matrix products to the blocks that a chip's matrix unit multiplies."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.bench.diagnose.jaxpr import place
from functional_nn.bench.targets.chips import Blocks, Chip
from functional_nn.jaxprs.flops import flops_of
from functional_nn.jaxprs.inner_programs import array_type
from functional_nn.jaxprs.matrix_products import PRODUCTS, operand_types, product_name
from functional_nn.jaxprs.walk import equations


class ProductSizes(NamedTuple):
    """Several products of (rows, shared) and (shared, columns), of equal sizes."""

    products: int
    rows: int
    shared: int
    columns: int


class PaddedProduct(NamedTuple):
    """A product of a program, with its padding.

    Args:
        name: the shapes of its operands.
        layer: the path of the layer and the direction; empty outside of layers.
        flops: its operations in one call of the program.
        padded_flops: the same, if its sizes are rounded up to whole blocks.
        cost: its time at the chip's peak, divided by the time of the same product of bfloat16 numbers.
    """

    name: str
    layer: str
    flops: int
    padded_flops: int
    cost: float

    @property
    def wasted(self) -> float:
        """The share of the matrix unit's work that is padding."""
        return 1 - self.flops / self.padded_flops

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        return {**self._asdict(), "wasted": self.wasted}


def padded_products(program: ClosedJaxpr, chip: Chip) -> tuple[PaddedProduct, ...]:
    """The products in a program of floating-point numbers up to float32, those with the most wasted work first.

    Equal products of one layer are one entry. The sizes of a product are rounded up to those that the matrix unit
    computes. The compiler may exchange rows and columns, so the better of the two ways counts. A convolution counts as
    the product of all windows with the weights. This is a model of the unit, and no measurement: the compiler may find
    a better layout for a small convolution, or take a worse one.

    Args:
        program: the traced program, as the chip computes it.
        chip: the chip.
    """
    flops: defaultdict[tuple[str, str, float], int] = defaultdict(int)
    padded_flops = flops.copy()
    for scope, equation, repeats, _ in equations(program):
        if equation.primitive.name in PRODUCTS and flops_of(equation) and _is_floating(equation, chip):
            key = product_name(equation), place(scope), _cost(equation, chip)
            flops[key] += repeats * flops_of(equation)
            blocks = chip.blocks[operand_types(equation)[0].dtype.itemsize]
            padded_flops[key] += repeats * _padded(product_sizes(equation), blocks)
    products = [
        PaddedProduct(name, layer, number, padded_flops[name, layer, cost], cost)
        for (name, layer, cost), number in flops.items()
    ]
    return tuple(sorted(products, key=lambda product: product.flops - product.padded_flops))


def wasted_share(products: tuple[PaddedProduct, ...]) -> float:
    """The share of the matrix unit's work that is padding, over several products; 0 if there are none."""
    padded = sum(product.cost * product.padded_flops for product in products)
    return 1 - sum(product.cost * product.flops for product in products) / padded if padded else 0.0


def product_sizes(equation: JaxprEqn) -> ProductSizes:
    """The sizes of a matrix product, or of a convolution as a product of windows and weights.

    >>> import jax
    >>> product_sizes(jax.make_jaxpr(jnp.matmul)(jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4))).eqns[0])
    ProductSizes(products=5, rows=2, shared=3, columns=4)
    """
    left, right = operand_types(equation)
    if equation.primitive.name == "dot_general":
        (contracted, _), (batch, _) = equation.params["dimension_numbers"]
        count, shared = (math.prod(left.shape[axis] for axis in axes) for axes in (batch, contracted))
        return ProductSizes(count, left.size // (count * shared), shared, right.size // (count * shared))
    parameters = equation.params
    out_axis, *_ = parameters["dimension_numbers"].rhs_spec
    outputs = right.shape[out_axis]
    groups = parameters["feature_group_count"] * parameters["batch_group_count"]
    # Between the elements of a dilated input there are zeros, which meet nothing.
    shared = math.ceil(right.size // outputs / math.prod(parameters["lhs_dilation"]))
    result_size = array_type(equation.outvars[0]).size
    return ProductSizes(groups, result_size // outputs, shared, outputs // groups)


def _padded(sizes: ProductSizes, blocks: Blocks) -> int:
    """The operations if all sizes are rounded up to whole blocks."""

    def up(size: int, block: int) -> int:
        return block * math.ceil(size / block)

    free = min(
        up(sizes.rows, blocks.rows) * up(sizes.columns, blocks.columns),
        up(sizes.rows, blocks.columns) * up(sizes.columns, blocks.rows),
    )
    return 2 * sizes.products * up(sizes.shared, blocks.shared) * free


def _is_floating(equation: JaxprEqn, chip: Chip) -> bool:
    types = [operand.dtype for operand in operand_types(equation)]
    return all(jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize in chip.blocks for dtype in types)


def _cost(equation: JaxprEqn, chip: Chip) -> float:
    """The cost of a product, at the precision that JAX asks for."""
    bytes_of_a_number = max(operand.dtype.itemsize for operand in operand_types(equation))
    if bytes_of_a_number < 4:
        return chip.float8_cost if bytes_of_a_number == 1 else 1
    precision = equation.params["precision"]
    wanted = precision if isinstance(precision, tuple) else (precision,)
    # Of other ways to ask for a precision, the cheapest one is assumed, so that the bound holds.
    return max(chip.float32_costs.get(one, chip.float32_costs[lax.Precision.DEFAULT]) for one in wanted)
