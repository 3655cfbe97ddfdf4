"""Every public function that makes no layer, with one wrong argument."""

import functools
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.contracts.public_names import public_names
from tests.contracts.wrong_arguments import IDX, KEY, abstractly, faults_of, strict_promotion  # noqa: F401

import functional_nn as fnn
from functional_nn import data as fnn_data
from functional_nn.gradients.cases import LAYERS
from functional_nn.gradients.textbook import GradientDescent

X, LABELS = np.ones((4, 3), np.float32), np.array([0, 1, 1, 0])
SPLIT = fnn.data.Split(X, LABELS, X, LABELS)
NEGATED = partial(jax.tree.map, lambda leaf: -1 * leaf), lambda x, y_bar: jax.tree.map(lambda leaf: -1 * leaf, y_bar)
NET, RULE = fnn.dense(2), optax.sgd(0.1)
EPOCH = fnn.training.EpochMetrics(1, {"train_loss": 0.5, "test_accuracy": 0.5}, seconds=0.1)


@functools.cache
def swept():
    return fnn.sweep(
        NET,
        lambda h: optax.sgd(h["learning_rate"]),
        fnn.grid(learning_rate=[0.1, 0.2], seed=range(2)),
        SPLIT,
        epochs=1,
        batch_size=4,
    )


@functools.cache
def calls():
    """Everything public that is not a layer: what is called, with arguments that are right."""
    params, state = NET.init(KEY, (3,))
    start = fnn.training.create_train_state(NET, RULE, KEY, (3,))
    step = fnn.training.make_train_step(NET, fnn.cross_entropy, RULE)
    epoch, evaluate = fnn.training.make_epoch(step, 2), fnn.training.make_evaluate(NET, fnn.cross_entropy)
    network = {"net": NET, "params": params, "state": state, "x": X}
    saved = {"net": NET, "params": params, "state": state, "in_shape": (3,)}
    run = {"epochs": 1, "batch_size": 4, "precision": "float32"}
    fitted = {"net": NET, "loss": fnn.cross_entropy, "optimizer": RULE, "data": SPLIT, "seed": 0, "penalty": None}
    result, tree = swept(), {"dense_0": {"weight": X}}
    state_dict = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    of_sweep = {"result": result, "metric": "test_accuracy"}
    exported = fnn.exchange.training_step(NET, fnn.cross_entropy, RULE, params, state)
    of_step = {"step": exported, "x": X, "labels": LABELS}
    stepping = {"train_state": start, "x": X, "labels": LABELS}

    @functools.wraps(fnn.training.make_train_step)
    def stepped(**given):
        fnn.training.make_train_step(**given)(start, X, LABELS)

    def trained(hyperparameters, key, data, model=NET, optimizer=RULE, loss=fnn.cross_entropy, **options):
        fnn.training.make_train(model, optimizer, loss=loss, **options)(hyperparameters, key, data)

    def penalized(rate, paths, params):
        fnn.l1(rate, paths)(params)
        fnn.l2(rate, paths).gradient(params)

    sizes = {"label_smoothing": 0.1, "ignore_index": None, "class_weights": None}
    return {
        "activation": (fnn.activations.activation, {"name": "relu"}),
        "elu_with": (abstractly(lambda alpha: fnn.activations.elu_with(alpha)(X)), {"alpha": 1.0}),
        "leaky_relu_with": (abstractly(lambda slope: fnn.activations.leaky_relu_with(slope)(X)), {"slope": 0.1}),
        "cross_entropy_with": (lambda **given: fnn.losses.cross_entropy_with(**given)(X, LABELS), sizes),
        "huber_with": (lambda delta: fnn.losses.huber_with(delta)(X, X), {"delta": 1.0}),
        "calibration_error_with": (lambda bins: fnn.metrics.calibration_error_with(bins=bins)(X, LABELS), {"bins": 3}),
        "f1_score_with": (lambda average: fnn.metrics.f1_score_with(average=average)(X, LABELS), {"average": None}),
        "precision_score_with": (lambda average=None: fnn.metrics.precision_score_with(average=average)(X, LABELS), {}),
        "recall_score_with": (lambda average=None: fnn.metrics.recall_score_with(average=average)(X, LABELS), {}),
        "top_k_accuracy": (lambda k: fnn.metrics.top_k_accuracy(k)(X, LABELS), {"k": 2}),
        "l1": (penalized, {"rate": 0.1, "paths": "*weight", "params": tree}),
        "path_mask": (
            lambda paths, params: fnn.training.path_mask(paths)(params),
            {"paths": "*weight", "params": tree},
        ),
        "optimizer": (
            lambda name, learning_rate: fnn.training.optimizer(name, learning_rate).init(tree),
            {"name": "sgd", "learning_rate": 0.1},
        ),
        "schedule": (
            lambda name, learning_rate, steps: fnn.training.schedule(name, learning_rate, steps)(0),
            {"name": "step", "learning_rate": 0.1, "steps": 9},
        ),
        "create_train_state": (
            fnn.training.create_train_state,
            {"net": NET, "optimizer": RULE, "key": KEY, "in_shape": (3,)},
        ),
        "make_train_step": (abstractly(stepped), {"net": NET, "loss": fnn.cross_entropy, "optimizer": RULE}),
        "train_step": (abstractly(step), stepping),
        "make_epoch": (
            abstractly(
                lambda train_step, batch_size: fnn.training.make_epoch(train_step, batch_size)(start, X, LABELS, 0)
            ),
            {"train_step": step, "batch_size": 2},
        ),
        "epoch": (abstractly(epoch), stepping | {"number": 0}),
        "make_evaluate": (
            abstractly(lambda net, loss, **given: fnn.training.make_evaluate(net, loss, **given)(start, X, LABELS)),
            {"net": NET, "loss": fnn.cross_entropy, "precision": "float32", "batch_size": 2},
        ),
        "evaluate": (abstractly(evaluate), stepping),
        "make_run": (
            abstractly(lambda **given: fnn.training.make_run(**given)(start, X, LABELS, X, LABELS)),
            {"epoch": epoch, "evaluate": evaluate, "epochs": 2},
        ),
        "make_train": (abstractly(trained), {"penalty": None, "hyperparameters": {}, "key": KEY, "data": SPLIT} | run),
        "fit": (fnn.fit, fitted | run | {"progress": False}),
        "csv_log": (fnn.training.callbacks.csv_log, {"path": "log.csv"}),
        "early_stopping": (
            lambda **given: fnn.training.callbacks.early_stopping(**given)(EPOCH, start),
            {"patience": 3, "metric": "test_accuracy", "least_change": 0.1},
        ),
        "to_minimize": (EPOCH.to_minimize, {"metric": "test_accuracy"}),
        "per_example_gradients": (
            abstractly(fnn.training.per_example_gradients),
            network | {"loss": fnn.cross_entropy, "labels": LABELS},
        ),
        "predict_probabilities": (fnn.training.predict_probabilities, network | {"batch_size": 4}),
        "predict": (fnn.training.predict, network | {"batch_size": 4}),
        "scaled_bytes": (fnn.data.scaled_bytes, {"x": X, "dtype": "float32"}),
        "summary": (fnn.summary, {"net": NET, "in_shape": (3,)}),
        "grid": (lambda values: fnn.grid(learning_rate=values), {"values": [0.1, 0.2]}),
        "zipped": (lambda a, b: fnn.sweeps.zipped(a=a, b=b), {"a": [1, 2], "b": [3, 4]}),
        "crossed": (lambda a, b: fnn.sweeps.crossed(a, b), {"a": [{"a": 1}], "b": [{"b": 2}]}),
        "choice": (fnn.sweeps.choice, {"values": [1, 2]}),
        "uniform": (fnn.sweeps.uniform, {"low": 0.0, "high": 1.0}),
        "log_uniform": (fnn.sweeps.log_uniform, {"low": 0.1, "high": 1.0}),
        "draws": (
            lambda number, seed, rate: fnn.sweeps.draws(number, seed=seed, rate=rate),
            {"number": 2, "seed": 0, "rate": fnn.sweeps.uniform(0, 1)},
        ),
        "read_grid": (fnn.sweeps.read_grid, {"path": __file__}),
        "folds": (fnn.sweeps.folds, {"data": SPLIT, "count": 2, "seed": 0}),
        "sweep": (
            fnn.sweep,
            {"model": NET, "optimizer": RULE, "grid": [{"seed": 0}], "data": SPLIT, "progress": False} | run,
        ),
        "Halving": (lambda **given: fnn.sweeps.Halving(**given).checked(5), {"epochs": (1, 3), "keep": 0.5}),
        "Plan": (
            lambda **given: fnn.sweep(
                NET, RULE, [{"seed": 0}], SPLIT, epochs=1, batch_size=4, plan=fnn.sweeps.Plan(**given)
            ),
            {"workers": 1, "members": 1},
        ),
        "summarize": (fnn.sweeps.summarize, of_sweep | {"over": "seed"}),
        "merge": (fnn.sweeps.merge, {"folders": ["no_part"], "out": "no_folder"}),
        "where": (lambda learning_rate: result.where(learning_rate=learning_rate), {"learning_rate": 0.1}),
        "best": (result.best, {"metric": "test_loss"}),
        "ranked": (result.ranked, {"metric": "test_loss"}),
        "curves": (result.curves, {"metric": "test_loss"}),
        "network": (result.network, {"member": result.members[0]}),
        "plot_curves": (fnn.plots.plot_curves, of_sweep | {"by": None}),
        "plot_spread": (fnn.plots.plot_spread, of_sweep),
        "plot_heat_map": (fnn.plots.plot_heat_map, of_sweep | {"x": "learning_rate", "y": "seed"}),
        "load_dataset": (fnn.load_dataset, {"name": "mnist5k"}),
        "make_dataset": (
            fnn_data.make_dataset,
            {"name": "mine", "train_images": np.ones((2, 3, 3), np.uint8), "train_labels": np.array([0, 1])}
            | {"test_images": np.ones((2, 3, 3), np.uint8), "test_labels": np.array([0, 1])}
            | {"source": "a test"},
        ),
        "read_idx": (fnn_data.read_idx, {"path": IDX}),
        "from_csv": (fnn_data.from_csv, {"path": IDX, "label": "kind"}),
        "write_idx": (fnn_data.write_idx, {"path": "/dev/null/x", "array": np.ones(3, np.uint8)}),
        "save_parameters": (fnn.storage.save_parameters, {"path": "/dev/null/x", "params": tree, "state": {}}),
        "save_checkpoint": (fnn.storage.save_checkpoint, {"folder": "/dev/null/x", "step": 1, "tree": tree}),
        "restore_checkpoint": (fnn.storage.restore_checkpoint, {"folder": "/dev/null/x", "like": tree}),
        "with_clipping": (
            lambda optimizer, limit: fnn.training.with_clipping(optimizer, limit).init(tree),
            {"optimizer": RULE, "limit": 1.0},
        ),
        "from_torch": (fnn.exchange.from_torch, {"net": NET, "source": state_dict, "in_shape": (3,)}),
        "to_torch": (fnn.exchange.to_torch, saved | {"like": state_dict}),
        "training_step": (
            lambda in_shape, **given: fnn.exchange.training_step(**given),
            saved | {"loss": fnn.cross_entropy, "optimizer": RULE},
        ),
        "to_stablehlo_training": (fnn.exchange.to_stablehlo_training, of_step | {"path": "/dev/null/x"}),
        "to_onnx_training": (fnn.exchange.to_onnx_training, of_step | {"folder": "/dev/null/x"}),
        "to_stablehlo": (fnn.exchange.to_stablehlo, saved | {"platforms": ["cpu"]}),
        "load": (fnn.exchange.load, {"folder": IDX}),
        "to_hub": (fnn.exchange.to_hub, {"run": IDX, "folder": IDX}),
        "layer_of": (fnn.exchange.layer_of, {"module": lambda key: None}),
        "to_onnx": (fnn.exchange.to_onnx, saved),
        "load_parameters": (fnn.storage.load_parameters, {"path": IDX, "like": (tree, {})}),
        "check_gradients": (
            fnn.check_gradients,
            network | {"loss": fnn.cross_entropy, "labels": LABELS, "mutants": False},
        ),
        "find_non_finite": (fnn.find_non_finite, network | {"loss": fnn.cross_entropy, "labels": LABELS}),
        "find_non_finite_in": (
            lambda function, point: fnn.find_non_finite_in(function, point),
            {"function": lambda point: point, "point": np.ones(1)},
        ),
        "check_vjp": (
            lambda point, **given: fnn.check_vjp(*NEGATED, point, **given),
            {"point": np.ones(1), "second_order": False, "kinks_as_automatic": False, "mutants": False, "seed": 0}
            | {"domain": partial(jax.tree.map, jnp.abs)},
        ),
        "check_implementation": (
            lambda array, **given: fnn.gradients.check_implementation(np.negative, lambda _, bar: -bar, array, **given),
            {"array": np.ones(1), "other_points": False, "mutants": False, "seed": 0},
        ),
        "check_layer": (
            fnn.gradients.check_layer,
            {"layer": NET, "in_shape": (3,), "second_order": False, "mutants": False},
        ),
        "check_optimizer": (
            lambda **given: fnn.gradients.check_optimizer(RULE, GradientDescent(0.1), **given),
            {"parameters": {"w": np.ones(2)}, "gradients": None, "steps": 2, "dtype": "float64"},
        ),
        "check_activation": (fnn.gradients.check_activation, {"activation": fnn.relu, "points": [0.5]}),
        "worst": (fnn.gradients.worst, {"function": jnp.sin, "dtypes": ["float32"], "evaluations": 2}),
        "mutate": (
            lambda limit, seed: fnn.gradients.mutate(NEGATED[1], X, X, limit=limit, seed=seed),
            {"limit": 3, "seed": 0},
        ),
        "trees": (
            lambda tree, paths: [fnn.trees.select(tree, paths), fnn.trees.partition(tree, paths)],
            {"tree": tree, "paths": "*weight"},
        ),
        "model": (fnn.model, {"name": "mlp", "out_size": 2}),
        "benchmark": (
            lambda function, **given: fnn.benchmark(function, X, **given),
            {"function": jnp.sin, "name": None, "donate": (), "seconds": 0.01, "layers": False},
        ),
        "explain": (lambda function, **given: fnn.explain(function, X, **given), {"function": jnp.sin, "donate": ()}),
        "target": (
            lambda function, **given: fnn.bench.target(function, X, **given),
            {"function": jnp.sin, "chip": "tpu-v5e", "donate": ()},
        ),
        "verify": (lambda **given: fnn.verify(["relu"], **given), {"quick": True, "jobs": 1, "progress": False}),
    }


RECORDS = {"DataError", "EpochMetrics", "FormulaMissing", "InputError", "Masked", "Member"}
RECORDS |= {"Mutant", "Mutants", "NonFinite", "Report", "Run", "Setting", "Split", "Stream", "Survivor", "SweepResult"}
RECORDS |= {"Checkpoints", "Clipping", "LanguageModel", "Restored"}
RECORDS |= {"Benchmark", "Explanation", "Finding", "TextbookRule", "TrainState", "Trained", "Verdict", "Dataset"}
RECORDS |= {"SavedNetwork", "TargetReport", "TrainingStep", "Worst", "WorstPoint"}
"""What the package makes and gives; nobody checks what a user puts into one."""
DEFINITIONS = {"Activation", "Layer", "Loss", "Metric", "Penalty", "VectorActivation"}
"""What an author of a formula fills in; its parts are tried where they are called."""
TABLES = {"ACTIVATIONS", "LOSSES", "METRICS", "MODELS", "OPTIMIZERS", "SCHEDULES"}


@pytest.mark.usefixtures("small_peaks")
def test_functions():
    assert [fault for name, call in calls().items() for fault in faults_of(name, *call)] == []


def test_everything_public_is_tried():
    tried = {*calls(), *fnn.activations.ACTIVATIONS, *fnn.losses.LOSSES, *fnn.metrics.METRICS, "dataset_names", "l2"}
    tried |= {"check_torch"}  # PyTorch is not installed here
    names = {name.rpartition(".")[2] for name in public_names()} - RECORDS - DEFINITIONS - TABLES - tried
    assert [name for name in names if not any(f"{case.name}_".startswith(f"{name}_") for case in LAYERS)] == []


@pytest.mark.slow
def test_everything_wrong_is_tried():
    files = [__file__, __file__.replace("_of_functions", "")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=os.environ | {"WRONG_ARGUMENTS_SHARE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
