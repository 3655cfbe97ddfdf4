"""A panel of a page on which one draws an image, and sees what each layer of a network computes and its answer.

The page computes the network itself, from its weights: ``functional_nn.jaxprs.portable`` writes the evaluation of the
network as plain data, and ``drawing_program.js`` runs it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core import trees
from functional_nn.core.children import child_forward
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.output_shape import output_shape, with_key_if_needed
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import check_counts, shown
from functional_nn.jaxprs.portable import Observed, PortableProgram, portable
from functional_nn.jaxprs.walk import trace

SCRIPTS = ("drawing_program.js", "drawing_numbers.js", "drawing_pen.js", "drawing_layers.js", "drawing_panel.js")
"""The parts of the script, in this folder. Together they are one function, so no name of theirs is visible outside."""

LARGEST_EXACT = 1024
"""Arrays with more numbers than this are written without the last byte of each float32.

The rounding error is at most 2⁻¹⁷ of a number. In float16 it would be 2⁻¹², which a recurrent network can amplify until
probabilities differ by more than 1e-3.
"""

MOST_MAPS = 128
"""The largest number of channels, or of heads, that are shown of one layer."""

MOST_UNITS = 1024
"""The largest layer without channels whose units are shown."""


def drawing_panel(
    net: Layer, params: Params, state: State, image_shape: tuple[int, ...], class_names: Sequence[str]
) -> str:
    """A section of a page with a drawing area, the activations of every layer, and the probabilities of the classes.

    The picture has the size of the images that the network was trained on. Its bytes are divided by 255, as in
    training. It can be saved, and ``functional-nn predict`` gives this file the same probabilities. The section needs
    no other file, and uses the colors of ``page.css`` if the page has them.

    Weights are written with 16 significant bits, in three bytes each, so probabilities differ by far less than 1e-3. The
    page computes in float32. A network that was trained in bfloat16 may differ by more.

    Args:
        net, params, state: the network with its trained parameters and state.
        image_shape: height, width and channels of an image. With three channels, the picture is gray.
        class_names: a name for each output of the network.

    Returns:
        HTML: a ``<section>`` with its own style and script.

    Raises:
        InputError: if the network has an operation that the page cannot compute, no output for each class, or
            parameters that are not finite; or for images with another number of channels.

    >>> import functional_nn as fnn
    >>> net = fnn.chain(fnn.flatten(), fnn.dense(2))
    >>> params, state = net.init(jax.random.key(0), (4, 4, 1))
    >>> drawing_panel(net, params, state, (4, 4, 1), ["dark", "bright"])[:32]
    '<section class="drawing" aria-la'
    """
    content = json.dumps(panel_data(net, params, state, image_shape, class_names), separators=(",", ":"))
    folder = Path(__file__).parent
    parts = {
        "heading": "Draw a digit and see every layer" if are_digits(class_names) else "Draw a picture and see every layer",
        "style": _smaller((folder / "drawing.css").read_text("utf-8")),
        "data": content.replace("<", "\\u003c"),
        "script": "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    }
    page = (folder / "drawing.html").read_text("utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], page)


def panel_data(
    net: Layer, params: Params, state: State, image_shape: tuple[int, ...], class_names: Sequence[str]
) -> dict[str, object]:
    """What the script of the panel reads: the network as a program, which of its arrays to show, and the classes.

    Raises:
        InputError: as ``drawing_panel``.
    """
    net = as_layer(net)
    shape = check_counts("image_shape", image_shape)
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise InputError("image_shape", "height, width, and 1 or 3 channels", shown(image_shape))
    names = [str(name) for name in class_names]
    params, state = jax.tree.map(_as_float32, (params, state))
    in_shape = _in_shape(net, params, state, shape, len(names))

    def marked(key: jax.Array | None) -> Callable[[jax.Array], jax.Array]:
        def evaluate(x: jax.Array) -> jax.Array:
            return child_forward(net.name, net, {net.name: params}, {net.name: state}, x, train=False, key=key)[0]

        return evaluate

    x = jnp.zeros((1, *in_shape), jnp.float32)
    program = portable(with_key_if_needed(lambda key: trace(marked(key), x)))
    return {
        "program": {
            "shapes": program.shapes,
            "constants": [(place, *_written(array)) for place, array in program.constants.items()],
            "inputs": program.inputs,
            "steps": program.steps,
            "outputs": program.outputs,
        },
        "layers": _layers(program, net),
        "imageShape": shape,
        "classNames": names,
        "areDigits": are_digits(names),
    }


def are_digits(class_names: Sequence[str]) -> bool:
    """Whether the classes are the ten digits. Drawings are then placed as in MNIST, until the reader says otherwise."""
    return [str(name) for name in class_names] == [str(digit) for digit in range(10)]


def _as_float32(leaf: object) -> np.ndarray:
    array = np.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError("params", "finite numbers", "NaN or infinity", "Train again.")
    return array


def _in_shape(net: Layer, params: Params, state: State, image_shape: Shape, classes: int) -> Shape:
    """The shape in which the network takes an image: as it is, or as a vector."""
    given = "none"
    for in_shape in (image_shape, (math.prod(image_shape),)):
        try:
            found = output_shape(net, params, state, in_shape, jnp.float32)
        except (InputError, TypeError, ValueError) as error:
            given = str(error) if given == "none" else given
            continue
        if found == (classes,):
            return in_shape
        given = f"an output of shape {found}"
    raise InputError("net", f"a network with an output for each of the {classes} classes of an image", given)


def _written(array: np.ndarray) -> tuple[str, str]:
    """The type and the bytes of an array, in base64. Small arrays, such as biases, keep all their digits."""
    numbers = np.ravel(array).astype("<f4")
    if array.size <= LARGEST_EXACT or np.abs(numbers).max() > np.finfo(np.float32).max / 2:
        return "float32", base64.b64encode(numbers.tobytes()).decode("ascii")
    rounded = (numbers.view("<u4") + np.uint32(128)).view("u1").reshape(-1, 4)  # half of the byte that is left out
    return "float24", base64.b64encode(rounded[:, 1:].tobytes()).decode("ascii")


def _layers(program: PortableProgram, net: Layer) -> list[dict[str, object]]:
    """What is shown of each layer of the outermost chain: its name, its output shape, and pictures of arrays."""
    named = [one for one in program.observed if one.scope.count("/") == 1] if net.layers else []
    outputs = [one for one in named if one.kind == "output"] or [one for one in program.observed if one.scope == net.name]
    layers = []
    before: int | None = program.inputs[0]
    for output in outputs:
        inside = [
            one
            for one in program.observed
            if one.kind != "output" and trees.is_under(one.scope, output.scope) and not _is_repeated(one, output, program)
        ]
        shape = program.shapes[output.place][1:]
        same = output.place == before or _only_reshapes(program, before, output.place)
        pictures = [_picture(one, program, output) for one in inside]
        if not same:
            pictures.append(_picture(output, program, output))
        layers.append(
            {
                "name": output.scope.removeprefix(f"{net.name}/"),
                "shape": f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})",
                "note": _note(same, output.place == before),
                "pictures": [picture for picture in pictures if picture is not None],
            }
        )
        before = output.place
    return layers


def _note(same: bool, unchanged: bool) -> str:
    if unchanged:
        return "passes its input on, as always outside of training"
    return "the same numbers in another shape" if same else ""


def _only_reshapes(program: PortableProgram, before: int | None, place: int) -> bool:
    return any(name == "reshape" and reads == [before] and fills == [place] for name, reads, fills, _ in program.steps)


def _is_repeated(carry: Observed, output: Observed, program: PortableProgram) -> bool:
    """Whether a layer's output shows all steps of its loop already."""
    steps, example, *rest = program.shapes[carry.place]
    return carry.kind == "carry" and (example, steps, *rest) == program.shapes[output.place]


def _picture(one: Observed, program: PortableProgram, output: Observed) -> dict[str, object] | None:
    """How an array is drawn: as a number of maps, each with rows and columns, or as separate units.

    ``steps`` says how far apart neighbors lie in the array: from map to map, from row to row, from column to column.
    """
    shape = program.shapes[one.place]
    title = ""
    if one.kind == "carry":
        states = [other.place for other in program.observed if other.kind == "carry" and other.scope == one.scope]
        # The axis of the loop's steps is in front, and the batch axis, which has the length 1, is the next one.
        shape = (1, shape[0], *shape[2:])
        title = _state_name(output.scope, states.index(one.place), len(shape) == 3)
    if one.kind == "attention":
        *leading, heads, queries, keys = shape
        maps, steps = math.prod(leading) * heads, (queries * keys, keys, 1)
        title = "attention of each head: which rows (across) each row (down) reads"
        return _maps(one.place, title, "heads", (maps, queries, keys), steps)
    _, *lengths = shape
    if len(lengths) == 1:
        return _maps(one.place, title, "units", (lengths[0], 1, 1), (1, 1, 1)) if lengths[0] <= MOST_UNITS else None
    if len(lengths) == 2:
        rows, columns = lengths
        return _maps(one.place, title, "rows", (1, rows, columns), (0, columns, 1))
    if len(lengths) == 3 and one.kind == "carry":
        maps, rows, columns = lengths
        return _maps(one.place, title, "blocks", (maps, rows, columns), (rows * columns, columns, 1))
    if len(lengths) == 3:
        rows, columns, maps = lengths
        return _maps(one.place, title, "channels", (maps, rows, columns), (1, columns * maps, maps))
    return None


def _maps(
    place: int, title: str, kind: str, size: tuple[int, int, int], steps: tuple[int, int, int]
) -> dict[str, object]:
    if kind != "units":
        size = min(size[0], MOST_MAPS), *size[1:]
    return {"place": place, "title": title, "kind": kind, "size": size, "steps": steps}


def _state_name(scope: str, number: int, is_vector: bool) -> str:
    """What a loop passes on, in words. The second state of a recurrent layer is the cell state of an LSTM."""
    if not is_vector:
        return "after each block"
    return f"{('hidden', 'cell')[number]} state, row by row" if number < 2 else f"state {number + 1}, row by row"


def _smaller(style: str) -> str:
    return re.sub(r"\s*\n\s*", "\n", style)
