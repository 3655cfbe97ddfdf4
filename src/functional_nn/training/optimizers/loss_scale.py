"""Dynamic loss scaling for float16, so that small gradients do not become zero."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

FIRST_SCALE = 2.0**15
"""Half of the largest float16, 65,504. If this is too large, it is soon halved."""

SMALLEST_SCALE = 1.0
"""The scale is not lowered further: a gradient that overflows here overflows without scaling, too."""

LARGEST_SCALE = 2.0**24
"""The scale is not raised further. At this scale float16 holds gradients down to 4e-15."""

FINITE_STEPS_TO_DOUBLE = 2000


class LossScale(NamedTuple):
    """The scale s by which the loss is multiplied before it is differentiated.

    Math:
        The gradient is ∇(s L) / s. In exact arithmetic it is the same for every s. In float16, small numbers vanish if
        s is small, and large ones overflow if s is large. So after a step with a gradient that is not finite
        s ← max(s / 2, 1), and after 2,000 finite steps in a row s ← min(2 s, 2²⁴). All scales are powers of 2, so
        multiplying by them does not round.

    Args:
        scale: s, float32.
        finite_steps: the number of steps since s last changed, int32.
        skipped_steps: the number of steps that changed only s, int32.

    References:
        Micikevicius et al. 2018, "Mixed precision training", section 3.2.
    """

    scale: jax.Array
    finite_steps: jax.Array
    skipped_steps: jax.Array

    @classmethod
    def first(cls) -> LossScale:
        """The scale at the start of a run.

        >>> print(LossScale.first().scale)
        32768.0
        """
        return cls(jnp.float32(FIRST_SCALE), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    @property
    def exhausted(self) -> jax.Array:
        """Whether the scale cannot be lowered any more."""
        return self.scale <= SMALLEST_SCALE

    def after(self, finite: jax.Array) -> LossScale:
        """The scale after a step; ``finite`` says whether the gradient of the step was finite.

        With an exhausted scale, the train step reports a bad step instead of skipping it.
        """
        finite_steps = jnp.where(finite, self.finite_steps + 1, 0)
        double = finite_steps >= FINITE_STEPS_TO_DOUBLE
        doubled = jnp.where(double, jnp.minimum(self.scale * 2, LARGEST_SCALE), self.scale)
        return LossScale(
            jnp.where(finite, doubled, jnp.maximum(self.scale / 2, SMALLEST_SCALE)),
            jnp.where(double, 0, finite_steps),
            self.skipped_steps + (~finite & ~self.exhausted).astype(jnp.int32),
        )
