"""A loss: one value per example, the weighted mean of them, and the gradient of that mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.masked import Masked, values_of
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import as_array
from functional_nn.losses.weighting import (
    as_examples,
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
    """A loss with its gradient.

    Args:
        name: used in error messages and tables.
        check: ``check(y, labels)`` raises InputError for what does not fit.
        values: ``values(y, labels)``, ℓ, one value per example.
        value_gradients: ``value_gradients(y, labels)``, ∂ℓᵢ/∂yᵢ, in the shape of y, derived by hand.
        label_weights: ``label_weights(labels)``, a, what each value counts in the mean: 0 for what is ignored, a
            class's weight; None where all count 1. ℓ has this factor in it already.
        formula: what ``help`` shows: ℓ, its labels, its gradient.

    >>> from functional_nn import mean_squared_error
    >>> print(mean_squared_error(jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [0.0]])))
    5.0
    """

    name: str
    check: Callable[[Any, Any], None]
    values: Callable[[jax.Array, jax.Array], jax.Array]
    value_gradients: Callable[[jax.Array, jax.Array], jax.Array]
    label_weights: Callable[[jax.Array], jax.Array] | None = None
    formula: str = ""

    def __post_init__(self):
        if self.formula:
            object.__setattr__(self, "__doc__", f"{self.name}: {self.formula}")

    def __repr__(self) -> str:
        return f"Loss({self.name!r})"

    def __call__(self, y: Any, labels: Any, weights: Any = None) -> jax.Array:
        """The weighted mean of the examples' values.

        Args:
            y: the network's output, (batch, …). Of ``Masked`` sequences every real step is an example.
            labels: what it should be; see each loss. Where y is padding they may be anything.
            weights: one per value, not negative; None for the plain mean.
        """
        return self.result(self.totals(y, labels, weights))

    def totals(self, y: Any, labels: Any, weights: Any = None) -> tuple[jax.Array, jax.Array]:
        """Σ wᵢ ℓᵢ and Σ wᵢ aᵢ: what batches add up to an exact mean over all of them."""
        y, labels, weights = self._prepare(y, labels, weights)
        values = self.values(y, labels)
        total = values if weights is None else times(weights, values)
        return jnp.sum(_wide(total)), self._total_weight(values, labels, weights)

    def result(self, totals: tuple[jax.Array, jax.Array]) -> jax.Array:
        """The mean that totals, of one batch or added over many, come to; 0 where nothing has weight."""
        return ratio(*totals)

    def per_example(self, y: Any, labels: Any) -> jax.Array:
        """ℓ, before weights and mean, one for each step of ``Masked`` sequences; 0 for what is ignored or padding."""
        examples, labels, weights = self._prepare(y, labels, None)
        values = self.values(examples, labels)
        values = values if weights is None else times(weights, values)
        return values.reshape(*y.mask.shape, *values.shape[1:]) if isinstance(y, Masked) else values

    def gradient(self, y: Any, labels: Any, weights: Any = None) -> Any:
        """∂L/∂y, derived by hand: (wᵢ / Σ wᵢ aᵢ) ∂ℓᵢ/∂yᵢ. That of ``Masked`` sequences has None for the mask."""
        examples, labels, weights = self._prepare(y, labels, weights)
        gradients = self.value_gradients(examples, labels)
        values = jax.eval_shape(self.values, examples, labels)
        total = self._total_weight(values, labels, weights)
        shares = ratio(jnp.ones_like(total) if weights is None else _wide(weights), total).astype(values.dtype)
        gradients = times(expand(shares, gradients.ndim) if shares.ndim else shares, gradients)
        return Masked(gradients.reshape(y.values.shape), None) if isinstance(y, Masked) else gradients

    def _total_weight(self, values, labels, weights):
        """Σ wᵢ aᵢ."""
        if self.label_weights is None:
            return jnp.asarray(values.size, wide_type(values.dtype)) if weights is None else jnp.sum(_wide(weights))
        label_weights = self.label_weights(labels).astype(values.dtype)
        return jnp.sum(_wide(label_weights if weights is None else times(weights, label_weights)))

    def _prepare(self, y, labels, weights):
        """What goes into the formulas: checked, steps as examples, and y 0 where there is no weight, so that
        ``jax.grad`` too meets no 0 · ∞ there."""
        y = Masked(as_array("y", y.values), as_array("mask", y.mask)) if isinstance(y, Masked) else as_array("y", y)
        labels = as_array("labels", labels)
        weights = None if weights is None else as_array("weights", weights)
        if jnp.issubdtype(labels.dtype, jnp.integer) and labels.dtype.itemsize < 4:
            labels = labels.astype(jnp.int32)  # bytes hold neither 256 classes nor, unsigned, an ignored -1
        mask = None
        check_outputs(values_of(y))
        if isinstance(y, Masked):
            check_steps(y, labels=labels, weights=weights)
            self._check_real_steps(y, labels)
            y, labels, weights, mask = map(as_examples, (y.values, labels, weights, y.mask))
        else:
            self.check(y, labels)
        if weights is None and mask is None:
            return y, labels, None
        weights = combined_weights(weights, mask, jax.eval_shape(self.values, y, labels).shape, y.dtype)
        return jnp.where(expand(weights == 0, y.ndim), 0, y), labels, weights

    def _check_real_steps(self, y, labels):
        """The shapes of all steps, and the numbers of the real ones."""
        jax.eval_shape(self.check, y.values, labels)
        if is_concrete(y.mask, labels) and np.any(np.asarray(y.mask)):
            self.check(real_steps(y.mask, y.values), real_steps(y.mask, labels))


def _wide(values):
    return values.astype(wide_type(values.dtype))
