"""Statistics of each layer's output and gradient after an epoch, to find dead units and vanishing gradients.

Where the numbers of every epoch come from: ``functional-nn train --out`` computes them in its callback after each
epoch, on 256 training images that are always the same. The alternatives are worse. A run keeps the checkpoints of its
last two epochs and of the best one only, so most epochs could not be computed afterwards. Statistics inside the train
step would change the compiled training program, and might change its bits. The callback reads the train state and
changes nothing. It costs one more program to compile, which JAX's compilation cache keeps, and about as much as
training on 256 images; in long runs, not after every epoch (``is_recorded``). A run reports this time apart from the
time of training. The numbers are in ``layer_statistics.jsonl`` in the run's folder. Each line has a checksum, and a run
without this file lacks nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core import trees
from functional_nn.core.layer import MARK, Layer, Params, State, as_layer
from functional_nn.jaxprs.evaluate import run_steps
from functional_nn.jaxprs.walk import flattened, layer_of
from functional_nn.jaxprs.xla_options import quick_jit
from functional_nn.storage import run_folder
from functional_nn.storage.files import JsonObject
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.step import LossFunction, forward

MOST_EXAMPLES = 256
"""The number of training examples that the statistics are computed on, if there are as many."""

SATURATED = 0.99
"""An output of a sigmoid or of tanh is saturated if it has gone this share of the way to its limit."""

RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
"""The limits of activations that saturate."""

DIGITS = 4
"""Significant digits that are kept. More would differ between processors."""

Numbers: TypeAlias = dict[str, dict[str, float]]
"""Numbers by name, for each layer."""
Arrays: TypeAlias = dict[str, dict[str, jax.Array]]
"""The same inside a traced program."""

LayerStatistics: TypeAlias = Callable[[Params, State, jax.Array, jax.Array], tuple[Numbers, Numbers]]
"""``statistics(params, state, x, labels) -> (outputs, gradients)``."""


def is_recorded(epoch: int) -> bool:
    """Whether an epoch gets a row: each one up to 64, then every second one up to 128, every fourth one up to 256, ….

    So a run of 5,000 short epochs writes 263 rows, and not 5,000.

    >>> [epoch for epoch in range(60, 72) if is_recorded(epoch)], sum(map(is_recorded, range(1, 5001)))
    ([60, 61, 62, 63, 64, 66, 68, 70], 263)
    """
    # The power is at most 1 up to epoch 63. From epoch 64 on it is 2, and it doubles with each further bit.
    return epoch % max(1, 2 ** (epoch.bit_length() - 6)) == 0


def chosen_examples(examples: int) -> np.ndarray:
    """The numbers of the examples that the statistics are computed on. They are spread evenly over all examples.

    >>> chosen_examples(1000)[:4], len(chosen_examples(1000)), len(chosen_examples(60))
    (array([ 0,  3,  7, 11]), 256, 60)
    """
    return np.linspace(0, examples - 1, min(examples, MOST_EXAMPLES)).astype(int)


def make_layer_statistics(net: Layer, loss: LossFunction, precision: str | Precision = "float32") -> LayerStatistics:
    """Makes a function that computes statistics of every layer's output, and of every layer's gradient.

    The network is evaluated as after training: without dropout, and with the running statistics of batch norm. The
    layers inside a loop, as in ``repeat``, count as one layer.

    Of the output of each layer: ``units`` (the size of the last axis), ``dead`` (the number of units that are 0 for all
    examples), ``zeros`` (the share of numbers that are 0), ``mean`` and ``deviation``; after a sigmoid or tanh also
    ``saturated``, the share of numbers near a limit.

    Of each layer with a weight: ``gradient`` and ``weight``, the root mean square of the gradient's and of the weight's
    elements. Biases are left out.

    Args:
        net, loss, precision: as for ``fit``. Of a network with convolutions or loops, ``with_hand_vjp(net)`` is faster.

    >>> import functional_nn as fnn
    >>> net = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2))
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> statistics = make_layer_statistics(net, fnn.cross_entropy)
    >>> outputs, gradients = statistics(params, state, jnp.zeros((5, 4)), jnp.zeros(5, jnp.int32))
    >>> outputs["relu_0"]["dead"], list(gradients), gradients["dense_0"]["gradient"]
    (3.0, ['dense_0', 'dense_1'], 0.0)
    """
    net, policy = as_layer(net), as_precision(precision)
    # A compiled program returns dicts with their keys sorted. So the order of the layers is noted while it is traced,
    # which happens before its first results.
    order: list[list[str]] = [[], []]

    def computed(params: Params, state: State, x: jax.Array, labels: jax.Array) -> tuple[Arrays, Arrays]:
        def output(params: Params) -> jax.Array:
            return forward(net, policy, params, state, x, train=False)[0]

        def mean_loss(params: Params) -> jax.Array:
            value = loss(output(params), labels)
            return value[0] if isinstance(value, tuple) else value

        outputs = _layer_outputs(output, params)
        names = list(outputs)
        gradients = trees.flatten(jax.grad(mean_loss)(params))
        weights = trees.flatten(params)
        # Biases and scales are vectors, which are left out. A network of one layer has no name in its paths.
        weights_of: dict[str, list[str]] = {}
        for path in sorted(weights, key=lambda path: _place(path, names)):
            if weights[path].ndim > 1:
                weights_of.setdefault(path.rpartition("/")[0] or net.name, []).append(path)
        rows_of_weights = {
            layer: {
                "gradient": _root_mean_square([gradients[path] for path in paths]),
                "weight": _root_mean_square([weights[path] for path in paths]),
            }
            for layer, paths in weights_of.items()
        }
        order[:] = list(outputs), list(rows_of_weights)
        return {layer: _of_output(layer, output) for layer, output in outputs.items()}, rows_of_weights

    program = quick_jit(computed)

    def statistics(params: Params, state: State, x: jax.Array, labels: jax.Array) -> tuple[Numbers, Numbers]:
        outputs, gradients = jax.device_get(program(params, state, x, labels))
        return _rounded(outputs, order[0]), _rounded(gradients, order[1])

    return statistics


@dataclass
class StatisticsRecorder:
    """Writes the statistics of each epoch into a run's folder. A run that goes on keeps the rows of its first epochs.

    Args:
        folder: the run's folder.
        net, loss, precision: as for ``fit``.
        x, labels: the training examples as the network takes them, and their labels.
        restored_epochs: the number of epochs of the newest checkpoint. Earlier epochs are in the file already, and
            their parameters are not known any more.
        seconds: the time that the statistics took so far.
    """

    folder: Path
    net: Layer
    loss: LossFunction
    precision: str | Precision
    x: np.ndarray
    labels: np.ndarray
    restored_epochs: int = 0
    seconds: float = 0.0
    _kept: dict[int, JsonObject] = field(default_factory=dict)
    _statistics: LayerStatistics | None = None

    def __post_init__(self):
        if self.restored_epochs:
            rows = run_folder.read_layer_statistics(self.folder)
            self._kept = {row["epoch"]: row for row in rows if row["epoch"] <= self.restored_epochs}

    def record(self, epoch: int, params: Params, state: State, *, is_last: bool = False) -> None:
        """Adds the row of an epoch, if it gets one and the file does not have it. The last epoch of a run gets one."""
        if epoch == 1 and not is_last:
            # All rows are written in one step, so that a run that is killed while it reports its restored epochs keeps
            # them.
            run_folder.create_layer_statistics(self.folder, self._kept.values())
        # Only the last of the restored epochs has these parameters. It has no row if the run was killed before it was
        # written.
        gets_row = is_last or (is_recorded(epoch) and epoch >= self.restored_epochs)
        if gets_row and epoch and epoch not in self._kept:
            self._add(epoch, params, state)

    def _add(self, epoch: int, params: Params, state: State) -> None:
        clock = time.perf_counter()
        if self._statistics is None:
            self._statistics = make_layer_statistics(self.net, self.loss, self.precision)
        rows = chosen_examples(len(self.x))
        x, labels = jnp.asarray(self.x[rows]), jnp.asarray(self.labels[rows])
        outputs, gradients = self._statistics(params, state, x, labels)
        row = {"epoch": epoch, "examples": len(rows), "outputs": outputs, "gradients": gradients}
        run_folder.append_layer_statistics(self.folder, row)
        self._kept[epoch] = row
        self.seconds += time.perf_counter() - clock


def _layer_outputs(function: Callable[[Params], jax.Array], params: Params) -> dict[str, jax.Array]:
    """The output of each layer by its path, in the order of the network. Layers mark their outputs in the program."""
    program = flattened(jax.make_jaxpr(function)(params))
    marks = [step for step in program.steps if str(step.equation.params.get("name", "")).startswith(MARK)]
    # The operations are traced again here, into the program of all statistics. XLA leaves out those that no statistic
    # needs.
    values = {place: jnp.asarray(constant) for place, constant in program.constants.items()}
    values |= dict(zip(program.inputs, jax.tree.leaves(params), strict=True))
    run_steps(program.steps, values)
    return {
        layer_of(step.scope)[0]: values[step.outputs[0]]
        for step in marks
        if jnp.issubdtype(program.shapes[step.outputs[0]].dtype, jnp.floating)
    }


def _of_output(layer: str, output: jax.Array) -> dict[str, jax.Array]:
    output = output.astype(jnp.promote_types(output.dtype, jnp.float32))
    # The output of a neuron, (batch,), is that of one unit.
    by_unit = output.reshape(-1, output.shape[-1] if output.ndim > 1 else 1)
    numbers = {
        "units": jnp.asarray(by_unit.shape[-1], output.dtype),
        "dead": jnp.sum(jnp.all(by_unit == 0, axis=0)).astype(output.dtype),
        "zeros": jnp.mean((output == 0).astype(output.dtype)),
        "mean": jnp.mean(output),
        "deviation": jnp.std(output),
    }
    # The path chain_0/tanh_1 belongs to the activation tanh.
    limits = RANGES.get(layer.rpartition("/")[2].rpartition("_")[0])
    if limits is not None:
        low, high = limits
        # Half of the range is the way from the middle to a limit.
        margin = (high - low) / 2 * (1 - SATURATED)
        near = (output < low + margin) | (output > high - margin)
        numbers["saturated"] = jnp.mean(near.astype(output.dtype))
    return numbers


def _root_mean_square(arrays: Sequence[jax.Array]) -> jax.Array:
    size = sum(array.size for array in arrays)
    # Scaled by the largest element, so that small gradients in float32 do not become 0 when they are squared.
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(array)).astype(jnp.float32) for array in arrays]))
    scale = jnp.where(largest > 0, largest, 1)
    total = sum(jnp.sum((array.astype(jnp.float32) / scale) ** 2) for array in arrays)
    return scale * jnp.sqrt(total / size)


def _place(path: str, layers: Sequence[str]) -> tuple[int, str]:
    """The place of a parameter in the network: that of the layer it belongs to, or of the first layer around it."""
    found = [number for number, layer in enumerate(layers) if trees.is_under(path, layer)]
    return (found[0] if found else len(layers)), path


def _rounded(numbers: Mapping[str, Mapping[str, np.ndarray]], layers: Sequence[str]) -> Numbers:
    return {
        layer: {name: float(f"{float(value):.{DIGITS}g}") for name, value in numbers[layer].items()} for layer in layers
    }
