"""Dynamic loss scaling: small gradients survive float16, and one that overflows costs one step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

FIRST_SCALE = 2.0**15
"""Near the largest float16, 65,504. Halved soon where that is too much."""

SMALLEST_SCALE = 1.0
"""A gradient that overflows at this scale overflows by itself: nothing is left to lower."""

LARGEST_SCALE = 2.0**24
"""Here what float32 sees of a gradient is no longer lost to float16."""

FINITE_STEPS_TO_DOUBLE = 2000


class LossScale(NamedTuple):
    """The number that the loss is multiplied by before it is differentiated, and what it depends on.

    Math:
        The gradient is ∇(s L) / s. It is the same for every s but for what falls out of float16's range on the way:
        too small numbers where s is small, too large ones where it is large. So after a step with a gradient that is
        not finite s ← max(s / 2, 1), after 2,000 other steps in a row s ← min(2 s, 2²⁴). As powers of 2 they round
        nothing.

    Args:
        scale: s, float32.
        finite_steps: steps since s changed, int32.
        skipped_steps: steps that changed nothing but s, int32.

    References:
        Micikevicius et al. 2018, "Mixed precision training", section 3.2.
    """

    scale: jax.Array
    finite_steps: jax.Array
    skipped_steps: jax.Array

    @classmethod
    def first(cls) -> LossScale:
        """As a run begins.

        >>> print(LossScale.first().scale)
        32768.0
        """
        return cls(jnp.float32(FIRST_SCALE), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    @property
    def exhausted(self) -> jax.Array:
        """Whether it cannot be lowered any more."""
        return self.scale <= SMALLEST_SCALE

    def after(self, finite: jax.Array) -> LossScale:
        """The scale after a step whose gradient was finite, or was not."""
        finite_steps = jnp.where(finite, self.finite_steps + 1, 0)
        double = finite_steps >= FINITE_STEPS_TO_DOUBLE
        doubled = jnp.where(double, jnp.minimum(self.scale * 2, LARGEST_SCALE), self.scale)
        return LossScale(
            jnp.where(finite, doubled, jnp.maximum(self.scale / 2, SMALLEST_SCALE)),
            jnp.where(double, 0, finite_steps),
            self.skipped_steps + (~finite).astype(jnp.int32),
        )
