"""What labels may be: numbers in the shape of y, classes, or rows of probabilities."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete

PROBABILITY_TOLERANCE = 1e-2


def check_same_shape(y: Any, labels: Any) -> None:
    """Refuses labels of any other shape than y's."""
    if y.shape != labels.shape:
        remedy = "Losses do not broadcast: reshape one of them."
        raise InputError("labels", f"the shape of y, {y.shape}", f"shape {labels.shape}", remedy)


def example_mean(elements: jax.Array) -> jax.Array:
    """The mean over each example's elements."""
    return jnp.mean(elements, axis=tuple(range(1, elements.ndim)))


def per_element(y: jax.Array) -> float:
    """1/d for the mean over an example's d elements."""
    return 1 / math.prod(y.shape[1:])


def check_classes(y: Any, labels: Any, ignore_index: int | None = None) -> None:
    """Refuses what is not one integer per row of y, the number of a class or the one to ignore."""
    if y.ndim < 1 or not (jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == y.shape[:-1]):
        given = f"{labels.dtype} of shape {labels.shape}"
        raise InputError("labels", f"integer labels of shape {y.shape[:-1]}, for y of shape {y.shape}", given)
    if not is_concrete(labels):
        return
    host, classes = np.asarray(labels), y.shape[-1]
    bad = (host < 0) | (host >= classes)
    if ignore_index is not None:
        bad &= host != ignore_index
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        known = f"labels from 0 to {classes - 1}" + (f" or {ignore_index}" if ignore_index is not None else "")
        remedy = "" if ignore_index is not None else "To leave labels out, use cross_entropy_with(ignore_index=…)."
        raise InputError("labels", f"{known}, for {classes} classes", f"{host[where]} at index {where}", remedy)


def check_probabilities(y: Any, labels: Any) -> None:
    """Refuses what is not a row of probabilities for each row of y."""
    if y.ndim < 1 or not (jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == y.shape):
        given = f"{labels.dtype} of shape {labels.shape}"
        raise InputError("labels", f"probabilities of shape {y.shape}, the shape of y", given)
    if not is_concrete(labels):
        return
    host = np.asarray(labels)
    if not (good := are_probabilities(host.astype(np.float32))).all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        row = host[where].astype(np.float64)
        given = f"a row with sum {row.sum():.6g} and smallest value {row.min():.6g} at index {where}"
        raise InputError("labels", "rows of probabilities that sum to 1", given)


def are_probabilities(rows: Any) -> Any:
    """Which rows are not below 0 and sum to 1, as nearly as bfloat16 can."""
    return (abs(rows.sum(axis=-1) - 1) <= PROBABILITY_TOLERANCE) & (rows >= 0).all(axis=-1)


def one_hot(y: jax.Array, labels: jax.Array) -> jax.Array:
    """1 at each label's place in the shape of y, else 0; NaN in the row of a label that is no class."""
    labels = jnp.expand_dims(labels, -1)
    numbers = jnp.expand_dims(jnp.arange(y.shape[-1], dtype=labels.dtype), range(y.ndim - 1))
    is_class = (labels >= 0) & (labels < y.shape[-1])
    return jnp.where(is_class, (labels == numbers).astype(y.dtype), jnp.nan)
