"""The type of losses: one value per example, their weighted mean, and the gradient of this mean.

Below it: weights and masks of examples, NaN for invalid values, and checks of labels, which are numbers in the shape of
y, class numbers, or rows of probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from functional_nn import names
from functional_nn.core.errors import InputError, check
from functional_nn.core.masked import Masked, Value, check_mask, values_of
from functional_nn.core.shapes import Shape, wide_type
from functional_nn.core.validation import as_array, check_elements, is_concrete


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss and its gradient.

    Args:
        name: used in error messages and tables.
        check: ``check(y, labels)`` raises InputError if the two do not fit together.
        values: ``values(y, labels)`` gives ℓ, one value per example.
        value_gradients: ``value_gradients(y, labels)`` gives ∂ℓᵢ/∂yᵢ in the shape of y, derived by hand.
        label_weights: ``label_weights(labels)`` gives a, the weight of each value in the mean: 0 if its label is
            ignored, or the weight of the label's class. ℓ already contains this factor. None if all weights are 1.
        is_ignored: ``is_ignored(labels)`` is True where the label is ignored. ``training.make_evaluate`` leaves these
            labels out of the accuracy. None if no label is ignored.
        formula: the text that ``help`` shows: ℓ, its labels, its gradient.

    >>> import jax.numpy as jnp
    >>> from functional_nn import mean_squared_error
    >>> print(mean_squared_error(jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [0.0]])))
    5.0
    """

    name: str
    check: Callable[[AnyArray, AnyArray], None]
    values: Callable[[jax.Array, jax.Array], jax.Array]
    value_gradients: Callable[[jax.Array, jax.Array], jax.Array]
    label_weights: Callable[[jax.Array], jax.Array] | None = None
    is_ignored: Callable[[jax.Array], jax.Array] | None = None
    formula: str = ""

    def __post_init__(self):
        if self.formula:
            object.__setattr__(self, "__doc__", f"{self.name}: {self.formula}")

    def __repr__(self) -> str:
        return f"Loss({self.name!r})"

    def __call__(self, y: Value, labels: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
        """Computes the weighted mean of the examples' values.

        Args:
            y: the network's output, (batch, …). Every real step of ``Masked`` sequences is an example.
            labels: the desired output; see each loss. At padding they may be anything.
            weights: one per value, not negative; None for the plain mean.
        """
        return self.result(self.totals(y, labels, weights))

    def totals(self, y: Value, labels: ArrayLike, weights: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """Computes Σ wᵢ ℓᵢ and Σ wᵢ aᵢ. The totals of batches, added, give the exact mean over all of them."""
        y, labels, weights = self._prepare(y, labels, weights)
        values = self.values(y, labels)
        values = values.astype(wide_type(values.dtype))  # a loss of the user may compute in 16 bits
        total = values if weights is None else times(weights, values)
        return jnp.sum(total), self._total_weight(values, labels, weights)

    def result(self, totals: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Computes the mean from the totals of one batch, or from the sum of the totals of many. 0 for the weight 0."""
        return ratio(*totals)

    def per_example(self, y: Value, labels: ArrayLike) -> jax.Array:
        """Computes ℓ, before weights and mean: one value for each example, or for each step of ``Masked`` sequences.

        It is 0 for ignored labels and padding.
        """
        y = as_outputs(y)
        examples, labels, weights = self._prepare(y, labels, None)
        values = self.values(examples, labels)
        values = (values if weights is None else jnp.where(weights == 0, 0, values)).astype(values_of(y).dtype)
        return values.reshape(*y.mask.shape, *values.shape[1:]) if isinstance(y, Masked) else values

    def gradient(self, y: Value, labels: ArrayLike, weights: ArrayLike | None = None) -> Value:
        """Computes ∂L/∂y by the hand-derived formula (wᵢ / Σ wᵢ aᵢ) ∂ℓᵢ/∂yᵢ. A ``Masked`` one has no mask."""
        y = as_outputs(y)
        examples, labels, weights = self._prepare(y, labels, weights)
        gradients = self.value_gradients(examples, labels)
        # Only the number and the type of the values are needed here.
        values = jax.eval_shape(self.values, examples, labels)
        total = self._total_weight(values, labels, weights)
        given_weights = jnp.ones_like(total) if weights is None else weights
        shares = ratio(given_weights, total).astype(values.dtype)
        if shares.ndim:
            shares = expand(shares, gradients.ndim)
        # An example with the weight 0 may have a gradient that is not finite. Its share makes it 0.
        gradients = times(shares, gradients).astype(values_of(y).dtype)
        return Masked(gradients.reshape(y.values.shape), None) if isinstance(y, Masked) else gradients

    def _total_weight(self, values, labels, weights):
        """Σ wᵢ aᵢ."""
        if self.label_weights is None:
            if weights is None:
                return jnp.asarray(values.size, values.dtype)
            return jnp.sum(weights)
        label_weights = self.label_weights(labels).astype(values.dtype)
        return jnp.sum(label_weights if weights is None else times(weights, label_weights))

    def _prepare(
        self, y: Value, labels: ArrayLike, weights: ArrayLike | None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Checks the arguments, and makes every step an example.

        Outputs and weights are at least in float32: in 16 bits a sum over classes overflows or stops growing, and
        float16 holds no weight of 1e5. The weights are None if all are 1. If a weight is 0, its y becomes 0, so that
        ``jax.grad`` does not compute 0 · ∞.
        """
        y, labels, weights = as_arrays(y, labels, weights)
        if not isinstance(y, Masked):
            self._check_counted(y, labels, weights)
        else:
            # The shapes of all steps, and the numbers of the real steps only.
            jax.eval_shape(self.check, y.values, labels)
            if is_concrete(y.mask, labels) and np.any(np.asarray(y.mask)):
                self.check(real_steps(y.mask, y.values), real_steps(y.mask, labels))
        y, labels, weights, mask = as_examples(y, labels, weights)
        y = y.astype(wide_type(y.dtype))
        if weights is None and mask is None:
            return y, labels, None
        # The weights have the shape of the values, which only the loss itself knows.
        weights = combined_weights(weights, mask, jax.eval_shape(self.values, y, labels).shape, y.dtype)
        return jnp.where(expand(weights == 0, y.ndim), 0, y), labels, weights

    def _check_counted(self, y, labels, weights):
        """Checks the shapes of all examples, and the numbers of those whose weight is not 0."""
        shape = np.shape(weights)
        fits = y.shape[: len(shape)] == labels.shape[: len(shape)] == shape
        if not shape or not fits or not is_concrete(weights) or np.all(np.asarray(weights) != 0):
            self.check(y, labels)
            return
        # Traced values have shapes but no numbers, so this check is of the shapes alone.
        jax.eval_shape(self.check, y, labels)
        counted = np.asarray(weights) != 0
        if counted.any():
            self.check(y[counted], labels[counted])


def nan_unless(valid: jax.Array | np.ndarray, values: jax.Array | np.ndarray) -> jax.Array:
    """``values``, with NaN where they are not valid. Their gradients are NaN there too."""
    return jnp.asarray(values) * jnp.where(valid, jnp.ones_like(values), jnp.full_like(values, jnp.nan))


def times(weight: jax.Array, values: jax.Array) -> jax.Array:
    """weight · values, where 0 · ∞ = 0: a value with the weight 0 adds nothing."""
    return jnp.where(weight == 0, jnp.zeros_like(values), weight * values)


def ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """total / weight, and 0 if the weight is 0."""
    is_zero = weight == 0
    return jnp.where(is_zero, jnp.zeros_like(total), total / jnp.where(is_zero, jnp.ones_like(weight), weight))


def expand(weights: jax.Array, ndim: int) -> jax.Array:
    """The weights with axes of size 1 appended, up to ``ndim`` axes."""
    return jnp.expand_dims(weights, range(weights.ndim, ndim))


def combined_weights(weights: jax.Array | None, mask: jax.Array | None, shape: Shape, dtype: DTypeLike) -> jax.Array:
    """One weight for each value, in the shape of the values. The weight is 0 where the mask of the first axis is False.

    Raises:
        InputError: for weights of another shape, and for negative weights. Under ``jit`` negative weights become NaN.
    """
    given = jnp.ones(shape, dtype) if weights is None else jnp.asarray(weights).astype(dtype)
    check("weights", given, f"one weight per value, shape {shape}", given.shape == shape)
    # Weights at padding may be anything.
    kept = given if mask is None else jnp.where(expand(mask, given.ndim), given, 0)
    if weights is None:
        return kept
    check_elements("weights", kept, lambda weights: weights >= 0, "weights not below 0")
    return nan_unless(kept >= 0, kept)


def as_outputs(y: Value) -> Value:
    """The outputs, and the mask if they are ``Masked``, as JAX arrays."""
    if isinstance(y, Masked):
        return Masked(as_array("y", y.values), as_array("mask", y.mask))
    return as_array("y", y)


def as_arrays(y: Value, labels: ArrayLike, weights: ArrayLike | None) -> tuple[Value, jax.Array, jax.Array | None]:
    """The arguments as JAX arrays: floating-point outputs of at least one example. Those of a mask fit its steps."""
    y, labels = as_outputs(y), as_labels(labels)
    weights = None if weights is None else as_array("weights", weights)
    check("y", values_of(y), "floating-point outputs", jnp.issubdtype(values_of(y).dtype, jnp.floating))
    check("y", values_of(y), "at least one example", values_of(y).size, "An empty batch has no mean.")
    if isinstance(y, Masked):
        check_mask(y)
        expected = f"the axes (batch, time) = {y.mask.shape} of the masked outputs first"
        for argument, array in (("labels", labels), ("weights", weights)):
            check(argument, array, expected, array is None or array.shape[:2] == y.mask.shape)
    return y, labels, weights


def as_examples(
    y: Value, labels: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Outputs, labels, weights and mask of examples. Every step of ``Masked`` outputs is an example."""

    def joined(steps: jax.Array) -> jax.Array:
        return steps.reshape(-1, *steps.shape[2:])

    if not isinstance(y, Masked):
        return y, labels, weights, None
    return joined(y.values), joined(labels), None if weights is None else joined(weights), joined(y.mask)


def real_steps(mask: jax.Array, array: jax.Array) -> jax.Array | np.ndarray:
    """The array with its first real step in place of padding, so that a check of numbers does not see the padding."""
    if not is_concrete(array):
        return array
    real, host = np.asarray(mask), np.asarray(array)
    first = np.unravel_index(np.argmax(real), real.shape)
    real = real.reshape(*real.shape, *(1,) * (host.ndim - 2))
    return np.where(real, host, host[first])


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
    remedy = forgotten_flatten(y, labels) or "Losses do not broadcast: reshape one of them."
    check("labels", labels, f"the shape of y, {y.shape}", y.shape == labels.shape, remedy)


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


LOSSES: Mapping[str, Loss] = names.LOSSES
"""Every loss by its name."""
