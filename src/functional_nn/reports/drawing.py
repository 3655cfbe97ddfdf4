"""A panel of a page on which one draws an image, and sees what each layer of a network computes and its answer.

The page computes the network itself, from its weights: ``functional_nn.reports.portable`` writes the evaluation of the
network as plain data, and ``drawing_program.js`` runs it. A step of training is such a program, too, because the
hand-derived gradient consists of the same plain operations. So the network also learns in the page."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.core import trees
from functional_nn.core.errors import InputError, check
from functional_nn.core.layer import Layer, Params, State, child_forward
from functional_nn.core.products import SEVERAL_PLATFORMS, tracing_for
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import check_counts
from functional_nn.data.dataset import Dataset
from functional_nn.jaxprs.walk import trace
from functional_nn.losses.classification import cross_entropy
from functional_nn.reports.portable import PortableProgram, portable

SCRIPTS = (
    *("drawing_program.js", "drawing_numbers.js", "drawing_pen.js", "drawing_layers.js", "drawing_learning.js"),
    "drawing_panel.js",
)
"""The parts of the script, in this folder. Together they are one function, so no name of theirs is visible outside."""

MOST_NUMBERS = 200_000_000
"""The values of all operations, for one picture or one step, may have this many numbers together."""
MOST_MAPS = 128
"""The largest number of channels that are shown of one layer."""

MOST_UNITS = 1024
"""The largest layer without channels whose units are shown."""

MOST_TRAINED, STEP_SIZE = 2_000_000, 3e-4
"""The largest number of parameters that the page trains, and the learning rate of Adam. With a larger rate, the network
forgets other pictures."""

EXAMPLES_IN_A_STEP = 24
PRACTICE, OTHERS, MOST_BYTES = 600, 200, 600_000
"""How many pictures of the training data the page practises with, and with how many of the test data it measures the
accuracy. If pictures are large, there are fewer of them."""


class Picture(NamedTuple):
    """How an array is drawn: as a number of maps, each with rows and columns.

    Args:
        place: the place of the array in the program.
        kind: what the maps are, which decides how large they are drawn.
        size: the numbers of maps, rows and columns.
        steps: how far apart neighbors lie in the array: from map to map, from row to row, from column to column.
        title: what it shows, in words.
        pixels: the place of an image by which each map is multiplied, if any.
    """

    place: int
    kind: Literal["channels", "rows", "units", "products"]
    size: tuple[int, int, int]
    steps: tuple[int, int, int]
    title: str = ""
    pixels: int | None = None


def drawing_panel(panel: Mapping[str, object]) -> str:
    """A section of a page with a drawing area, the activations of every layer, and the probabilities of the classes.

    The section needs no other file. It uses the colors of ``page.css`` if the page has them.

    The network reads a small picture of the size of the images that it was trained on. A pixel is
    255 · min(1, max(0, r + ½ - d)), where d is the distance of its center from the nearest stroke, and r, the radius of
    the pen, is 1.15 pixels for images of 28 × 28. If a box is checked, strokes are first placed as the digits of MNIST:
    scaled to a box of 20 in 28 pixels, with the center of mass in the middle. As in training, bytes are divided by 255.
    The picture can be saved, and ``functional-nn predict`` gives this file the same probabilities.

    The page computes in float32. A network that was trained in bfloat16 may have other probabilities.

    With data, the network can also learn what a drawing is. Each step of training takes the drawings that it was
    taught, and pictures of the training data, so that it does not forget the others. The loss is the cross-entropy, its
    gradient is the hand-derived one, and the optimizer is Adam. As in evaluation, dropout is off, and batch norm keeps
    its statistics. The accuracy on some pictures of the test data is shown before and after.

    Args:
        panel: what ``panel_data`` returns.

    Returns:
        HTML: a ``<section>`` with its own style and script.

    >>> import functional_nn as fnn
    >>> net = fnn.chain(fnn.flatten(), fnn.dense(2))
    >>> params, state = net.init(jax.random.key(0), (4, 4, 1))
    >>> drawing_panel(panel_data(net, params, state, (4, 4, 1), ["dark", "bright"]))[:32]
    '<section class="drawing" aria-la'
    """
    content = json.dumps(panel, separators=(",", ":"))
    folder = Path(__file__).parent / "templates"
    parts = {
        "heading": f"Draw a {'digit' if panel['areDigits'] else 'picture'} and see every layer",
        "style": (folder / "drawing.css").read_text("utf-8"),
        "data": content.replace("<", "\\u003c"),  # so that no text in the data ends the script element
        "script": "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    }
    # All places are filled in one pass, so braces in the data or in the script are not taken for places.
    page = (folder / "drawing.html").read_text("utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], page)


def panel_data(
    net: Layer,
    params: Params,
    state: State,
    image_shape: tuple[int, ...],
    class_names: Sequence[str],
    data: Dataset | None = None,
    *,
    digits: bool = False,
) -> dict[str, object]:
    """What the script of the panel reads: the network as a program, which of its arrays to show, and the classes.

    Args:
        net, params, state: the network with its trained parameters and state. It takes images.
        image_shape: height, width and channels of an image. With three channels, the picture is gray.
        class_names: a name for each output of the network.
        data: the data that the network was trained on; None for a panel without learning.
        digits: whether the network reads single, centered digits. Drawings are then placed as in MNIST, until the
            reader says otherwise.

    Raises:
        InputError: if the network has an operation that the page cannot compute, or parameters that are not finite; or
            for images with another number of channels.
    """
    shape = check_counts("image_shape", image_shape)
    check("image_shape", shape, "height, width, and 1 or 3 channels", len(shape) == 3 and shape[2] in (1, 3))
    params, state = jax.tree.map(_as_float32, (params, state))

    def evaluate(x: jax.Array, params: Params) -> jax.Array:
        return child_forward(net.name, net, {net.name: params}, {net.name: state}, x, train=False, key=None)[0]

    with tracing_for(SEVERAL_PLATFORMS):  # the script computes convolutions as such
        program = portable(trace(evaluate, jnp.zeros((1, *shape), jnp.float32), params))
    return {
        "program": program_data(program),
        "parameters": [written(leaf) for leaf in jax.tree.leaves(params)],
        "layers": _layers(program, net),
        "imageShape": shape,
        "classNames": [str(name) for name in class_names],
        "areDigits": digits,
        "lesson": None if data is None else _lesson(net, params, state, shape, data),
    }


def _lesson(net: Layer, params: Params, state: State, in_shape: Shape, data: Dataset) -> dict[str, object] | None:
    """A step of training as a program, and pictures; None if the network is too large, or the page cannot compute it.

    The program takes the parameters, what the optimizer keeps, a batch and its labels. It gives the new parameters, and
    what the optimizer keeps now.
    """
    optimizer = optax.adam(STEP_SIZE)

    def step(params: Params, kept: optax.OptState, x: jax.Array, labels: jax.Array):
        y, _, pullback = net.vjp(params, state, x, train=False)
        bars, _ = pullback(cross_entropy.gradient(y, labels))
        updates, kept = optimizer.update(bars, kept, params)
        return optax.apply_updates(params, updates), kept

    x = jnp.zeros((EXAMPLES_IN_A_STEP, *in_shape), jnp.float32)
    labels = jnp.zeros(EXAMPLES_IN_A_STEP, jnp.int32)
    if not 0 < trees.size(params) <= MOST_TRAINED:
        return None
    try:
        # Optax multiplies floating-point numbers by integers.
        with tracing_for(SEVERAL_PLATFORMS), jax.numpy_dtype_promotion("standard"):
            program = program_data(portable(trace(step, params, optimizer.init(params), x, labels)))
    except InputError:
        return None
    return {
        "program": program,
        "practice": _pictures(data.train_images, data.train_labels, PRACTICE),
        "others": _pictures(data.test_images, data.test_labels, OTHERS),
    }


def _pictures(images: np.ndarray, labels: np.ndarray, most: int) -> dict[str, object]:
    """Pictures at regular distances, with their labels."""
    count = min(len(images), most, MOST_BYTES // max(images[:1].size, 1))
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    return {
        "bytes": base64.b64encode(images[chosen].tobytes()).decode("ascii"),
        "labels": labels[chosen].tolist(),
    }


def program_data(program: PortableProgram) -> dict[str, object]:
    """A program as the script reads it: without what is worth showing, and with its constants as text.

    Raises:
        InputError: if its arrays are so large that they would take all of a browser's memory.
    """
    numbers = sum(math.prod(shape) for shape in program.shapes)
    if numbers > MOST_NUMBERS:
        expected = f"a network whose values for a picture are at most {MOST_NUMBERS:,} numbers"
        raise InputError("net", expected, f"{numbers:,}", "The page cannot compute it.")
    return {
        "shapes": program.shapes,
        "constants": [(place, written(array)) for place, array in program.constants.items()],
        "inputs": program.inputs,
        "steps": program.steps,
        "outputs": program.outputs,
    }


def _as_float32(leaf: object) -> np.ndarray:
    array = np.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError("params", "finite numbers", "NaN or infinity", "Train again.")
    return array


def written(array: np.ndarray) -> str:
    """The numbers of an array in float32, in base64."""
    return base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")


def _layers(program: PortableProgram, net: Layer) -> list[dict[str, object]]:
    """What is shown of each layer of the outermost chain: its name, its output shape, and pictures of arrays."""
    # The layers of the network have one slash in their scope, as chain/dense_0. A network of one layer has none.
    outputs = [one for one in program.layers if one.scope.count("/") == bool(net.layers)]
    sum_place, weights = _weights(program)
    layers = []
    before = program.inputs[0]
    for output in outputs:
        shape = program.shapes[output.place][1:]
        # A layer that only reshapes has no picture, since the numbers are those of the picture before.
        reshaped = ("reshape", [before], [output.place]) in [step[:3] for step in program.steps]
        pictures = [] if reshaped or output.place == before else _output_pictures(output.place, shape)
        if weights and sum_place <= output.place:
            pictures += weights
            weights = []
        note = "the same numbers in another shape" if reshaped else ""
        layers.append(
            {
                "name": output.scope.removeprefix(f"{net.name}/"),
                "shape": f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})",
                "note": "passes its input on, as always outside of training" if output.place == before else note,
                "pictures": [picture._asdict() for picture in pictures],
            }
        )
        before = output.place
    return layers


def _output_pictures(place: int, shape: Shape) -> list[Picture]:
    """How an output is drawn, given its shape without the batch axis. One of too many axes or units is not drawn."""
    if len(shape) == 1 and shape[0] <= MOST_UNITS:
        return [Picture(place, "units", (shape[0], 1, 1), (1, 1, 1))]
    if len(shape) == 2:
        return [Picture(place, "rows", (1, *shape), (0, shape[1], 1))]
    if len(shape) == 3:
        # The channels are the last axis: the next channel is one element further, and the next column maps elements.
        rows, columns, maps = shape
        return [Picture(place, "channels", (min(maps, MOST_MAPS), rows, columns), (1, columns * maps, maps))]
    return []


def _weights(program: PortableProgram) -> tuple[int, list[Picture]]:
    """The weights of the first dense or convolutional layer, as pictures, and the place of its sum.

    If a dense layer reads all pixels of a gray image, its products pixel · weight for each unit are drawn, too.
    """
    pixels = {program.inputs[0]}
    for name, reads, fills, _ in program.steps:
        if name in ("reshape", "squeeze") and reads[0] in pixels:
            pixels.update(fills)
        if name not in ("dot_general", "conv_general_dilated") or reads[1] not in program.inputs:
            continue
        (place, shape), (_, *image) = (reads[1], program.shapes[reads[1]]), program.shapes[program.inputs[0]]
        # The last axis of the weights is that of the units: the next unit is one element further.
        units = shape[-1]
        if len(shape) == 4:
            maps = shape[2] * units
            size, steps = (min(maps, MOST_MAPS), shape[0], shape[1]), (1, shape[1] * maps, maps)
            colors = "" if shape[2] == 1 else ", for red, then green, then blue"
            return fills[0], [Picture(place, "channels", size, steps, f"weights of each channel{colors}")]
        if len(shape) != 2 or reads[0] not in pixels:
            return fills[0], []
        if shape[0] != math.prod(image) or len(image) != 3 or image[2] != 1:
            return fills[0], [Picture(place, "rows", (1, shape[0], units), (0, units, 1), "weights")]
        size, steps = (min(units, MOST_MAPS), image[0], image[1]), (1, image[1] * units, units)
        title = "pixel × weight for each unit, small values enlarged: blue speaks for the unit, orange against it"
        products = Picture(place, "products", size, steps, title, program.inputs[0])
        return fills[0], [Picture(place, "products", size, steps, "weights of each unit"), products]
    return 0, []
