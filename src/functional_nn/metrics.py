"""Metrics: how good the answers are, for people; losses are what training minimises."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from functional_nn.errors import InputError
from functional_nn.layer import is_concrete


def correct(y: Any, labels: Any) -> jax.Array:
    """The number of examples whose largest output is the label's.

    >>> print(correct(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])))
    1
    """
    y, labels = jnp.asarray(y), jnp.asarray(labels)
    if labels.shape != y.shape[:-1]:
        raise InputError("labels", f"one integer per row of y, shape {y.shape[:-1]}", f"shape {labels.shape}")
    return jnp.sum(jnp.argmax(y, axis=-1).astype(jnp.int32) == labels.astype(jnp.int32))


def accuracy(y: Any, labels: Any) -> jax.Array:
    """The share of examples whose largest output is the label's.

    >>> print(accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])))
    0.5
    """
    right, count = correct(y, labels), jnp.size(labels)
    if count == 0:
        raise InputError("y", "at least one example", f"shape {jnp.shape(y)}", "An empty batch has no accuracy.")
    return right / count


def confusion_matrix(predicted: Any, labels: Any, classes: int) -> jax.Array:
    """How often each class (row) was taken for each class (column).

    Under ``jit``, where it cannot raise, what is no class is left out.

    >>> print(confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), classes=2))
    [[1 1]
     [0 1]]
    """
    predicted, labels = jnp.asarray(predicted), jnp.asarray(labels)
    if predicted.shape != labels.shape:
        raise InputError("predicted", f"the shape of labels, {labels.shape}", f"shape {predicted.shape}")
    for argument, numbers in (("predicted", predicted), ("labels", labels)):
        if is_concrete(numbers) and numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            given = f"numbers from {numbers.min()} to {numbers.max()}"
            raise InputError(argument, f"classes from 0 to {classes - 1}", given)
    rows = jnp.where(labels >= 0, labels, classes)
    columns = jnp.where(predicted >= 0, predicted, classes)
    return jnp.zeros((classes, classes), jnp.int32).at[rows, columns].add(1, mode="drop")
