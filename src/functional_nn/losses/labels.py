"""Checks of labels: numbers in the shape of y, class numbers, or rows of probabilities."""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.validation import as_array

AnyArray: TypeAlias = jax.Array | np.ndarray

PROBABILITY_TOLERANCE = 1e-2


def as_labels(labels: ArrayLike) -> jax.Array:
    """The labels as a JAX array. Integers of 8 and 16 bits become int32.

    A small type may not hold the number of classes, or an ignored label: -100 as uint8 is 156.
    """
    labels = as_array("labels", labels)
    is_small = jnp.issubdtype(labels.dtype, jnp.integer) and labels.dtype.itemsize < 4
    return labels.astype(jnp.int32) if is_small else labels


def forgotten_flatten(y: AnyArray, labels: AnyArray) -> str:
    """A remedy if an output has too many axes for its labels, such as (batch, 28, 28, 10) for labels (batch,)."""
    if y.ndim > labels.ndim + 1 and y.shape[:1] == labels.shape[:1]:
        return "If the inputs are images, put flatten() before dense, which keeps every axis but the last."
    return ""


def check_same_shape(y: AnyArray, labels: AnyArray) -> None:
    """Requires labels of the shape of y."""
    if y.shape != labels.shape:
        remedy = forgotten_flatten(y, labels) or "Losses do not broadcast: reshape one of them."
        raise InputError("labels", f"the shape of y, {y.shape}", f"shape {labels.shape}", remedy)


def example_mean(elements: jax.Array) -> jax.Array:
    """The mean over each example's elements."""
    return jnp.mean(elements, axis=tuple(range(1, elements.ndim)))


def per_element(y: jax.Array) -> float:
    """1/d for the mean over an example's d elements."""
    return 1 / math.prod(y.shape[1:])


def check_classes(y: AnyArray, labels: AnyArray, ignore_index: int | None = None) -> None:
    """Requires one integer for each row of y: the number of a class, or ``ignore_index``."""
    if y.ndim < 1 or not (jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == y.shape[:-1]):
        given = f"{labels.dtype} of shape {labels.shape}"
        expected = f"integer labels of shape {y.shape[:-1]}, for y of shape {y.shape}"
        raise InputError("labels", expected, given, forgotten_flatten(y, labels))
    if not is_concrete(labels):
        return
    host, classes = np.asarray(labels), y.shape[-1]
    bad = (host < 0) | (host >= classes)
    if ignore_index is not None:
        bad &= host != ignore_index
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        known = f"labels from 0 to {classes - 1}"
        if ignore_index is None:
            remedy = "To leave labels out, use cross_entropy_with(ignore_index=…)."
        else:
            known = f"{known} or {ignore_index}"
            remedy = ""
        raise InputError("labels", f"{known}, for {classes} classes", f"{host[where]} at index {where}", remedy)


def check_probabilities(y: AnyArray, labels: AnyArray) -> None:
    """Requires a row of probabilities for each row of y."""
    if y.ndim < 1 or not (jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == y.shape):
        given = f"{labels.dtype} of shape {labels.shape}"
        expected = f"probabilities of shape {y.shape}, the shape of y"
        raise InputError("labels", expected, given, forgotten_flatten(y, labels))
    if not is_concrete(labels):
        return
    host = np.asarray(labels)
    if not (good := are_probabilities(host.astype(np.float32))).all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        row = host[where].astype(np.float64)
        given = f"a row with sum {row.sum():.6g} and smallest value {row.min():.6g} at index {where}"
        raise InputError("labels", "rows of probabilities that sum to 1", given)


def are_probabilities(rows: np.ndarray) -> np.ndarray:
    """Whether each row has no negative number and sums to 1, up to the rounding errors of bfloat16."""
    return (abs(rows.sum(axis=-1) - 1) <= PROBABILITY_TOLERANCE) & (rows >= 0).all(axis=-1)


def one_hot(y: jax.Array, labels: jax.Array) -> jax.Array:
    """1 at the position of each label, 0 elsewhere, in the shape of y. A label that is not a class gives NaN."""
    labels = jnp.expand_dims(labels, -1)
    numbers = jnp.expand_dims(jnp.arange(y.shape[-1], dtype=labels.dtype), range(y.ndim - 1))
    is_class = (labels >= 0) & (labels < y.shape[-1])
    return jnp.where(is_class, (labels == numbers).astype(y.dtype), jnp.nan)
