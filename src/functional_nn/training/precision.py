"""Precisions of training, and the loss scale for float16."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn import names
from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_choice


class Precision(NamedTuple):
    """The floating-point types that a run uses.

    Args:
        parameters: the type of the parameters, the state and the optimizer's state.
        compute: the type in which the network computes. Parameters and inputs are cast to it.
        output: the type of the network's output when it enters the loss. 16 bits are too few for sums over examples.

    >>> as_precision("float16").scales_loss
    True
    """

    parameters: np.dtype
    compute: np.dtype
    output: np.dtype

    @property
    def scales_loss(self) -> bool:
        """Whether training scales the loss: float16 has no numbers between 0 and 6e-8, where many gradients lie."""
        return self.compute == jnp.float16


PRECISIONS = {
    name: Precision(*(np.dtype(getattr(jnp, kind)) for kind in (parameters, name, parameters)))
    for name in names.PRECISIONS
    for parameters in ("float64" if name == "float64" else "float32",)
}
"""Every precision by name. With 16 bits only the network computes; parameters, optimizer and loss stay in float32."""


def as_precision(precision: str | Precision) -> Precision:
    """The precision with a name; one of these as it is.

    Raises:
        InputError: for an unknown name, and for float64 if JAX's 64-bit numbers are switched off.

    >>> as_precision("bfloat16").parameters
    dtype('float32')
    """
    if not isinstance(precision, Precision):
        precision = PRECISIONS[check_choice("precision", precision, PRECISIONS)]
    if precision.parameters == jnp.float64 and not x64_enabled():
        remedy = 'Call jax.config.update("jax_enable_x64", True) first. Otherwise JAX computes in float32.'
        raise InputError("precision", "64-bit numbers switched on for float64", "JAX with them switched off", remedy)
    return precision


def x64_enabled() -> bool:
    """Whether JAX computes with 64-bit numbers here."""
    return jnp.zeros(()).dtype == jnp.float64


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
