"""Whole training runs as pure functions, to compile, to map over a population, or to differentiate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.shapes import shape_of
from functional_nn.core.validation import check_count, check_function, shown
from functional_nn.data.dataset import Split
from functional_nn.losses.classification import cross_entropy
from functional_nn.training.argument_checks import check_batch, check_counts, check_metrics, check_pair
from functional_nn.training.epoch import Epoch, EpochResult, make_epoch
from functional_nn.training.evaluate import Evaluate, Evaluation, make_evaluate
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.recipe import (
    COUNTS,
    STEPS,
    Gradient,
    HyperparameterReader,
    LossMaker,
    MetricFunction,
    ModelFunction,
    OptimizerFunction,
    PenaltyMaker,
    RecipeFunctions,
)
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import step_of


class Trained(NamedTuple):
    """The result of a whole run as a pure function.

    Args:
        train_state: at the end of the run. Steps that are not finite have changed nothing.
        epochs: the result of each epoch, along axis 0.
        evaluations: the loss and the metrics after each epoch, along axis 0.
    """

    train_state: TrainState
    epochs: EpochResult
    evaluations: Evaluation


def make_train(
    model: ModelFunction,
    optimizer: OptimizerFunction,
    *,
    loss: LossMaker = cross_entropy,
    penalty: PenaltyMaker = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    gradient: Gradient = "auto",
    epochs: int = 10,
    batch_size: int = 64,
    precision: str | Precision = "float32",
) -> Callable[..., Trained]:
    """Makes a pure function ``train(hyperparameters, key, data) -> Trained``, a whole training run.

    It can be compiled, mapped over a population by ``vmap``, and differentiated. Nothing stops a run: a step that is
    not finite changes nothing, and the next step follows. ``sweep`` trains with the same steps, but epoch by epoch, so
    that it can show progress, stop early and save.

    Args:
        model, optimizer, loss, penalty: as for ``sweep``; every hyper-parameter may be traced.
        metrics, gradient, epochs, batch_size, precision: as for ``fit``.

    The examples that are evaluated after each epoch are the validation examples if there are any, otherwise the test
    examples.

    >>> import functional_nn as fnn, jax, optax
    >>> images = fnn.load_dataset("mnist5k")
    >>> x, labels, test_x, test_labels = images[1:5]
    >>> data = fnn.data.Split(x[:200], labels[:200], test_x, test_labels)
    >>> net = fnn.chain(fnn.flatten(), fnn.dense(10))
    >>> train = make_train(net, lambda h: optax.sgd(h["learning_rate"]), epochs=2)
    >>> rates, keys = jax.numpy.array([0.1, 0.2, 0.4]), jax.random.split(jax.random.key(0), 3)
    >>> population = jax.jit(jax.vmap(train, in_axes=(0, 0, None)))
    >>> population({"learning_rate": rates}, keys, data).evaluations.accuracy.shape
    (3, 2)
    """
    check_counts(epochs, batch_size)
    check_metrics(metrics)
    policy = as_precision(precision)
    named = None if metrics is None else tuple(metrics.items())
    make_recipe = RecipeFunctions(model, optimizer, loss, penalty, named, gradient)
    make_recipe.check()

    def train(hyperparameters, key, data):
        if not isinstance(hyperparameters, Mapping):
            raise InputError("hyperparameters", "a dict of values by name", shown(hyperparameters))
        own = [name for name in COUNTS if name in hyperparameters]
        if own:
            expected = "names that make_train does not give a value itself"
            remedy = "Give epochs and batch_size to make_train. The number of steps follows from them."
            raise InputError("hyperparameters", expected, ", ".join(own), remedy)
        if not isinstance(data, tuple) or not 4 <= len(data) <= 6:
            raise InputError("data", "a Split(train_x, train_labels, test_x, test_labels)", shown(data))
        data = Split(*data)
        if not data.evaluated_part:
            remedy = "Write data.with_validation(0.1)."
            raise InputError("data", "validation or test examples besides those for training", "neither", remedy)
        evaluated = data.part(data.evaluated_part)
        examples = check_batch(data.train_x, data.train_labels)
        check_batch(*evaluated)
        counts = {"epochs": epochs, "batch_size": batch_size, STEPS: epochs * math.ceil(examples / batch_size)}
        recipe = make_recipe(HyperparameterReader(counts | dict(hyperparameters)))
        first = create_train_state(recipe.net, recipe.optimizer, key, shape_of(data.train_x), policy)
        epoch = make_epoch(step_of(recipe, policy, "kept"), batch_size)
        run = make_run(epoch, make_evaluate(recipe.net, recipe.loss, metrics=metrics, precision=policy), epochs)
        return Trained(*run(first, data.train_x, data.train_labels, *evaluated))

    return train


def make_run(
    epoch: Epoch, evaluate: Evaluate, epochs: int
) -> Callable[..., tuple[TrainState, EpochResult, Evaluation]]:
    """Makes a pure function ``run(train_state, x, labels, test_x, test_labels)`` that runs all epochs.

    A ``scan`` over the epochs trains and evaluates. It returns the train state, and the results and evaluations of all
    epochs, along axis 0. Under ``vmap`` it trains a population. Nothing stops it: a step that is not finite changes
    nothing, and the next step follows.
    """
    check_function("epoch", epoch, "what make_epoch returns")
    check_function("evaluate", evaluate, "what make_evaluate returns")
    check_count("epochs", epochs)

    def run(train_state, x, labels, test_x, test_labels):
        def body(train_state, number):
            result = epoch(train_state, x, labels, number)
            train_state, result = check_pair("epoch", result, "EpochResult")
            return train_state, (result, evaluate(train_state, test_x, test_labels))

        train_state, (results, evaluations) = lax.scan(body, train_state, jnp.arange(epochs))
        return train_state, results, evaluations

    return run
