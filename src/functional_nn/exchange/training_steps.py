"""Training steps as programs in ONNX and StableHLO: networks that other programs train, without this package."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.core import trees
from functional_nn.core.errors import InputError, check, imported
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.products import ONNX, tracing_for
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_trees, tree_in_native_order
from functional_nn.exchange.onnx_models import REMEDY, as_float32, by_name, converted, evaluation_model, session_of
from functional_nn.exchange.stablehlo import PLATFORMS, exporting, of_any_batch, write_program
from functional_nn.storage.arrays import named_arrays, packed
from functional_nn.storage.files import TEMPORARY, check_new_folder, check_path, write_whole
from functional_nn.training.argument_checks import check_batch, check_functions, check_loss, check_metrics
from functional_nn.training.evaluate import evaluation_of_totals, totals_function
from functional_nn.training.optimizers import explaining_optimizer
from functional_nn.training.precision import PRECISIONS
from functional_nn.training.recipe import LossFunction, MetricFunction, PenaltyFunction, Recipe, with_gradient
from functional_nn.training.state import TrainState
from functional_nn.training.step import step_of

if TYPE_CHECKING:
    import onnx  # pyright: ignore[reportMissingImports]

STEPS = 10
"""How many steps ONNX Runtime trains before a model is written."""

MOST_DIFFERENCE = 0.01
"""The largest difference to JAX in all these steps together, as a share of what training has changed.

Rounding errors add up, and Adam's first steps have their full length also where a gradient is nothing but rounding.
"""

GUIDE = Path(__file__).with_name("training_folder.md")
"""The page in the folder, with places for the names."""

Values: TypeAlias = Mapping[str, jax.Array]
"""All arrays that a step changes, by their paths: parameters, the network's state, the optimizer's, and the count."""


class TrainingStep(NamedTuple):
    """A training step as a function of arrays by name.

    Args:
        function: ``function(values, x, labels) -> (results, values)``. The results are the loss and the metrics.
        values: the values before the first step. ``key`` is the random key, as integers.
    """

    function: Callable[[Values, PyTree, PyTree], tuple[Values, Values]]
    values: Values


def to_onnx_training(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    params: Params,
    state: State,
    x: PyTree,
    labels: PyTree,
    folder: str | os.PathLike[str],
    *,
    penalty: PenaltyFunction | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
) -> None:
    """Writes a folder with which ONNX Runtime trains the network, in any language and without Python or JAX.

    ``train.onnx`` computes a step: the forward pass, the hand-derived backward pass and the optimizer's update. It takes
    all values (parameters, the network's state and the optimizer's) by their names, and a batch as ``input`` and
    ``labels``. It returns ``loss``, the metrics, and each new value as ``new/`` and its name. ``evaluate.onnx`` computes
    the outputs of the network. ``start.safetensors`` has the values to start from, ``names.json`` the names, and
    ``README.md`` says how to use them.

    Before the folder is written, ONNX Runtime trains ten steps, and the losses, metrics and values have to agree with
    those of JAX.

    Args:
        net, loss, optimizer, penalty, metrics: as ``fit`` takes them. An optimizer in ``optax.inject_hyperparams`` keeps
            the learning rate among the values, where the other program can change it.
        params, state: the trees to start from.
        x, labels: a batch of the size and types with which the program will train.
        folder: a new folder.

    Raises:
        InputError: if jax2onnx cannot convert an operation, if a layer draws random numbers in training, such as
            ``dropout``, if ONNX Runtime computes other numbers, if the folder exists, or if a package is missing.

    An example is in ``docs/how_to/training_without_python.md``.
    """
    folder = check_new_folder("folder", folder)
    if os.path.lexists(folder):
        raise InputError("folder", "a new folder", f"{folder}, which exists", "Files are never overwritten.")
    check("folder", str(folder), "a folder inside one that exists", folder.parent.is_dir(), "Make that one first.")
    imported("onnxruntime", "onnxruntime", "net", extra="onnx")
    x, labels = _batch(x, labels)
    with jax.enable_x64(False):
        x, labels, params, state = jax.tree.map(as_float32, (x, labels, params, state))
        function, values = training_step(net, loss, optimizer, params, state, penalty, metrics)
        key = {"key": values["key"]}
        names = [name for name in values if name != "key"]

        @jax.jit
        def step(arrays: Sequence[jax.Array], x: PyTree, labels: PyTree) -> tuple[Values, list[jax.Array]]:
            results, new = function(key | dict(zip(names, arrays, strict=True)), x, labels)
            return results, [new[name] for name in names]

        arrays = [values[name] for name in names]
        batch = _named_batch(x, labels)
        with tracing_for(ONNX):
            program, (results, _) = jax.make_jaxpr(step, return_shape=True)(arrays, x, labels)
        new_names = [f"new/{name}" for name in names]
        model = converted(program, net.name, [*names, *batch], [*results, *new_names])
        _check_steps(model, step, names, arrays, x, labels)
        trees_of_network = [name for name in names if name.startswith(("params/", "state/"))]
        evaluation = evaluation_model(net, params, state, lambda program_of: program_of(x), trees_of_network)
    about = {
        "values": names,
        "batch": {name: {"shape": array.shape, "type": str(array.dtype)} for name, array in batch.items()},
        "results": list(results),
    }
    # Another program never sees a part of the folder.
    with tempfile.TemporaryDirectory(prefix=".", suffix=f".{TEMPORARY}", dir=folder.parent) as beside:
        whole = Path(beside, "whole")
        whole.mkdir()
        write_whole(whole / "train.onnx", model.SerializeToString())
        write_whole(whole / "evaluate.onnx", evaluation.SerializeToString())
        write_whole(whole / "start.safetensors", packed(named_arrays(dict(zip(names, arrays, strict=True))), {}))
        write_whole(whole / "names.json", json.dumps(about, indent=1))
        write_whole(whole / "README.md", GUIDE.read_text("utf-8"))
        whole.rename(folder)


def to_stablehlo_training(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    params: Params,
    state: State,
    x: PyTree,
    labels: PyTree,
    path: str | os.PathLike[str],
    *,
    penalty: PenaltyFunction | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Writes a file with which JAX trains the network without this package, in batches of any size.

    It is a safetensors file with all values by their names, and with the program, a ``jax.export.Exported`` of
    ``(values, x, labels)`` that returns ``(results, values)``. The results are the loss and the metrics.

    Args:
        net, loss, optimizer, params, state, x, labels, penalty, metrics: as for ``to_onnx_training``. Layers may draw
            random numbers: the random key is one of the values.
        path: the file.
        platforms: as for ``to_stablehlo``.

    An example is in ``docs/how_to/training_without_python.md``.
    """
    path = check_path("path", path)
    imported("flatbuffers", "flatbuffers", "path", extra="stablehlo")
    x, labels = _batch(x, labels)
    function, values = training_step(net, loss, optimizer, params, state, penalty, metrics)
    with exporting(platforms) as export:
        write_program(path, export(function)(values, *of_any_batch((x, labels))), values)


def training_step(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    params: Params,
    state: State,
    penalty: PenaltyFunction | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
) -> TrainingStep:
    """The training step of a network by its hand-derived backward pass. ``to_onnx_training`` has the arguments."""
    net = as_layer(net)
    check_trees(params, state)
    check_functions(loss, optimizer, penalty)
    check_metrics(metrics)
    recipe = Recipe(net, loss, optimizer, metrics=None if metrics is None else tuple(metrics.items()))

    def reporting_loss(y: PyTree, labels: PyTree) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        evaluation = evaluation_of_totals(recipe, totals_function(recipe)(y, labels))
        return check_loss(loss(y, labels))[0], evaluation.metrics

    net_by_formula, gradient = with_gradient(net, "formula")
    step = step_of(Recipe(net_by_formula, reporting_loss, optimizer, penalty, None, gradient), PRECISIONS["float32"])
    with explaining_optimizer(optimizer):
        optimizer_state = optimizer.init(params)
    start = TrainState(jnp.zeros((), jnp.int32), params, state, optimizer_state, jax.random.key(0))
    structure = jax.tree.structure(start)
    values = {name: jnp.asarray(array) for name, array in named_arrays(start).items()}
    names = list(values)

    def function(values: Values, x: PyTree, labels: PyTree) -> tuple[Values, Values]:
        before: TrainState = jax.tree.unflatten(structure, [values[name] for name in names])
        after, (value, reports) = step(before._replace(key=jax.random.wrap_key_data(before.key)), x, labels)
        new = jax.tree.leaves(after._replace(key=before.key))
        return {"loss": value, **reports}, dict(zip(names, new, strict=True))

    return TrainingStep(function, values)


def _batch(x: PyTree, labels: PyTree) -> tuple[PyTree, PyTree]:
    check_batch(x, labels)
    return jax.tree.map(jnp.asarray, tree_in_native_order((x, labels)))


def _check_steps(
    model: onnx.ModelProto,
    step: Callable[..., tuple[Values, list[jax.Array]]],
    names: Sequence[str],
    start: Sequence[jax.Array],
    x: PyTree,
    labels: PyTree,
) -> None:
    """Trains some steps by ONNX Runtime and by JAX, and compares the results, and each part of the values."""
    run, batch = session_of(model), _named_batch(x, labels)
    first = found = list(map(np.asarray, start))
    expected, differences = start, []
    for _ in range(STEPS):
        results, expected = step(expected, x, labels)
        outputs = run({**dict(zip(names, found, strict=True)), **batch})
        found = outputs[len(results) :]
        differences += [(name, 0, outputs[number], results[name]) for number, name in enumerate(results)]
    differences += zip(names, first, found, expected, strict=True)
    parts: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for name, before, theirs, ours in differences:
        ours = np.asarray(ours, np.float64)
        part = name.partition("/")[0], jnp.issubdtype(theirs.dtype, jnp.floating)
        parts.setdefault(part, []).append((np.linalg.norm(theirs - ours), np.linalg.norm(ours - before)))
    for (name, _), norms in parts.items():
        difference, change = np.linalg.norm(norms, axis=0)
        given = f"{name} that differs by {difference:.2g} where {STEPS} steps change it by {change:.2g}"
        expects = "a model that trains in ONNX Runtime as in JAX"
        check("net", given, expects, difference <= MOST_DIFFERENCE * change, REMEDY)


def _named_batch(x: PyTree, labels: PyTree) -> Values:
    return by_name("input", x) | by_name("labels", labels)
