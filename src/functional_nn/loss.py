"""A loss: one value per example, the weighted mean of them, and the gradient of that mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.errors import InputError
from functional_nn.layer import is_concrete


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss with its gradient.

    Args:
        name: used in error messages and tables.
        check: ``check(y, labels)`` raises InputError for what does not fit.
        values: ``values(y, labels)``, ℓ, one value per example.
        value_gradients: ``value_gradients(y, labels)``, ∂ℓᵢ/∂yᵢ, in the shape of y, derived by hand.
        counted: ``counted(labels)``, 1 for what counts and 0 for what is ignored; None where all count.
        formula: what ``help`` shows: ℓ, its labels, its gradient.

    >>> from functional_nn import mean_squared_error
    >>> print(mean_squared_error(jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [0.0]])))
    5.0
    """

    name: str
    check: Callable[[Any, Any], None]
    values: Callable[[jax.Array, jax.Array], jax.Array]
    value_gradients: Callable[[jax.Array, jax.Array], jax.Array]
    counted: Callable[[jax.Array], jax.Array] | None = None
    formula: str = ""

    def __post_init__(self):
        if self.formula:
            object.__setattr__(self, "__doc__", f"{self.name}: {self.formula}")

    def __repr__(self) -> str:
        return f"Loss({self.name!r})"

    def __call__(self, y: Any, labels: Any, weights: Any = None) -> jax.Array:
        """The weighted mean of the examples' values.

        Args:
            y: the network's output, (batch, …).
            labels: what it should be; see each loss.
            weights: one per value, not negative; None for the plain mean.
        """
        total, weight = self.totals(y, labels, weights)
        return total / jnp.where(weight == 0, jnp.ones_like(weight), weight)

    def totals(self, y: Any, labels: Any, weights: Any = None) -> tuple[jax.Array, jax.Array]:
        """Σ wᵢ ℓᵢ and Σ wᵢ: what batches add up to an exact mean over all of them."""
        y, labels, weights = self._prepare(y, labels, weights)
        values = self.values(y, labels)
        if weights is None:
            return jnp.sum(values), jnp.asarray(values.size, values.dtype)
        return jnp.sum(times(weights, values)), jnp.sum(weights)

    def per_example(self, y: Any, labels: Any) -> jax.Array:
        """ℓ, before weights and mean; 0 for what is ignored."""
        y, labels, counted = self._prepare(y, labels, None)
        values = self.values(y, labels)
        return values if counted is None else values * counted

    def gradient(self, y: Any, labels: Any, weights: Any = None) -> jax.Array:
        """∂L/∂y, derived by hand: (wᵢ / Σw) ∂ℓᵢ/∂yᵢ."""
        y, labels, weights = self._prepare(y, labels, weights)
        gradients = self.value_gradients(y, labels)
        if weights is None:
            return gradients / jax.eval_shape(self.values, y, labels).size
        total = jnp.sum(weights)
        shares = weights / jnp.where(total == 0, jnp.ones_like(total), total)
        return times(jnp.expand_dims(shares, range(shares.ndim, y.ndim)), gradients)

    def _prepare(self, y, labels, weights):
        y, labels = jnp.asarray(y), jnp.asarray(labels)
        if not jnp.issubdtype(y.dtype, jnp.floating):
            raise InputError("y", "floating-point outputs", f"{y.dtype} of shape {y.shape}")
        if y.size == 0:
            raise InputError("y", "at least one example", f"shape {y.shape}", "An empty batch has no mean.")
        if jnp.issubdtype(labels.dtype, jnp.integer) and labels.dtype.itemsize < 4:
            labels = labels.astype(jnp.int32)  # bytes hold neither 256 classes nor, unsigned, an ignored -1
        self.check(y, labels)
        if weights is not None:
            weights = jnp.asarray(weights).astype(y.dtype)
            terms = jax.eval_shape(self.values, y, labels)
            if weights.shape != terms.shape:
                raise InputError("weights", f"one weight per value, shape {terms.shape}", f"shape {weights.shape}")
            if is_concrete(weights) and not bool(np.all(np.asarray(weights) >= 0)):
                raise InputError("weights", "weights not below 0", f"a smallest of {np.min(np.asarray(weights))}")
            weights = nan_unless(weights >= 0, weights)
        if self.counted is not None:
            counted = self.counted(labels).astype(y.dtype)
            weights = counted if weights is None else weights * counted
        return y, labels, weights


def nan_unless(valid, values):
    """Makes values, and with them their gradients, NaN where they mean nothing."""
    return values * jnp.where(valid, jnp.ones_like(values), jnp.full_like(values, jnp.nan))


def times(weight, values):
    """weight · values with 0 · ∞ = 0: what has no weight adds nothing."""
    return jnp.where(weight == 0, jnp.zeros_like(values), weight * values)
