"""Padding of matrix products to the blocks that a chip's matrix unit multiplies."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.bench.diagnose.jaxpr import place
from functional_nn.bench.targets.chips import REGISTER_BYTES, Chip
from functional_nn.jaxprs.flops import flops_of
from functional_nn.jaxprs.inner_programs import array_type
from functional_nn.jaxprs.matrix_products import PRODUCTS, operand_types, product_name
from functional_nn.jaxprs.walk import equations

PASSES = {lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6}
"""How many products of bfloat16 numbers a TPU computes for one product of float32 numbers."""


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
        passes: how many products of bfloat16 numbers compute it.
    """

    name: str
    layer: str
    flops: int
    padded_flops: int
    passes: int

    @property
    def wasted(self) -> float:
        """The share of the matrix unit's work that is padding."""
        return 1 - self.flops / self.padded_flops

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        return {**self._asdict(), "wasted": self.wasted}


def padded_products(program: ClosedJaxpr, chip: Chip) -> tuple[PaddedProduct, ...]:
    """The products of floating-point numbers in a program, those with the most wasted work first.

    Equal products of one layer are one entry. The matrix unit holds a block of one operand, and rows of the other one
    pass through it. So the shared size and one of the free sizes are rounded up to the size of the unit, and the other
    free size is rounded up to the rows of a register. Of the two ways, the better one counts. A convolution counts as
    the product of all windows with the weights. This is a model of the unit, and no measurement: the compiler may find
    a better layout for a small convolution, or take a worse one.

    Args:
        program: the traced program, as the chip computes it.
        chip: the chip.
    """
    flops: defaultdict[tuple[str, str, int], int] = defaultdict(int)
    padded_flops = flops.copy()
    for scope, equation, repeats, _ in equations(program):
        if equation.primitive.name in PRODUCTS and flops_of(equation) and _is_floating(equation):
            key = product_name(equation), place(scope), _passes(equation)
            flops[key] += repeats * flops_of(equation)
            rows_of_register = REGISTER_BYTES // operand_types(equation)[0].dtype.itemsize
            padded_flops[key] += repeats * _padded(product_sizes(equation), chip.matrix_unit, rows_of_register)
    products = [
        PaddedProduct(name, layer, number, padded_flops[name, layer, passes], passes)
        for (name, layer, passes), number in flops.items()
    ]
    return tuple(sorted(products, key=lambda product: product.flops - product.padded_flops))


def wasted_share(products: tuple[PaddedProduct, ...]) -> float:
    """The share of the matrix unit's work that is padding, over several products; 0 if there are none."""
    padded = sum(product.passes * product.padded_flops for product in products)
    return 1 - sum(product.passes * product.flops for product in products) / padded if padded else 0.0


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


def _padded(sizes: ProductSizes, unit: int, rows_of_register: int) -> int:
    """The operations if the sizes are rounded up to whole blocks, with the better choice of the operand that stays."""

    def up(size: int, block: int) -> int:
        return block * math.ceil(size / block)

    rows, columns = sizes.rows, sizes.columns
    free = min(up(rows, rows_of_register) * up(columns, unit), up(rows, unit) * up(columns, rows_of_register))
    return 2 * sizes.products * up(sizes.shared, unit) * free


def _is_floating(equation: JaxprEqn) -> bool:
    return all(jnp.issubdtype(operand.dtype, jnp.floating) for operand in operand_types(equation))


def _passes(equation: JaxprEqn) -> int:
    """How many products of bfloat16 numbers compute a product, at the precision that JAX asks for; at least 1."""
    if operand_types(equation)[0].dtype != jnp.float32:
        return 1
    precision = equation.params["precision"]
    wanted = precision if isinstance(precision, tuple) else (precision,)
    return max(PASSES.get(one, 1) for one in wanted)
