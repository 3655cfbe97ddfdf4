"""Whole training runs as pure functions, to compile, to map over a population, or to differentiate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_count, check_function, shown
from functional_nn.data.dataset import Split
from functional_nn.losses.multiclass import cross_entropy
from functional_nn.training.argument_checks import check_batch, check_counts, check_pair
from functional_nn.training.epoch import Epoch, EpochResult, make_epoch
from functional_nn.training.evaluate import Evaluation, make_evaluate
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.programs.recipe import (
    HyperparameterReader,
    Hyperparameters,
    LossMaker,
    ModelFunction,
    OptimizerFunction,
    PenaltyMaker,
    RecipeFunctions,
)
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import make_train_step


class Trained(NamedTuple):
    """The result of a whole run as a pure function.

    Args:
        train_state: at the end of the run. Steps that are not finite have changed nothing.
        epochs: the result of each epoch, along axis 0.
        evaluations: loss and accuracy on the test examples after each epoch, along axis 0.
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
    epochs: int = 10,
    batch_size: int = 64,
    precision: str | Precision = "float32",
) -> Callable[[Hyperparameters, jax.Array, Split], Trained]:
    """Makes a pure function ``train(hyperparameters, key, data) -> Trained``, a whole training run.

    It can be compiled, mapped over a population by ``vmap``, and differentiated. Nothing stops a run: a step that is
    not finite changes nothing, and the next step follows. ``sweep`` trains with the same steps, but epoch by epoch, so
    that it can show progress, stop early and save.

    Args:
        model, optimizer, loss, penalty: as for ``sweep``; every hyper-parameter may be traced.
        epochs, batch_size, precision: as for ``fit``.

    >>> import functional_nn as fnn, optax
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
    policy = as_precision(precision)
    make_recipe = RecipeFunctions(model, optimizer, loss, penalty)
    make_recipe.check()

    def train(hyperparameters, key, data):
        if not isinstance(hyperparameters, Mapping):
            raise InputError("hyperparameters", "a dict of values by name", shown(hyperparameters))
        if not isinstance(data, tuple) or len(data) != 4:
            raise InputError("data", "a Split(train_x, train_labels, test_x, test_labels)", shown(data))
        data = Split(*data)
        check_batch(data.train_x, data.train_labels)
        check_batch(data.test_x, data.test_labels)
        steps = epochs * math.ceil(len(data.train_x) / batch_size)
        counts = {"epochs": epochs, "batch_size": batch_size, "steps": steps}
        recipe = make_recipe(HyperparameterReader(counts | dict(hyperparameters)))
        start = create_train_state(recipe.net, recipe.optimizer, key, data.train_x.shape[1:], policy)
        train_step = make_train_step(
            recipe.net, recipe.loss, recipe.optimizer, penalty=recipe.penalty, precision=policy
        )
        evaluate = make_evaluate(recipe.net, recipe.loss, precision=policy)
        run = make_run(make_epoch(train_step, batch_size), evaluate, epochs)
        return Trained(*run(start, *data))

    return train


def make_run(
    epoch: Epoch, evaluate: Callable[[TrainState, jax.Array, jax.Array], Evaluation], epochs: int
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
