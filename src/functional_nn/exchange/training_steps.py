"""Training steps as programs in ONNX and StableHLO: networks that other programs train, without this package."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.core.errors import InputError, check, imported
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.products import ONNX, tracing_for
from functional_nn.core.trees import PyTree, flatten, map_with_path
from functional_nn.core.validation import check_trees, tree_in_native_order
from functional_nn.exchange.onnx_models import REMEDY, as_float32, by_name, converted, evaluation_model, session_of
from functional_nn.exchange.stablehlo import PLATFORMS, exporting, of_any_batch, write_program
from functional_nn.storage import files
from functional_nn.storage.arrays import named_arrays, packed
from functional_nn.training.argument_checks import check_batch, check_functions, check_loss, check_metrics
from functional_nn.training.evaluate import check_bytes_of_program, evaluation_of_totals, totals_function
from functional_nn.training.optimizers import explaining_optimizer
from functional_nn.training.precision import PRECISIONS
from functional_nn.training.recipe import Gradient, LossFunction, MetricFunction, PenaltyFunction, Recipe, with_gradient
from functional_nn.training.state import TrainState
from functional_nn.training.step import step_of

STEPS = 10
"""How many steps ONNX Runtime computes before a model is written."""

MOST_DIFFERENCE = 0.05
"""The largest difference to JAX in all these steps together, as a share of what they change.

Rounding alone made 1.5% in deep networks: it decides on which side of 0 the input of a relu is, and Adam's first steps
have their full length also where a gradient is nothing but rounding.
"""

GUIDE = Path(__file__).with_name("training_folder.md")
"""The page in the folder, with places for the names."""

Values: TypeAlias = Mapping[str, jax.Array | np.ndarray]
"""All arrays that a step changes, by their paths: parameters, the network's state, the optimizer's, and the count."""


class TrainingStep(NamedTuple):
    """A training step as a function of arrays by name.

    Args:
        function: ``function(values, x, labels) -> (results, values)``. The results are the loss and the metrics.
        start: the train state before the first step. ``values`` are its arrays by their paths.
        net: the network.
    """

    function: Callable[[Values, PyTree, PyTree], tuple[Values, Values]]
    start: TrainState
    net: Layer

    @property
    def values(self) -> dict[str, jax.Array]:
        """All arrays that a step changes, and ``key``, the random key as integers, by their names."""
        return {name: jnp.asarray(array) for name, array in named_arrays(self.start).items()}


def training_step(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    params: Params,
    state: State,
    *,
    penalty: PenaltyFunction | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    gradient: Gradient = "formula",
) -> TrainingStep:
    """The training step of a network, to be exported: forward pass, backward pass and the optimizer's update in one.

    All numbers are float32, int32 and booleans.

    Args:
        net, loss, optimizer, penalty, metrics, gradient: as ``fit`` takes them; by default the gradient is that of the
            formulas. An optimizer in ``optax.inject_hyperparams`` keeps the learning rate among the values, where the
            other program can change it.
        params, state: the trees to start from.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp, optax
    >>> net = fnn.dense(2)
    >>> params, state = net.init(jax.random.key(0), (3,))
    >>> step = fnn.exchange.training_step(net, fnn.cross_entropy, optax.sgd(0.1), params, state)
    >>> sorted(step.values)
    ['key', 'params/bias', 'params/weight', 'step']
    >>> results, values = step.function(step.values, jnp.ones((4, 3)), jnp.array([0, 1, 1, 1]))
    >>> sorted(results)
    ['accuracy', 'loss']
    """
    net = as_layer(net)
    check_trees(params, state)
    check_functions(loss, optimizer, penalty)
    recipe = Recipe(net, loss, optimizer, metrics=check_metrics(metrics))

    def reporting_loss(y: PyTree, labels: PyTree) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        evaluation = evaluation_of_totals(recipe, totals_function(recipe)(y, labels))
        return check_loss(loss(y, labels))[0], evaluation.metrics

    trained, differentiate = with_gradient(net, gradient)
    step = step_of(Recipe(trained, reporting_loss, optimizer, penalty, None, differentiate), PRECISIONS["float32"])
    with jax.enable_x64(False), explaining_optimizer(optimizer):
        params, state = jax.tree.map(as_float32, (params, state))
        start = TrainState(jnp.zeros((), jnp.int32), params, state, optimizer.init(params), jax.random.key(0))

    def function(values: Values, x: PyTree, labels: PyTree) -> tuple[Values, Values]:
        before: TrainState = map_with_path(lambda path, leaf: values[path], start)
        after, (value, reports) = step(before._replace(key=jax.random.wrap_key_data(before.key)), x, labels)
        return {"loss": value, **reports}, flatten(after._replace(key=before.key))

    return TrainingStep(function, start, net)


def to_onnx_training(step: TrainingStep, x: PyTree, labels: PyTree, folder: str | os.PathLike[str]) -> None:
    """Writes a folder with which ONNX Runtime trains a network, in any language and without Python or JAX.

    ``train.onnx`` computes a step. It takes all values (parameters, the network's state and the optimizer's) by their
    names, and a batch as ``input`` and ``labels``. It returns ``loss``, the metrics, and each new value as ``new/`` and
    its name. ``evaluate.onnx`` computes the outputs of the network. ``start.safetensors`` has the values to start from,
    ``names.json`` the names, and ``README.md`` says how to use them.

    Before the folder is written, ONNX Runtime computes ten steps. The losses, metrics and values have to agree with
    those of JAX.

    Args:
        step: what ``training_step`` returns.
        x, labels: a batch of the size and types with which the other program will train: arrays, or pytrees of arrays.
        folder: a new or empty folder.

    Raises:
        InputError: if jax2onnx cannot convert an operation, if a layer draws random numbers in training, such as
            ``dropout``, if ONNX Runtime computes other numbers, if the folder exists, or if a package is missing.

    An example is in ``docs/how_to/training_without_python.md``.
    """
    check("step", step, "what training_step returns", isinstance(step, TrainingStep))
    imported("onnxruntime", "net", extra="onnx")
    with files.new_folder("folder", folder) as whole, jax.enable_x64(False):
        x, labels = _batch(x, labels)
        batch = by_name("input", x) | by_name("labels", labels)
        values = dict(sorted(step.values.items()))  # JAX sorts dicts in programs
        key = values.pop("key")

        @jax.jit
        def train(values: Values, x: PyTree, labels: PyTree) -> tuple[Values, Values]:
            results, new = step.function({**values, "key": key}, x, labels)
            return results, {name: new[name] for name in values}

        check_bytes_of_program(train, values, x, labels)
        with tracing_for(ONNX):
            program, (results, _) = jax.make_jaxpr(train, return_shape=True)(values, x, labels)
        outputs = [*results, *(f"new/{name}" for name in values)]
        model = converted(program, step.net.name, [*values, *batch], outputs)
        run = session_of(model)
        _check_steps(lambda values: dict(zip(outputs, run({**values, **batch}), strict=True)), train, values, x, labels)
        _, params, state, *_ = step.start
        names = [name for name in step.values if name.startswith(("params/", "state/"))]
        evaluation = evaluation_model(step.net, params, state, lambda program_of: program_of(x), names)
        about = {
            "values": list(values),
            "batch": {name: {"shape": array.shape, "type": str(array.dtype)} for name, array in batch.items()},
            "results": list(results),
        }
        files.write_whole(whole / "train.onnx", model.SerializeToString())
        files.write_whole(whole / "evaluate.onnx", evaluation.SerializeToString())
        files.write_whole(whole / "start.safetensors", packed(named_arrays(values), {}))
        files.write_whole(whole / "names.json", json.dumps(about, indent=1))
        files.write_whole(whole / "README.md", GUIDE.read_text("utf-8"))


def to_stablehlo_training(step: TrainingStep, x: PyTree, labels: PyTree, path: str | os.PathLike[str]) -> None:
    """Writes a file with which JAX trains a network without this package, on a CPU, a GPU or a TPU.

    It is a safetensors file with all values by their names, and with the program, a ``jax.export.Exported`` of
    ``(values, x, labels)`` that returns ``(results, values)``. The results are the loss and the metrics. Batches may
    have any size, and layers may draw random numbers.

    Args:
        step, x, labels: as for ``to_onnx_training``.
        path: the file.

    An example is in ``docs/how_to/training_without_python.md``.
    """
    check("step", step, "what training_step returns", isinstance(step, TrainingStep))
    path = files.check_path("path", path)
    imported("flatbuffers", "path", extra="stablehlo")
    with jax.enable_x64(False), exporting(PLATFORMS) as export:
        write_program(path, export(step.function)(step.values, *of_any_batch(_batch(x, labels))), step.values)


def _batch(x: PyTree, labels: PyTree) -> tuple[PyTree, PyTree]:
    """A batch as arrays of JAX."""
    check_batch(x, labels)
    return jax.tree.map(as_float32, tree_in_native_order((x, labels)))


def _check_steps(run: Callable[..., Values], train: Callable[..., PyTree], values: Values, *batch: PyTree) -> None:
    """Compares steps of ONNX Runtime (``run``) with those of JAX, which start from the same values.

    So rounding errors do not add up: in some networks they double at every step.
    """
    parts = defaultdict(list)
    for _ in range(STEPS):
        outputs, (results, new) = run(values), train(values, *batch)
        compared = [(name, outputs[name], results[name], 0) for name in results]
        compared += [(name, outputs[f"new/{name}"], new[name], values[name]) for name in values]
        for name, found, expected, before in compared:
            part = name.partition("/")[0], jnp.issubdtype(found.dtype, jnp.floating)
            parts[part].append([np.linalg.norm(np.asarray(expected, np.float64) - other) for other in (found, before)])
        values = new
    for (name, _), norms in parts.items():
        difference, change = np.linalg.norm(norms, axis=0)
        if not difference <= MOST_DIFFERENCE * change:  # also if it is NaN
            given = f"one where {name} differs by {difference:.2g}, and {STEPS} steps change it by {change:.2g}"
            raise InputError("net", "a model that trains in ONNX Runtime as in JAX", given, REMEDY)
