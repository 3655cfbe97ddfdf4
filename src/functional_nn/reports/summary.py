"""Table of a network: the output shape, the parameters and the operations of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.typing import DTypeLike

from functional_nn.core import trees
from functional_nn.core.children import MARK, child_forward
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.shapes import Shape, shape_of, stand_in, traced
from functional_nn.core.validation import check_dtype
from functional_nn.jaxprs.flops import flops_by_scope
from functional_nn.jaxprs.walk import equations


class SummaryRow(NamedTuple):
    """A layer: its path, the shape of its output, its parameters and their bytes, and its operations.

    The output and the operations (``flops``) are those of one example's forward pass.
    """

    layer: str
    output_shape: Shape
    parameters: int
    bytes: int
    flops: int


class Summary(NamedTuple):
    """The rows of all layers, and their sum. It prints as a table."""

    rows: tuple[SummaryRow, ...]
    total: SummaryRow

    def __str__(self) -> str:
        heads = ("layer", "output shape", "parameters", "bytes", "FLOPs")
        table = [heads, *(_cells(row) for row in (*self.rows, self.total))]
        widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
        lines = [_line(row, widths) for row in table]
        rule = "-" * len(lines[0])
        return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:-1], rule, lines[-1]))

    __repr__ = __str__


def summary(net: Layer, in_shape: Shape | list[int], *, dtype: DTypeLike | None = None) -> Summary:
    """A table of the layers of ``net`` for one example of ``in_shape``: output shape, parameters, bytes, FLOPs.

    ``dtype`` is the input's type; by default it is a floating-point type, or an integer type if the network refuses
    floating-point numbers. Nothing is computed: shapes and operations are read from the traced program of the forward
    pass in evaluation. A product of (m, k) and (k, n) counts 2 m k n operations; see ``functional_nn.jaxprs.flops``.

    >>> import functional_nn as fnn
    >>> print(summary(fnn.chain(fnn.dense(3), fnn.relu), (4,)))
    layer    output shape  parameters  bytes  FLOPs
    -----------------------------------------------
    dense_0  (3,)                  15     60     27
    relu_0   (3,)                   0      0      3
    -----------------------------------------------
    chain    (3,)                  15     60     30
    """
    net = as_layer(net)
    in_shape = tuple(in_shape) if isinstance(in_shape, list) else in_shape
    stand_in(in_shape)
    if dtype is not None:
        check_dtype("dtype", dtype)
    params, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))

    def marked(params, state, x):
        return child_forward(net.name, net, {net.name: params}, {net.name: state}, x, train=False, key=None)[0]

    program = traced(lambda x: jax.make_jaxpr(marked)(params, state, x), in_shape, dtype)
    scopes = flops_by_scope(program)
    leaves = trees.flatten({net.name: params})
    rows = []
    for scope, equation, *_ in equations(program):
        if not str(equation.params.get("name", "")).startswith(MARK):
            continue  # only the marks at the ends of layers are rows
        own = [leaf for path, leaf in leaves.items() if trees.is_under(path, scope)]
        rows.append(
            SummaryRow(
                scope.removeprefix(f"{net.name}/"),
                shape_of(equation.outvars[0].aval),
                sum(leaf.size for leaf in own),
                sum(leaf.size * leaf.dtype.itemsize for leaf in own),
                sum(flops for inner, flops in scopes.items() if trees.is_under(inner, scope)),
            )
        )
    *layers, total = rows
    return Summary(tuple(layers), total)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line with names and shapes on the left of their columns, and numbers on the right."""
    layer, shape, *numbers = cells
    texts = [layer.ljust(widths[0]), shape.ljust(widths[1])]
    texts += [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    return "  ".join(texts)


def _cells(row: SummaryRow) -> tuple[str, ...]:
    return (row.layer, str(row.output_shape), f"{row.parameters:,}", f"{row.bytes:,}", f"{row.flops:,}")
