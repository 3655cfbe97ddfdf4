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


def described(labels: AnyArray) -> str:
    """The kind and the shape of labels. The type may be narrower than the one that was given, so it is not named."""
    if labels.dtype == bool:
        kind = "booleans"
    else:
        kind = "integers" if jnp.issubdtype(labels.dtype, jnp.integer) else "floating-point numbers"
    return f"{kind} of shape {labels.shape}"


def as_class_numbers(y: AnyArray, labels: AnyArray) -> str:
    """A remedy for labels that are not class numbers of the shape (…), for y of shape (…, classes)."""
    shape = y.shape[:-1]
    if y.ndim and labels.size and labels.shape in (shape, (*shape, 1)) and _are_whole_numbers(labels):
        if y.shape[-1] == 1:
            return _more_outputs(y, int(np.max(np.asarray(labels))) + 1)
        without_axis = "" if labels.shape == shape else "[:, 0]" if labels.ndim == 2 else "[..., 0]"
        as_integers = "" if jnp.issubdtype(labels.dtype, jnp.integer) else ".astype(int)"
        if without_axis or as_integers:
            return f"Write labels{without_axis}{as_integers}."
    return forgotten_flatten(y, labels)


def _are_whole_numbers(labels: AnyArray) -> bool:
    """Whether all labels are whole numbers; False if their values are not known."""
    if not is_concrete(labels):
        return False
    host = np.asarray(labels).astype(np.float64)
    return bool(np.all(host == np.floor(host)))


def _more_outputs(y: AnyArray, classes: int) -> str:
    """A remedy for a network with one output, and for labels of several classes."""
    if classes > 2:
        return f"A network has one output for each class: write dense({classes})."
    shape = f", with labels of shape {y.shape}"
    return f"A network has one output for each class: write dense(2). Or use the loss binary_cross_entropy{shape}."


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
        expected = f"integer labels of shape {y.shape[:-1]}, for y of shape {y.shape}"
        raise InputError("labels", expected, described(labels), as_class_numbers(y, labels))
    if not is_concrete(labels):
        return
    host, classes = np.asarray(labels), y.shape[-1]
    bad = (host < 0) | (host >= classes)
    if ignore_index is not None:
        bad &= host != ignore_index
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        known = f"labels from 0 to {classes - 1}" if classes > 1 else "the label 0"
        counted = host if ignore_index is None else host[host != ignore_index]
        remedies = []
        if classes == 1 and counted.max() > 0:
            remedies.append(_more_outputs(y, int(counted.max()) + 1))
        elif counted.min() > 0 and counted.max() == classes:
            remedies.append("Subtract 1 from the labels, or give the network more outputs.")
        elif counted.max() >= classes:
            remedies.append("Give the network one output for each class.")
        if ignore_index is None and classes > 1:
            remedies.append("To leave labels out, use cross_entropy_with(ignore_index=…).")
        if ignore_index is not None:
            known = f"{known} or {ignore_index}"
        number = f"{classes} classes" if classes > 1 else "1 class"
        raise InputError("labels", f"{known}, for {number}", f"{host[where]} at index {where}", " ".join(remedies))


def check_probabilities(y: AnyArray, labels: AnyArray) -> None:
    """Requires a row of probabilities for each row of y."""
    if y.ndim < 1 or not (jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == y.shape):
        expected = f"probabilities of shape {y.shape}, the shape of y"
        raise InputError("labels", expected, described(labels), forgotten_flatten(y, labels))
    if not is_concrete(labels):
        return
    host = np.asarray(labels)
    if not (good := are_probabilities(host.astype(np.float32))).all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        row = host[where].astype(np.float64)
        given = f"a row with sum {row.sum():.6g} and smallest value {row.min():.6g} at index {where}"
        remedy = _more_outputs(y, int(host.max()) + 1) if y.shape[-1] == 1 else ""
        raise InputError("labels", "rows of probabilities that sum to 1", given, remedy)


def are_probabilities(rows: np.ndarray) -> np.ndarray:
    """Whether each row has no negative number and sums to 1, up to the rounding errors of bfloat16."""
    return (abs(rows.sum(axis=-1) - 1) <= PROBABILITY_TOLERANCE) & (rows >= 0).all(axis=-1)


def one_hot(y: jax.Array, labels: jax.Array) -> jax.Array:
    """1 at the position of each label, 0 elsewhere, in the shape of y. A label that is not a class gives NaN."""
    labels = jnp.expand_dims(labels, -1)
    numbers = jnp.expand_dims(jnp.arange(y.shape[-1], dtype=labels.dtype), range(y.ndim - 1))
    is_class = (labels >= 0) & (labels < y.shape[-1])
    return jnp.where(is_class, (labels == numbers).astype(y.dtype), jnp.nan)
