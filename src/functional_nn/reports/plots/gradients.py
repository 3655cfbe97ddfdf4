"""Pictures of the errors of activations' derivatives, by hand and by ``jax.grad``; they need the extra ``[plots]``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.activations.activation_types import Activation
from functional_nn.gradients.compare.activations import TOLERANCE, comparison_dtype, derivative_errors, regime_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HAND, AUTOMATIC = "#0072b2", "#d55e00"
LEAST, MOST = 0.03, 1e9
"""The range of errors shown, in ULP. Smaller errors are drawn on the lower edge; larger ones and NaN on the upper."""
POINTS = 700


def plot_errors(activation: Activation, dtype: DTypeLike = "float32") -> Figure:
    """Draws the errors of the derivative, by hand and by ``jax.grad``, in ULP against x.

    Args:
        activation: one of ``ACTIVATIONS``, or your own.
        dtype: the type of the computation.
    """
    from functional_nn.reports.plots.figure import ShownFigure

    dtype = comparison_dtype(activation, dtype)
    x = _points(activation, dtype)
    hand, automatic = derivative_errors(activation, x)
    figure = ShownFigure(figsize=(9, 4.2), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.axhspan(LEAST, TOLERANCE, color=HAND, alpha=0.07, lw=0)
    axes.axhline(TOLERANCE, color="0.35", lw=0.9, ls=(0, (4, 3)))
    for errors, color, marker, label in ((automatic, AUTOMATIC, "o", "jax.grad"), (hand, HAND, "D", "by hand")):
        shown = np.clip(np.nan_to_num(errors, nan=MOST, posinf=MOST), LEAST, MOST)
        worst = int(np.argmax(shown))
        text = f"{label}: at most {_readable(errors[worst])} ULP, at x = {float(x[worst]):.5g}"
        axes.plot(x.astype(float), shown, marker, ms=2.6, mew=0, alpha=0.75, color=color, label=text)
    axes.set_xscale("symlog", linthresh=1.0, linscale=1.2)
    axes.set_yscale("log")
    limit = float(np.abs(x.astype(float)).max())
    axes.set(xlim=(-limit * 1.1, limit * 1.1), ylim=(LEAST / 1.5, MOST * 2))
    ticks = [value for value in (1, 3, 10, 30, 100, 300, 1000) if value <= limit]
    ticks = [*(-value for value in reversed(ticks)), -0.5, 0, 0.5, *ticks]
    axes.set_xticks(ticks, [f"{value:g}".replace("-", "−") for value in ticks])
    axes.minorticks_off()
    axes.text(
        0.995,
        TOLERANCE * 1.25,
        f"{TOLERANCE:g} ULP",
        transform=axes.get_yaxis_transform(),
        ha="right",
        fontsize=8,
        color="0.35",
    )
    axes.set(xlabel="x", ylabel="error of the derivative, in ULP")
    axes.set_title(f"{activation.name}′ in {dtype.name}: {_conclusion(hand, automatic)}", loc="left", fontsize=11)
    axes.legend(frameon=False, loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16), markerscale=2.5, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _points(activation: Activation, dtype: np.dtype) -> np.ndarray:
    """Points spread evenly over the axis, up to where derivatives underflow, and beside kinks and zeros."""
    far = 1.3 * -math.log(float(jnp.finfo(dtype).smallest_normal))
    inner = np.linspace(-1, 1, POINTS // 4, endpoint=False)
    outer = np.geomspace(1, far, POINTS * 3 // 8)
    regimes = regime_points(activation, dtype)
    beside = [regimes[name] for name in ("kinks", "beside kinks", "zeros") if name in regimes]
    return np.unique(np.concatenate([inner.astype(dtype), outer.astype(dtype), -outer.astype(dtype), *beside]))


def _readable(error: float) -> str:
    if not math.isfinite(error):
        return "infinitely many"
    return f"{error:.1f}" if error < 1000 else f"{error:.1e}"


def _conclusion(hand: np.ndarray, automatic: np.ndarray) -> str:
    hand_is_right, automatic_is_right = (bool(np.all(errors <= TOLERANCE)) for errors in (hand, automatic))
    if hand_is_right:
        return "both are right" if automatic_is_right else "jax.grad is wrong"
    return "the formula is wrong" if automatic_is_right else "both are wrong"
