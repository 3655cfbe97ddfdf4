"""Table of a network: the output shape, the parameters and the operations of each layer."""

from __future__ import annotations

from typing import NamedTuple

from jax.typing import DTypeLike

from functional_nn.core import trees
from functional_nn.core.display import html_table
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.shapes import Shape, stand_in
from functional_nn.core.texts import aligned
from functional_nn.core.validation import check_dtype
from functional_nn.jaxprs.layer_uses import layer_uses, trace_layers

HEADS = ("layer", "output shape", "parameters", "bytes", "FLOPs")


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
        head, *rows, total = aligned([HEADS, *(_cells(row) for row in (*self.rows, self.total))], numbers_from=2)
        rule = "-" * len(head)
        return "\n".join((head, rule, *rows, rule, total))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.total.layer, HEADS, map(_cells, (*self.rows, self.total)))


def summary(net: Layer, in_shape: Shape | list[int], *, dtype: DTypeLike | None = None) -> Summary:
    """A table of the layers of ``net`` for one example of ``in_shape``: output shape, parameters, bytes, FLOPs.

    ``dtype`` is the input's type; by default it is a floating-point type, or an integer type if the network refuses
    floating-point numbers. Nothing is computed: shapes and operations are read from the traced program of the forward
    pass in evaluation. A product of (m, k) and (k, n) counts 2 m k n operations; see ``functional_nn.jaxprs.counts``.

    >>> import functional_nn as fnn
    >>> print(fnn.summary(fnn.chain(fnn.dense(3), fnn.relu), (4,)))
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
        check_dtype(dtype)
    program, params = trace_layers(net, in_shape, dtype)
    leaves = trees.flatten({net.name: params})
    rows = []
    for layer in layer_uses(program, list(leaves)):
        own = [leaves[path] for path in layer.parameters]
        path = layer.name.removeprefix(f"{net.name}/")
        sizes = sum(leaf.size for leaf in own), sum(leaf.size * leaf.dtype.itemsize for leaf in own)
        rows.append(SummaryRow(path, layer.output_shape, *sizes, layer.flops))
    *layers, total = rows
    return Summary(tuple(layers), total)


def _cells(row: SummaryRow) -> tuple[str, ...]:
    return (row.layer, str(row.output_shape), f"{row.parameters:,}", f"{row.bytes:,}", f"{row.flops:,}")
