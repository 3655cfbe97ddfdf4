"""Whole training runs as pure functions, to compile, to map over a population, or to differentiate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_count, check_function, shown
from functional_nn.data.dataset import Split
from functional_nn.losses.multiclass import cross_entropy
from functional_nn.training.argument_checks import check_batch, check_counts, check_stepped
from functional_nn.training.epoch import Epoch, EpochResult, make_epoch
from functional_nn.training.evaluate import Evaluation, make_evaluate
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.programs.recipe import (
    HyperparameterReader,
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
        train_state: at its end, or the last finite one.
        epochs: the training loss and the first bad step, a row for each epoch.
        evaluations: loss and accuracy on the test examples, a row for each epoch.
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
) -> Callable[[Mapping[str, Any], jax.Array, Split], Trained]:
    """A pure ``train(hyperparameters, key, data) -> Trained``: to compile, to map over a population, to differentiate.

    ``sweep`` runs the same pieces epoch by epoch, so that there is progress, an end, and something to go on from.
    Here nothing stops a run: a step that is not finite changes nothing.

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
            raise InputError("hyperparameters", "a dict by names", shown(hyperparameters))
        if not isinstance(data, tuple) or len(data) != 4:
            raise InputError("data", "a Split(train_x, train_labels, test_x, test_labels)", shown(data))
        data = Split(*data)
        check_batch(data.train_x, data.train_labels)
        check_batch(data.test_x, data.test_labels)
        steps = epochs * -(-len(data.train_x) // batch_size)
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
    """A whole run as one pure function: ``run(train_state, x, labels, test_x, test_labels)``.

    It scans over the epochs and evaluates after each; the results have one row an epoch. Under ``vmap`` it trains a
    population. Nothing can stop it: after a step that is not finite it goes on from the state before it.
    """

    check_function("epoch", epoch, "what make_epoch gives")
    check_function("evaluate", evaluate, "what make_evaluate gives")
    check_count("epochs", epochs)

    def run(train_state, x, labels, test_x, test_labels):
        def body(train_state, number):
            result = epoch(train_state, x, labels, number)
            train_state, result = check_stepped("epoch", result, "EpochResult")
            return train_state, (result, evaluate(train_state, test_x, test_labels))

        train_state, (results, evaluations) = lax.scan(body, train_state, jnp.arange(epochs))
        return train_state, results, evaluations

    return run
