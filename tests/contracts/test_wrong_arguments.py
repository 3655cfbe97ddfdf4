"""Every public function, called with one wrong argument: what comes out is our own clear error, or a result.

Not one call may end in a message of JAX, NumPy, Optax or Python about code that the caller did not write.
"""

import functools
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn import data as fnn_data
from functional_nn.errors import FormulaMissing, InputError
from functional_nn.gradients.cases import LAYERS, LOSSES, started

KEY = jax.random.key(0)
IDX = str(Path(fnn_data.__file__).parent / "mnist5k" / "t10k-labels-idx1-ubyte.gz")
WRONG = {
    "None": None,
    "text": "nonsense",
    "empty text": "",
    "bytes": b"x",
    "minus one": -1,
    "zero": 0,
    "fraction": 0.5,
    "huge": 10**30,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "complex": 1j,
    "flag": True,
    "object": object(),
    "empty list": [],
    "empty tuple": (),
    "list of None": [None],
    "list of texts": ["a", "b"],
    "tuple of floats": (0.5, 2.5),
    "negative sizes": (-1, -2),
    "nested": ((1, (2,)),),
    "dict": {},
    "dict of text": {"weight": "heavy"},
    "dict of None": {"weight": None},
    "scalar array": np.float32(3),
    "vector": np.ones(3, np.float32),
    "empty array": np.zeros((0, 3), np.float32),
    "array of rank 6": np.ones((1, 2, 1, 2, 1, 2), np.float32),
    "array of integers": np.arange(6).reshape(2, 3),
    "array of booleans": np.ones((2, 3), bool),
    "complex array": np.ones((2, 3), np.complex64),
    "array of objects": np.array([None, "x"], object),
    "array of texts": np.array(["a", "b"]),
    "key": KEY,
    "keys": jax.random.split(KEY, 2),
    "function": lambda *arguments, **options: None,
    "layer": fnn.dense(2),
    "masked": fnn.Masked(np.ones((2, 3, 4), np.float32), np.ones((2, 3), bool)),
    "masked nonsense": fnn.Masked("a", None),
}


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests, since Optax is among what is called."""


def complaint(call, *arguments, **options) -> str:
    """What is wrong with how a call fails; empty where it gives something, or one of our own errors."""
    try:
        call(*arguments, **options)
    except (InputError, FormulaMissing, OSError):  # what the operating system says of a file is clear enough
        return ""
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:90]!r} at {frame.filename.rsplit('/', 2)[-1]}:{frame.lineno}"
    return ""


def faults_of(name, call, valid) -> list[str]:
    """All complaints about one wrong argument at a time, and about the right ones."""
    found = [f"{name}: {said}"] if (said := complaint(call, **valid)) else []
    for argument in valid:
        for kind, wrong in WRONG.items():
            if said := complaint(call, **{**valid, argument: wrong}):
                found.append(f"{name}({argument}={kind}): {said}")
    return found


def abstractly(function):
    """Traced but not computed, as under ``jit``; what is given stays concrete."""

    @functools.wraps(function)
    def call(**arguments):
        def traced():
            function(**arguments)

        jax.eval_shape(traced)

    return call


def using(maker, in_shape, make_x=None):
    """Makes a layer and traces its first forward and backward pass."""

    @abstractly
    def call(**arguments):
        layer = maker(**arguments)
        params, state = layer.init(KEY, in_shape)
        x = jnp.ones((2, *in_shape)) if make_x is None else make_x()
        y, _, pullback = layer.vjp(params, state, x, train=True, key=KEY)
        pullback(y)

    return call


def tokens():
    return np.arange(10).reshape(2, 5)


MAKERS = {
    "dense": (fnn.dense, {"out_size": 2, "bias": True, "initializer": "glorot", "name": "dense"}, (3,)),
    "neuron": (fnn.neuron, {"activation": fnn.relu, "initializer": None, "name": "neuron"}, (3,)),
    "flatten": (fnn.flatten, {"keep": 1, "name": "flatten"}, (2, 3, 4)),
    "reshape": (fnn.reshape, {"shape": (3, 2), "name": "reshape"}, (6,)),
    "dropout": (fnn.dropout, {"rate": 0.5, "name": "dropout"}, (3,)),
    "spatial_dropout": (fnn.spatial_dropout, {"rate": 0.5, "name": "dropout"}, (3, 4)),
    "stochastic_depth": (fnn.stochastic_depth, {"rate": 0.5, "name": "dropout"}, (3,)),
    "prelu": (fnn.prelu, {"negative_slope": 0.25, "name": "prelu"}, (3,)),
    "conv": (
        fnn.conv,
        {"out_size": 2, "window": 3, "stride": 1, "padding": "same", "dilation": 1, "groups": 1, "bias": True}
        | {"initializer": "he", "lowering": "auto", "name": "conv"},
        (5, 6, 2),
    ),
    "conv_transpose": (
        fnn.conv_transpose,
        {"out_size": 2, "window": 3, "stride": 1, "padding": "same", "dilation": 1, "groups": 1, "bias": True}
        | {"initializer": "he", "lowering": "auto", "name": "conv"},
        (5, 6, 2),
    ),
    "max_pool": (fnn.max_pool, {"window": 2, "stride": 2, "padding": "valid", "name": "pool"}, (5, 6, 2)),
    "average_pool": (
        fnn.average_pool,
        {"window": 2, "stride": 2, "padding": "valid", "count_padding": False, "name": "pool"},
        (5, 6, 2),
    ),
    "global_average_pool": (fnn.global_average_pool, {"name": "pool"}, (5, 2)),
    "global_max_pool": (fnn.global_max_pool, {"name": "pool"}, (5, 2)),
    "batch_norm": (
        fnn.batch_norm,
        {"axes": None, "axis_name": None, "momentum": 0.9, "epsilon": 1e-5, "name": "batch_norm"},
        (3,),
    ),
    "layer_norm": (fnn.layer_norm, {"axes": -1, "epsilon": 1e-5, "scale": True, "bias": True, "name": "norm"}, (4,)),
    "rms_norm": (fnn.rms_norm, {"axes": -1, "epsilon": 1e-5, "scale": True, "name": "norm"}, (4,)),
    "group_norm": (fnn.group_norm, {"groups": 2, "epsilon": 1e-5, "scale": True, "bias": True, "name": "n"}, (3, 4)),
    "instance_norm": (fnn.instance_norm, {"epsilon": 1e-5, "scale": True, "bias": True, "name": "norm"}, (3, 4)),
    "rnn": (
        fnn.rnn,
        {"hidden_size": 3, "activation": fnn.tanh, "returns": "last", "initial_state": "zeros"}
        | {"initializer": "glorot", "name": "rnn"},
        (4, 2),
    ),
    "lstm": (
        fnn.lstm,
        {"hidden_size": 3, "forget_bias": 1.0, "returns": "last", "initial_state": "zeros"}
        | {"initializer": "glorot", "name": "lstm"},
        (4, 2),
    ),
    "gru": (
        fnn.gru,
        {"hidden_size": 3, "reset_after": True, "returns": "last", "initial_state": "zeros"}
        | {"initializer": "glorot", "name": "gru"},
        (4, 2),
    ),
    "attention": (
        fnn.attention,
        {"heads": 2, "head_size": 2, "out_size": 3, "causal": False, "rotary": False, "bias": True}
        | {"initializer": "glorot", "name": "attention"},
        (4, 6),
    ),
    "embedding": (
        fnn.embedding,
        {"count": 10, "out_size": 3, "initializer": "lecun", "name": "embedding"},
        (5,),
        tokens,
    ),
    "unembedding": (fnn.unembedding, {"count": 10, "initializer": "lecun", "name": "unembedding"}, (3,)),
    "learned_positions": (fnn.learned_positions, {"max_time": 9, "name": "positions"}, (5, 3)),
    "sinusoidal_positions": (fnn.sinusoidal_positions, {"name": "positions"}, (5, 4)),
    "chain": (lambda first, name: fnn.chain(first, fnn.relu, name=name), {"first": fnn.dense(2), "name": "c"}, (3,)),
    "parallel": (
        lambda first, combine, name: fnn.parallel(first, fnn.dense(2), combine=combine, name=name),
        {"first": fnn.dense(2), "combine": "sum", "name": "parallel"},
        (3,),
    ),
    "residual": (fnn.residual, {"layer": fnn.dense(3), "shortcut": fnn.relu, "name": "residual"}, (3,)),
    "repeat": (fnn.repeat, {"layer": fnn.dense(3), "count": 2, "name": "repeat"}, (3,)),
    "remat": (fnn.remat, {"layer": fnn.dense(3), "policy": None}, (3,)),
    "frozen": (fnn.frozen, {"layer": fnn.dense(3), "paths": "weight"}, (3,)),
    "shared": (
        fnn.shared,
        {"layer": fnn.chain(fnn.dense(3), fnn.dense(3)), "places": {"dense_1": "dense_0"}},
        (3,),
    ),
    "with_hand_vjp": (fnn.with_hand_vjp, {"layer": fnn.dense(3)}, (3,)),
    "bidirectional": (
        fnn.bidirectional,
        {"forward_layer": fnn.rnn(2), "backward_layer": fnn.rnn(3), "name": "bidirectional"},
        (4, 2),
    ),
    "reverse_time": (fnn.reverse_time, {"layer": fnn.rnn(2), "name": "reversed"}, (4, 2)),
    "residual_block": (
        fnn.residual_block,
        {"out_size": 2, "stride": 1, "projection": None, "activation": fnn.relu, "name": "block"},
        (4, 4, 2),
    ),
    "transformer_block": (
        fnn.transformer_block,
        {"heads": 2, "hidden_size": 5, "activation": fnn.gelu, "dropout": 0.0, "causal": False, "rotary": False}
        | {"norm_first": True, "name": "block"},
        (3, 4),
    ),
    "mlp": (
        fnn.mlp,
        {"out_size": 2, "hidden": (3,), "activation": fnn.relu, "dropout": 0.0, "batch_norm": False}
        | {"initializer": None},
        (4,),
    ),
    "cnn": (
        fnn.cnn,
        {"out_size": 2, "hidden": (3,), "activation": fnn.relu, "dropout": 0.0, "batch_norm": False},
        (4, 4, 1),
    ),
    "resnet": (fnn.resnet, {"out_size": 2, "hidden": (3,), "activation": fnn.relu, "dropout": 0.0}, (4, 4, 1)),
    "transformer": (fnn.transformer, {"out_size": 2, "hidden": (4,), "heads": 2, "dropout": 0.0}, (4, 4, 1)),
    "model": (fnn.model, {"name": "mlp", "out_size": 2}, (4,)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_makers_of_layers(name):
    maker, valid, *sample = MAKERS[name]
    assert faults_of(name, using(maker, *sample), valid) == []


def one_of_each(cases):
    """The first case of each layer."""
    return list({case.layer.name: case for case in reversed(cases)}.values())


def faults_of_passes(case):
    params, state, x = started(case)
    layer = case.layer

    def call(key, in_shape, params, state, x, train, noise):
        layer.init(key, in_shape)
        layer.apply(params, state, x, train=train, key=noise)

    def back(y_bar):
        layer.vjp(params, state, x, train=False)[2](y_bar)

    valid = {"key": KEY, "in_shape": case.in_shape, "params": params, "state": state, "x": x, "train": True}
    y, _ = layer.apply(params, state, x, train=False)
    found = faults_of(case.name, abstractly(call), valid | {"noise": KEY})
    return found + faults_of(case.name, abstractly(back), {"y_bar": y})


@pytest.mark.parametrize("case", one_of_each(LAYERS), ids=lambda case: case.name)
def test_passes_of_layers(case):
    assert faults_of_passes(case) == []


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_losses(case):
    def call(y, labels, weights):
        case.loss(y, labels, weights)
        case.loss.gradient(y, labels, weights)
        case.loss.per_example(y, labels)

    valid = {"y": case.y.astype(np.float32), "labels": case.labels, "weights": None}
    assert faults_of(case.name, abstractly(call), valid) == []


@pytest.mark.parametrize("name", fnn.METRICS)
def test_metrics(name):
    valid = {"y": np.ones((3, 4), np.float32), "labels": np.arange(3), "weights": None}
    assert faults_of(name, abstractly(fnn.METRICS[name]), valid) == []


@pytest.mark.parametrize("name", fnn.ACTIVATIONS)
def test_activations(name):
    function = fnn.ACTIVATIONS[name]
    assert faults_of(name, abstractly(lambda x: function(x)), {"x": np.ones((2, 3), np.float32)}) == []


X, LABELS = np.ones((4, 3), np.float32), np.array([0, 1, 1, 0])
SPLIT = fnn.Split(X, LABELS, X, LABELS)
NET, RULE = fnn.dense(2), optax.sgd(0.1)


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
    start = fnn.create_train_state(NET, RULE, KEY, (3,))
    step = fnn.make_train_step(NET, fnn.cross_entropy, RULE)
    epoch, evaluate = fnn.make_epoch(step, 2), fnn.make_evaluate(NET, fnn.cross_entropy)
    network = {"net": NET, "params": params, "state": state, "x": X}
    run = {"epochs": 1, "batch_size": 4, "precision": "float32"}
    fitted = {"net": NET, "loss": fnn.cross_entropy, "optimizer": RULE, "data": SPLIT, "seed": 0, "penalty": None}
    result, tree = swept(), {"dense_0": {"weight": X}}
    of_sweep = {"result": result, "metric": "test_accuracy"}
    stepping = {"train_state": start, "x": X, "labels": LABELS}

    def stepped(net, loss, optimizer, penalty, precision, keep_finite):
        step = fnn.make_train_step(net, loss, optimizer, penalty=penalty, precision=precision, keep_finite=keep_finite)
        step(start, X, LABELS)

    def trained(model, optimizer, loss, penalty, epochs, batch_size, precision, hyperparameters, key, data):
        train = fnn.make_train(
            model, optimizer, loss=loss, penalty=penalty, epochs=epochs, batch_size=batch_size, precision=precision
        )
        train(hyperparameters, key, data)

    def updated(limit, paths, axis):
        rule = fnn.max_norm(limit, paths, axis=axis)
        rule.update(tree, rule.init(tree), tree)

    def penalized(rate, paths, params):
        fnn.l1(rate, paths)(params)
        fnn.l2(rate, paths).gradient(params)

    sizes = {"label_smoothing": 0.1, "ignore_index": None, "class_weights": None}
    return {
        "activation": (fnn.activation, {"name": "relu"}),
        "elu_with": (abstractly(lambda alpha: fnn.elu_with(alpha)(X)), {"alpha": 1.0}),
        "leaky_relu_with": (abstractly(lambda slope: fnn.leaky_relu_with(slope)(X)), {"slope": 0.1}),
        "cross_entropy_with": (lambda **given: fnn.cross_entropy_with(**given)(X, LABELS), sizes),
        "huber_with": (lambda delta: fnn.huber_with(delta)(X, X), {"delta": 1.0}),
        "calibration_error_with": (lambda bins: fnn.calibration_error_with(bins=bins)(X, LABELS), {"bins": 3}),
        "f1_score_with": (lambda average: fnn.f1_score_with(average=average)(X, LABELS), {"average": None}),
        "precision_score_with": (
            lambda average: fnn.precision_score_with(average=average)(X, LABELS),
            {"average": None},
        ),
        "recall_score_with": (lambda average: fnn.recall_score_with(average=average)(X, LABELS), {"average": None}),
        "top_k_accuracy": (lambda k: fnn.top_k_accuracy(k)(X, LABELS), {"k": 2}),
        "l1": (penalized, {"rate": 0.1, "paths": "*weight", "params": tree}),
        "max_norm": (updated, {"limit": 1.0, "paths": "*weight", "axis": 0}),
        "path_mask": (lambda paths, params: fnn.path_mask(paths)(params), {"paths": "*weight", "params": tree}),
        "optimizer": (
            lambda name, learning_rate: fnn.optimizer(name, learning_rate).init(tree),
            {"name": "sgd", "learning_rate": 0.1},
        ),
        "schedule": (
            lambda name, learning_rate, steps: fnn.schedule(name, learning_rate, steps)(0),
            {"name": "step", "learning_rate": 0.1, "steps": 9},
        ),
        "create_train_state": (
            fnn.create_train_state,
            {"net": NET, "optimizer": RULE, "key": KEY, "in_shape": (3,), "precision": "float32"},
        ),
        "make_train_step": (
            abstractly(stepped),
            {"net": NET, "loss": fnn.cross_entropy, "optimizer": RULE, "penalty": None, "precision": "float32"}
            | {"keep_finite": True},
        ),
        "train_step": (abstractly(step), stepping),
        "make_epoch": (
            abstractly(lambda train_step, batch_size: fnn.make_epoch(train_step, batch_size)(start, X, LABELS, 0)),
            {"train_step": step, "batch_size": 2},
        ),
        "epoch": (abstractly(epoch), stepping | {"number": 0}),
        "make_evaluate": (
            abstractly(lambda net, loss, **given: fnn.make_evaluate(net, loss, **given)(start, X, LABELS)),
            {"net": NET, "loss": fnn.cross_entropy, "precision": "float32", "batch_size": 2},
        ),
        "evaluate": (abstractly(evaluate), stepping),
        "make_run": (
            abstractly(lambda **given: fnn.make_run(**given)(start, X, LABELS, X, LABELS)),
            {"epoch": epoch, "evaluate": evaluate, "epochs": 2},
        ),
        "make_train": (
            abstractly(trained),
            {"model": NET, "optimizer": RULE, "loss": fnn.cross_entropy, "penalty": None, "hyperparameters": {}}
            | {"key": KEY, "data": SPLIT}
            | run,
        ),
        "fit": (fnn.fit, fitted | run | {"on_epoch": None, "progress": False}),
        "per_example_gradients": (
            abstractly(fnn.per_example_gradients),
            network | {"loss": fnn.cross_entropy, "labels": LABELS, "train": True, "key": None},
        ),
        "predict_probabilities": (fnn.predict_probabilities, network | {"precision": "float32", "batch_size": 4}),
        "summary": (fnn.summary, {"net": NET, "in_shape": (3,), "dtype": None}),
        "grid": (lambda values: fnn.grid(learning_rate=values), {"values": [0.1, 0.2]}),
        "zipped": (lambda a, b: fnn.zipped(a=a, b=b), {"a": [1, 2], "b": [3, 4]}),
        "crossed": (lambda a, b: fnn.crossed(a, b), {"a": [{"a": 1}], "b": [{"b": 2}]}),
        "choice": (fnn.choice, {"values": [1, 2]}),
        "uniform": (fnn.uniform, {"low": 0.0, "high": 1.0}),
        "log_uniform": (fnn.log_uniform, {"low": 0.1, "high": 1.0}),
        "draws": (
            lambda number, seed, rate: fnn.draws(number, seed=seed, rate=rate),
            {"number": 2, "seed": 0, "rate": fnn.uniform(0, 1)},
        ),
        "read_grid": (fnn.read_grid, {"path": __file__}),
        "folds": (fnn.folds, {"data": SPLIT, "count": 2, "seed": 0}),
        "sweep": (
            fnn.sweep,
            {"model": NET, "optimizer": RULE, "grid": [{"seed": 0}], "data": SPLIT, "loss": fnn.cross_entropy}
            | {"penalty": None, "static": (), "plan": "auto", "exact": False, "order_seed": None, "patience": None}
            | {"halving": None, "keep": True, "out": None, "on_epoch": None, "progress": False}
            | run,
        ),
        "Halving": (
            lambda **given: fnn.Halving(**given).check(5),
            {"epochs": (1, 3), "keep": 0.5, "metric": "test_loss"},
        ),
        "Plan": (
            lambda **given: fnn.sweep(NET, RULE, [{"seed": 0}], SPLIT, epochs=1, batch_size=4, plan=fnn.Plan(**given)),
            {"workers": 1, "members": 1},
        ),
        "Precision": (
            lambda **given: fnn.create_train_state(NET, RULE, KEY, (3,), fnn.Precision(**given)),
            {"parameters": jnp.float32, "compute": jnp.float32, "output": jnp.float32},
        ),
        "summarize": (fnn.summarize, of_sweep | {"over": "seed"}),
        "compare": (
            fnn.compare,
            {"first": result.where(learning_rate=0.1), "second": result.where(learning_rate=0.2)}
            | {"metric": "test_accuracy"},
        ),
        "where": (lambda learning_rate: result.where(learning_rate=learning_rate), {"learning_rate": 0.1}),
        "best": (result.best, {"metric": "test_loss"}),
        "ranked": (result.ranked, {"metric": "test_loss"}),
        "curves": (result.curves, {"metric": "test_loss"}),
        "network": (result.network, {"member": result.members[0]}),
        "ensemble_gain": (
            fnn.ensemble_gain,
            {"result": result, "x": X, "labels": LABELS, "members": None, "combine": "vote"},
        ),
        "ensemble_probabilities": (
            fnn.ensemble_probabilities,
            {"result": result, "x": X, "members": None, "combine": "vote"},
        ),
        "search": (
            fnn.search,
            {
                "study": None,
                "space": None,
                "run": None,
                "population": 2,
                "rounds": 1,
                "seeds": 1,
                "metric": "test_loss",
            },
        ),
        "plot_curves": (fnn.plot_curves, of_sweep | {"by": None}),
        "plot_effects": (fnn.plot_effects, of_sweep),
        "plot_spread": (fnn.plot_spread, of_sweep),
        "plot_heat_map": (fnn.plot_heat_map, of_sweep | {"x": "learning_rate", "y": "seed"}),
        "plot_errors": (fnn.plot_errors, {"activation": fnn.relu, "dtype": "float32"}),
        "load_dataset": (fnn.load_dataset, {"name": "mnist5k", "data_dir": None}),
        "make_dataset": (
            fnn_data.make_dataset,
            {"name": "mine", "train_images": np.ones((2, 3, 3), np.uint8), "train_labels": np.array([0, 1])}
            | {"test_images": np.ones((2, 3, 3), np.uint8), "test_labels": np.array([0, 1])}
            | {"classes": None, "source": "a test"},
        ),
        "read_idx": (fnn_data.read_idx, {"path": IDX, "maximum_bytes": 10**6}),
        "write_idx": (fnn_data.write_idx, {"path": "/dev/null/x", "array": np.ones(3, np.uint8)}),
        "save_parameters": (fnn.save_parameters, {"path": "/dev/null/x", "params": tree, "state": {}}),
        "load_parameters": (fnn.load_parameters, {"path": IDX, "like": (tree, {})}),
        "check_gradients": (
            fnn.check_gradients,
            network
            | {"loss": fnn.cross_entropy, "labels": LABELS, "penalties": (), "weights": None, "train": True}
            | {"key": None, "gradient": None, "mutants": False, "seed": 0},
        ),
        "check_vjp": (
            lambda point, **given: fnn.check_vjp(jnp.negative, lambda x, y_bar: -y_bar, point, **given),
            {"point": np.ones(1), "second_order": False, "kinks_as_automatic": False, "mutants": False, "seed": 0},
        ),
        "verify": (
            lambda **given: fnn.verify(["relu"], **given),
            {"quick": True, "dtype": None, "jobs": 1, "progress": False},
        ),
    }
