"""Table of a network: the output shape, the parameters and the operations of each layer."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr
from jax.typing import DTypeLike

from functional_nn.core import trees
from functional_nn.core.children import MARK, child_forward
from functional_nn.core.display import html_repr
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.output_shape import with_key_if_needed
from functional_nn.core.shapes import Shape, shape_of, stand_in, traced
from functional_nn.core.texts import aligned
from functional_nn.core.validation import check_dtype
from functional_nn.jaxprs.flops import flops_by_scope, flops_of
from functional_nn.jaxprs.inner_programs import array_type
from functional_nn.jaxprs.origins import arguments_read
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
        head, *rows, total = aligned([heads, *(_cells(row) for row in (*self.rows, self.total))], numbers_from=2)
        rule = "-" * len(head)
        return "\n".join((head, rule, *rows, rule, total))

    __repr__ = __str__
    _repr_html_ = html_repr


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

    def marked(key):
        def forward(params, state, x):
            return child_forward(net.name, net, {net.name: params}, {net.name: state}, x, train=False, key=key)[0]

        return forward

    program = traced(
        lambda x: with_key_if_needed(lambda key: jax.make_jaxpr(marked(key))(params, state, x)), in_shape, dtype
    )
    leaves = trees.flatten({net.name: params})
    rows = []
    for layer in _layers(program, list(leaves)):
        own = [leaves[path] for path in layer.parameters]
        rows.append(
            SummaryRow(
                layer.name.removeprefix(f"{net.name}/"),
                layer.output_shape,
                sum(leaf.size for leaf in own),
                sum(leaf.size * leaf.dtype.itemsize for leaf in own),
                layer.flops,
            )
        )
    *layers, total = rows
    return Summary(tuple(layers), total)


@dataclass
class _Use:
    """One use of a layer in the program: it ends at the layer's mark."""

    scope: str
    output_shape: Shape
    flops: int
    parameters: tuple[str, ...]
    has_own_path: bool

    @property
    def name(self) -> str:
        """The path of the parameters, if it ends with the layer's name and is not the scope; else the scope."""
        if self.has_own_path or not self.parameters:
            return self.scope
        folder = posixpath.commonpath([posixpath.dirname(path) for path in self.parameters])
        return folder if posixpath.basename(folder) == posixpath.basename(self.scope) else self.scope


def _layers(program: ClosedJaxpr, paths: Sequence[str]) -> list[_Use]:
    """The layers of a traced program, in the order in which they end. A layer that is used several times is one.

    A combinator names its layers as it names their parameters, so a scope is the path of its parameters. A layer that
    is written by hand around other layers may call them by other names. Then two layers may have one scope, and their
    parameters are those that their equations read.
    """
    uses = _uses(program, paths)
    written_by_hand = {posixpath.dirname(use.scope) for use in uses if use.parameters and not use.has_own_path}
    flops = flops_by_scope(program)
    layers: dict[tuple[str, int | tuple[str, ...]], _Use] = {}
    for number, use in enumerate(uses):
        if posixpath.dirname(use.scope) not in written_by_hand:
            use.flops = sum(count for inner, count in flops.items() if trees.is_under(inner, use.scope))
            layers.setdefault((use.scope, ()), use)
        elif (key := (use.scope, use.parameters or number)) in layers:
            layers[key].flops += use.flops
        else:
            layers[key] = use
    # A layer that reads the parameters of an earlier one, which is not inside it, shares them. They count once.
    seen: dict[str, str] = {}
    for layer in layers.values():
        if not layer.has_own_path:
            shared = {path for path in layer.parameters if not trees.is_under(seen.get(path, layer.scope), layer.scope)}
            layer.parameters = tuple(path for path in layer.parameters if path not in shared)
        seen |= dict.fromkeys(layer.parameters, layer.scope)
    return list(layers.values())


def _uses(program: ClosedJaxpr, paths: Sequence[str]) -> list[_Use]:
    """Every mark of a layer in a program, with the operations and the parameters since the last one of its scope."""
    # The parameters are the first inputs of the program, in the order of the paths.
    origins = {number: frozenset([number]) for number in range(len(paths))}
    steps = [
        (located, read) for located, read in zip(equations(program), arguments_read(program, origins), strict=True)
    ]
    uses: list[_Use] = []
    ends: dict[str, int] = {}
    for end, (located, _) in enumerate(steps):
        if not str(located.equation.params.get("name", "")).startswith(MARK):
            continue  # only the marks at the ends of layers are uses
        scope = located.scope
        # If a layer is used again, only what comes after the mark of its last use belongs to this use.
        inside = [step for step in steps[ends.get(scope, 0) : end] if trees.is_under(step[0].scope, scope)]
        ends[scope] = end + 1
        own = tuple(path for path in paths if trees.is_under(path, scope))
        read = sorted(frozenset[int]().union(*(read for _, read in inside)))
        uses.append(
            _Use(
                scope,
                shape_of(array_type(located.equation.outvars[0])),
                sum(one.repeats * flops_of(one.equation) for one, _ in inside),
                own or tuple(paths[number] for number in read),
                bool(own),
            )
        )
    return uses


def _cells(row: SummaryRow) -> tuple[str, ...]:
    return (row.layer, str(row.output_shape), f"{row.parameters:,}", f"{row.bytes:,}", f"{row.flops:,}")
