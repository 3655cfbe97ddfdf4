"""What the statistics of layers mean, in words: dead units, saturated outputs, vanishing and exploding gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from functional_nn.activations.table import ACTIVATIONS
from functional_nn.core.texts import counted
from functional_nn.reports.pages.page import number
from functional_nn.storage.files import JsonObject

VANISHED = 1e-3
"""A gradient has vanished if it is less than this share of the last layer's gradient."""

EXPLODED = 1e3
"""A gradient has exploded if it is more than this many times the last layer's gradient."""

SATURATED = 0.5
"""Saturation is named if more than this share of a layer's outputs is near a limit."""

MOST_ROWS = 40
"""The largest number of layers in the page's table."""

Numbers: TypeAlias = Mapping[str, Mapping[str, float]]


def findings(rows: Sequence[JsonObject]) -> list[str]:
    """Sentences about what may be wrong in a network after the last epoch, and about gradients that vanished before.

    Args:
        rows: the rows of ``layer_statistics.jsonl``.

    Returns:
        The sentences; none if nothing is wrong.

    >>> outputs = {"dense_0": {"units": 64, "dead": 0}, "relu_0": {"units": 64, "dead": 12}}
    >>> gradients = {"dense_0": {"gradient": 1e-7}, "dense_1": {"gradient": 0.1}}
    >>> for sentence in findings([{"epoch": 1, "examples": 256, "outputs": outputs, "gradients": gradients}]):
    ...     print(sentence.partition(".")[0])
    Layer dense_0: 12 of 64 units are 0 after relu_0 for all of 256 training images
    The gradient of dense_0 is 1e−6 of that of dense_1, the last layer
    """
    last = rows[-1]
    return [
        *_of_outputs(last["outputs"], last["gradients"], int(last["examples"])),
        *_of_gradients(_gradients(last)),
        *_of_earlier_gradients(rows),
    ]


def _gradients(row: JsonObject) -> dict[str, float]:
    return {layer: of_layer.get("gradient") for layer, of_layer in row["gradients"].items()}


def _of_outputs(outputs: Numbers, gradients: Numbers, examples: int) -> list[str]:
    sentences = []
    weighted, any_dead = "", False
    for layer, of_layer in outputs.items():
        # An activation has no weights: the layer with weights before it is the one whose units it shows.
        if any(path == layer or path.startswith(f"{layer}/") for path in gradients):
            weighted = layer
        kind = layer.rpartition("/")[2].rpartition("_")[0]
        # Only activations are looked at. A pooled or flattened image has pixels that are 0 for all examples, too.
        if kind not in ACTIVATIONS:
            continue
        dead, units = of_layer.get("dead", 0), of_layer.get("units", 0)
        if dead:
            which = "all units" if dead == units else f"{int(dead)} of {counted(int(units), 'unit')}"
            verb = "is" if dead == 1 and dead != units else "are"
            place = f"Layer {weighted}: {which} {verb} 0 after {layer}" if weighted else f"{layer}: {which} {verb} 0"
            # What it means is said once.
            meaning = "" if any_dead else " Such a unit is dead: it changes no answer, and its weights get no gradient."
            sentences.append(f"{place} for all of {counted(examples, 'training image')}.{meaning}")
            any_dead = True
        share = of_layer.get("saturated", 0)
        if share > SATURATED:
            sentences.append(
                f"Layer {layer} is saturated: {share:.0%} of its outputs are within 1% of a limit, where the "
                "derivative is almost 0."
            )
    return sentences


def _of_gradients(gradients: Mapping[str, float]) -> list[str]:
    if not gradients:
        return []
    *others, last = gradients
    if any(value is None or not math.isfinite(value) for value in gradients.values()):
        names = [layer for layer, value in gradients.items() if value is None or not math.isfinite(value)]
        return [f"The gradient of {', '.join(names)} is not finite."]
    if gradients[last] == 0:
        return [f"The gradient of {last}, the last layer, is 0 for these images."]
    sentences = []
    for layer in others:
        ratio = gradients[layer] / gradients[last]
        if ratio == 0:
            sentences.append(f"The gradient of {layer} is 0, so {layer} does not learn.")
        elif ratio < VANISHED:
            sentences.append(
                f"The gradient of {layer} is {number(ratio, 1)} of that of {last}, the last layer. It vanishes on its "
                f"way back through the network, so {layer} learns slowly, unless the optimizer rescales gradients as "
                "adam does."
            )
        elif ratio > EXPLODED:
            sentences.append(
                f"The gradient of {layer} is {number(ratio, 1)} times that of {last}, the last layer. It explodes on "
                "its way back through the network. Clipping (--clip-norm) or normalization helps."
            )
    return sentences


def _of_earlier_gradients(rows: Sequence[JsonObject]) -> list[str]:
    """The worst earlier epoch of each layer whose gradient had vanished and came back."""
    sentences = []
    at_end = _ratios(rows[-1])
    for layer, now in at_end.items():
        earlier = [(ratios[layer], row["epoch"]) for row in rows[:-1] if layer in (ratios := _ratios(row))]
        worst, epoch = min(earlier, default=(1.0, 0))
        if worst < VANISHED <= now:
            sentences.append(
                f"The gradient of {layer} had vanished after epoch {epoch}: it was {number(worst, 1)} of that of the "
                f"last layer. After epoch {rows[-1]['epoch']} it is {number(now, 1)} of it."
            )
    return sentences


def _ratios(row: JsonObject) -> dict[str, float]:
    """The gradient of each layer, divided by that of the last layer. Empty if a number is not finite, or that is 0."""
    gradients = _gradients(row)
    values = list(gradients.values())
    if not values or not values[-1] or any(value is None or not math.isfinite(value) for value in values):
        return {}
    return {layer: value / values[-1] for layer, value in gradients.items()}


def layer_names(rows: Sequence[JsonObject]) -> list[str]:
    """The layers in the order of the network, each before the layers inside it that have weights only."""
    last = rows[-1]
    names = list(last["outputs"])
    for path in last["gradients"]:
        if path not in names:
            inside = [place for place, name in enumerate(names) if path.startswith(f"{name}/")]
            names.insert(inside[-1] + 1 if inside else len(names), path)
    return names[:MOST_ROWS]
