"""A whole run as one pure function of its hyper-parameters, its key and its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from functional_nn.core.errors import InputError
from functional_nn.core.validation import shown
from functional_nn.data.dataset import Split
from functional_nn.losses.multiclass import cross_entropy
from functional_nn.training.argument_checks import check_batch, check_counts
from functional_nn.training.epoch import EpochResult, Evaluation, make_epoch, make_evaluate, make_run
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.programs.recipe import LossOf, Model, Optimizer, PenaltyOf, RecipeOf
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import make_train_step


class Trained(NamedTuple):
    """What a run came to.

    Args:
        train_state: at its end, or the last finite one.
        epochs: the training loss and the first bad step, a row for each epoch.
        evaluations: loss and accuracy on the test examples, a row for each epoch.
    """

    train_state: TrainState
    epochs: EpochResult
    evaluations: Evaluation


def make_train(
    model: Model,
    optimizer: Optimizer,
    *,
    loss: LossOf = cross_entropy,
    penalty: PenaltyOf = None,
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
    recipe_of = RecipeOf(model, optimizer, loss, penalty)
    recipe_of.check()

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
        net, loss, optimizer, penalty = recipe_of(counts | dict(hyperparameters))
        start = create_train_state(net, optimizer, key, data.train_x.shape[1:], policy)
        train_step = make_train_step(net, loss, optimizer, penalty=penalty, precision=policy)
        run = make_run(make_epoch(train_step, batch_size), make_evaluate(net, loss, precision=policy), epochs)
        return Trained(*run(start, *data))

    return train
