"""Networks in a notebook: the tree of their layers, and the table of ``summary``."""

from __future__ import annotations

from functional_nn.bench.units import in_bytes
from functional_nn.core.layer import Layer
from functional_nn.reports.notebook.layer_sizes import layer_sizes
from functional_nn.reports.notebook.markup import Html, code, faint, fold, joined, table, tag, title, view
from functional_nn.reports.summary import Summary, SummaryRow

OPEN_LAYERS = 12
"""A layer with at most this number of layers inside is shown open."""


def layer_html(layer: Layer) -> str:
    """A tree of layers, which opens and closes."""
    count = _count(layer)
    if not layer.layers:
        return view(title(layer.name, faint("layer"), faint(code(_sizes(layer)))))
    note = "The sizes of all arrays: fnn.show(net, in_shape)."
    heading = title(layer.name, faint(f"network of {count} layers" if count > 1 else "network of one layer"))
    return view(heading, _children(layer), tag("p", faint(note)))


def _children(layer: Layer) -> Html:
    return tag("ul", *(tag("li", _node(name, child)) for name, child in layer.layers))


def _node(name: str, layer: Layer) -> Html:
    line = joined((code(name), " ", _kind(name, layer), " ", faint(code(_sizes(layer)))))
    if not layer.layers:
        return line
    return fold(line, _children(layer), is_open=_count(layer) <= OPEN_LAYERS)


def _kind(name: str, layer: Layer) -> Html:
    """The layer's own name, unless the name it is given says it."""
    return Html("") if name.rpartition("_")[0] == layer.name or name == layer.name else faint(layer.name)


def _sizes(layer: Layer) -> str:
    shown = layer_sizes(layer)
    if layer.layers:
        shown = {name: value for name, value in shown.items() if name == "count"}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _count(layer: Layer) -> int:
    """The number of layers that hold no other layers."""
    return sum(_count(child) for _, child in layer.layers) if layer.layers else 1


def summary_html(summary: Summary) -> str:
    """A table of the layers, each indented below the layer that holds it."""
    heads = ("layer", "output shape", "parameters", "bytes", "FLOPs")
    total = summary.total
    heading = title(total.layer, faint(f"{total.parameters:,} parameters, {in_bytes(total.bytes)}"))
    rows = [_row(row) for row in (*summary.rows, total)]
    return view(heading, table(heads, rows, numbers=(2, 3, 4), label=f"layers of {total.layer}", classes="fnn-summed"))


def _row(row: SummaryRow) -> tuple[str, ...]:
    numbers = (row.parameters, row.bytes, row.flops)
    return (code(row.layer), str(row.output_shape), *(f"{number:,}" if number else faint("0") for number in numbers))
