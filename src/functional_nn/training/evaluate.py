"""Evaluation as a pure function: loss and accuracy over a set of examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.masked import values_of
from functional_nn.core.validation import check_count, check_function, tree_in_native_order
from functional_nn.losses.loss import Loss
from functional_nn.losses.weighting import ratio
from functional_nn.metrics import accuracy
from functional_nn.training.argument_checks import check_batch, check_scalar, check_train_state
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.state import TrainState
from functional_nn.training.step import LossFunction, forward


class Evaluation(NamedTuple):
    """The loss over a set of examples, and the accuracy, which is NaN if the labels are not class numbers."""

    loss: jax.Array
    accuracy: jax.Array


def make_evaluate(
    net: Layer,
    loss: LossFunction,
    *,
    precision: str | Precision = "float32",
    batch_size: int = 250,
) -> Callable[[TrainState, jax.Array, jax.Array], Evaluation]:
    """Makes a pure function ``evaluate(train_state, x, labels) -> Evaluation``, exact for any number of examples.

    Labels that a ``Loss`` ignores, and the padding of ``Masked`` sequences, count neither in the loss nor in the
    accuracy. If the loss is another function, its value is taken as the mean over the examples of a batch.
    """
    net, policy = as_layer(net), as_precision(precision)
    check_function("loss", loss, "a loss, such as cross_entropy, or a function")
    check_count("batch_size", batch_size)
    label_weights = loss.label_weights if isinstance(loss, Loss) else None

    def evaluate(train_state, x, labels):
        check_train_state(train_state)
        x, labels = tree_in_native_order((x, labels))
        batches, left = divmod(check_batch(x, labels), batch_size)

        def totals(batch):
            inputs, targets = batch
            y, _ = forward(net, policy, train_state.params, train_state.state, inputs, train=False)
            return loss_totals(y, targets), accuracy_totals(y, targets)

        totals_of_batch = jax.jit(totals)  # traced once, for the shapes and for the loop

        def add(sums, batch):
            return jax.tree.map(jnp.add, sums, totals_of_batch(batch)), None

        if not batches:
            sums = totals((x, labels))
        else:
            split = batches * batch_size
            stacked = jax.tree.map(lambda a: a[:split].reshape(batches, batch_size, *a.shape[1:]), (x, labels))
            shapes = jax.eval_shape(totals_of_batch, jax.tree.map(lambda a: a[0], stacked))
            sums, _ = lax.scan(add, jax.tree.map(lambda total: jnp.zeros(total.shape, total.dtype), shapes), stacked)
            if left:
                rest = totals(jax.tree.map(lambda a: a[split:], (x, labels)))
                sums = jax.tree.map(jnp.add, sums, rest)
        loss_sum, right = sums
        return Evaluation(ratio(*loss_sum), accuracy.result(right))

    def loss_totals(y, labels):
        if isinstance(loss, Loss):
            return loss.totals(y, labels)
        mean = check_scalar("loss", loss(y, labels))
        examples = jax.tree.leaves(y)[0].shape[0]
        return mean * examples, jnp.asarray(examples, mean.dtype)

    @jax.jit
    def accuracy_totals(y, labels):
        """The totals of the accuracy; NaN if the labels are not class numbers.

        It is compiled even if ``evaluate`` is not, so that labels are arrays of JAX here.
        """
        are_classes = isinstance(labels, jax.Array) and jnp.issubdtype(labels.dtype, jnp.integer)
        if not are_classes or labels.shape != values_of(y).shape[:-1]:
            return dict.fromkeys(("sum", "weight"), jnp.float32(jnp.nan))
        counted = None if label_weights is None else label_weights(labels) != 0
        return accuracy.totals(y, labels, counted)

    return evaluate
