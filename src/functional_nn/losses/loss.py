"""The type of losses: one value per example, their weighted mean, and the gradient of this mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.masked import Masked, Value, values_of
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import as_array
from functional_nn.losses.labels import AnyArray, as_labels
from functional_nn.losses.weighting import (
    as_examples,
    as_outputs,
    check_outputs,
    check_steps,
    combined_weights,
    expand,
    ratio,
    real_steps,
    times,
)


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
        y = as_outputs(y)
        labels = as_labels(labels)
        weights = None if weights is None else as_array("weights", weights)
        check_outputs(values_of(y))
        if isinstance(y, Masked):
            check_steps(y, labels=labels, weights=weights)
            self._check_real_steps(y, labels)
        else:
            self._check_counted(y, labels, weights)
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

    def _check_real_steps(self, y, labels):
        """Checks the shapes of all steps, and the numbers of the real steps only."""
        # Traced values have shapes but no numbers, so this check is of the shapes alone.
        jax.eval_shape(self.check, y.values, labels)
        if is_concrete(y.mask, labels) and np.any(np.asarray(y.mask)):
            self.check(real_steps(y.mask, y.values), real_steps(y.mask, labels))
