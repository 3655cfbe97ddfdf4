"""Metrics: how good the answers are, for people; losses are what training minimises."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.errors import InputError


def correct(y: jax.Array, labels: jax.Array) -> jax.Array:
    """The number of examples whose largest output is the label's.

    >>> print(correct(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])))
    1
    """
    if labels.shape != y.shape[:-1]:
        raise InputError("labels", f"one integer per row of y, shape {y.shape[:-1]}", f"shape {labels.shape}")
    return jnp.sum(jnp.argmax(y, axis=-1) == labels)


def accuracy(y: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of examples whose largest output is the label's.

    >>> print(accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])))
    0.5
    """
    return correct(y, labels) / labels.size


def confusion_matrix(predicted: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """How often each class (row) was taken for each class (column).

    >>> print(confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), classes=2))
    [[1 1]
     [0 1]]
    """
    if predicted.shape != labels.shape:
        raise InputError("predicted", f"the shape of labels, {labels.shape}", f"shape {predicted.shape}")
    return jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(1)
