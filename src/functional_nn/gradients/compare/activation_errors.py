"""Activations against mpmath, in units in the last place: the formula, and ``jax.grad``, which is not the truth.

The error in ULP is |computed - exact| in units of the last place of the exact value in the type computed in. Rules:

- Below the smallest normal number nothing is told apart, and the unit is that of the smallest normal number: XLA on the
  CPU takes subnormal results for 0. It takes subnormal inputs for 0, too, so the exact value is that at x or at ±0.
- Beyond the largest number infinity is right.
- At a kink the exact value is the one that the activation's docstring declares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.activations.activation_types import Activation
from functional_nn.activations.table import ACTIVATIONS, elu_with, leaky_relu_with
from functional_nn.core.errors import InputError
from functional_nn.core.validation import as_host_array, check_dtype, shown
from functional_nn.gradients.compare.report import Outcome, Report, Verdict, judge

TOLERANCE = 4.0
"""ULP that a derivative may be wrong by."""
VALUE_TOLERANCE = 16.0
"""ULP for the functions, which are ``jax.nn``'s."""
LEAST_GATE = {"gelu": 1 / 256, "gelu_tanh": 1.0, "silu": 1 / 256, "mish": 1 / 256, "hard_silu": 1.0}
"""A gate's value x g(x) is measured in ULP of at least this times |x|: ``jax.nn`` loses digits where g is nearly 0."""
DIGITS = 50
TANGENT = -0.5
"""A power of two: the product with it is exact, and what is wrong is the derivative."""


class Computed(NamedTuple):
    """What the parties say at the same points, each (points,) in the type computed in."""

    x: np.ndarray
    value: np.ndarray
    derivative: np.ndarray
    automatic: np.ndarray
    tangent: np.ndarray
    automatic_tangent: np.ndarray


def compare_elementwise(
    activation: Activation, dtype: Any = "float32", points: Mapping[str, Any] | Any = None
) -> Report:
    """Errors in ULP of an activation's function and derivative, and of ``jax.grad``, for each regime.

    Args:
        activation: one of ``ACTIVATIONS``, or your own. Of one that has no formula in ``gradients.formulas`` the
            function is evaluated in 50 digits and differentiated there; there are verdicts on the derivative only.
        dtype: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``. The last two are computed in 32 bits.
        points: numbers, or numbers by regime; None for some in every regime.

    >>> import functional_nn as fnn
    >>> report = compare_elementwise(fnn.sigmoid, points=[0.5, 20.0])
    >>> report.passed, len(report.wrong_automatic)
    (True, 2)
    """
    kind = elementwise_type(activation, dtype)
    if points is None:
        regimes = regime_points(activation, kind)
    else:
        regimes = dict(points) if isinstance(points, Mapping) else {"given": points}
        regimes = {name: as_host_array("points", values).astype(kind).reshape(-1) for name, values in regimes.items()}
    if not regimes or not all(len(values) and not np.isnan(values.astype(float)).any() for values in regimes.values()):
        raise InputError("points", "numbers, at least one in each regime", shown(points))
    with jax.enable_x64(True):
        computed = compute(activation, np.concatenate(list(regimes.values())))
        exact = _exact(activation, computed.x)
    verdicts, start = [], 0
    for regime, values in regimes.items():
        part = slice(start, start := start + len(values))
        verdicts.extend(_verdicts(activation, kind, regime, Computed(*(a[part] for a in computed)), exact[part]))
    return Report(tuple(verdicts), title=f"{activation.name}, {kind.name}")


def elementwise_type(activation: Any, dtype: Any) -> np.dtype:
    """The type to compare an activation in; refuses what is no activation, and no floating-point type."""
    if not isinstance(activation, Activation):
        raise InputError("activation", "an Activation, which acts on every element alone", shown(activation))
    kind = np.dtype(check_dtype("dtype", dtype))
    if not jnp.issubdtype(kind, jnp.floating):
        raise InputError("dtype", "a floating-point type", kind.name)
    return kind


def checks(quick: bool) -> Iterator[Verdict]:
    """All verdicts on all elementwise activations: of float32 where it is to be quick, else of three types, densely."""
    others = (leaky_relu_with(0.2), elu_with(1.7))
    activations = [*(value for value in ACTIVATIONS.values() if isinstance(value, Activation)), *others]
    for dtype in ("float32",) if quick else ("float64", "float32", "bfloat16"):
        for activation in activations:
            points = regime_points(activation, np.dtype(jnp.dtype(dtype)), density=1 if quick else 8)
            yield from compare_elementwise(activation, dtype, points).verdicts


def wrong_automatic(dtype: Any = "float32") -> list[Verdict]:
    """Where ``jax.grad`` is the party that is wrong, worst first: the verdicts with x, its value and the exact one."""
    wrong = [
        verdict
        for value in ACTIVATIONS.values()
        if isinstance(value, Activation)
        for verdict in compare_elementwise(value, dtype).wrong_automatic
        if verdict.kind == "vjp"
    ]
    return sorted(wrong, key=lambda verdict: verdict.automatic_error or 0, reverse=True)


def regime_points(activation: Activation, kind: np.dtype, density: int = 1) -> dict[str, np.ndarray]:
    """Points in the type, by regime, some 150 times the density: the tails go on until the derivative underflows."""
    limits = jnp.finfo(kind)
    smallest, largest = float(limits.smallest_normal), float(limits.max)
    rng = np.random.default_rng(0)
    far = 1.3 * -math.log(smallest)
    tail = np.concatenate(
        [np.geomspace(4, far, 24 * density), rng.uniform(4, far, 12 * density), rng.uniform(4, 16, 12 * density)]
    )
    small = np.geomspace(smallest * 2, 0.1, 12 * density)
    subnormal = smallest * np.array([0.5, 0.75, 2.0 ** -(limits.nmant - 1)])
    huge = np.array([1e4, math.sqrt(largest) / 2, math.sqrt(largest) * 3, largest / 4, largest])
    regimes = {
        "normal": np.concatenate(
            [
                np.linspace(-4, 4, 33),
                rng.normal(size=24 * density),
                rng.uniform(-4, 4, size=24 * density),
                small,
                -small,
            ]
        ),
        "tails": np.concatenate([tail, -tail]),
        "±0": np.array([0.0, -0.0]),
        "subnormal": np.concatenate([subnormal, -subnormal]),
        "huge": np.concatenate([huge[huge <= largest], -huge[huge <= largest]]),
    }
    arrays = {name: values.astype(kind) for name, values in regimes.items()}
    formula = _formula(activation)
    if formula and formula.kinks:
        kinks = np.asarray(formula.kinks, kind)
        beside_zero = np.asarray([smallest, -smallest], kind)  # the next numbers but the subnormal ones
        beside = _neighbors([kink for kink in formula.kinks if kink], kind, steps=3)
        arrays["kinks"] = kinks
        arrays["beside kinks"] = np.concatenate([beside, beside_zero] if 0.0 in formula.kinks else [beside])
    if formula and formula.zeros:
        arrays["zeros"] = _neighbors(formula.zeros, kind, steps=12 * density)
    return arrays


def _neighbors(centers: Sequence[float], kind: np.dtype, steps: int) -> np.ndarray:
    """The next numbers of a type on both sides."""
    found = []
    for center in np.asarray(centers, kind):
        up = down = center
        for _ in range(steps):
            up, down = np.nextafter(up, np.asarray(np.inf, kind)), np.nextafter(down, np.asarray(-np.inf, kind))
            found += [up, down]
    return np.asarray(found, kind)


def compute(activation: Activation, x: np.ndarray) -> Computed:
    """The function, the derivative by hand and by ``jax.grad``, and both in forward mode, in the type of x."""

    @jax.jit
    def parties(x):
        tangents = jnp.full_like(x, TANGENT)
        value, push = jax.linearize(activation, x)
        by_hand = activation.derivative(x)
        _, pull = jax.vjp(activation, x)
        return value, by_hand, pull(jnp.ones_like(x))[0], by_hand * tangents, push(tangents)

    with jax.numpy_dtype_promotion("standard"):
        return Computed(x, *(np.asarray(array) for array in parties(x)))


def derivative_errors(activation: Activation, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The errors in ULP, at each point, of the derivative by hand and by ``jax.grad``."""
    with jax.enable_x64(True):
        computed = compute(activation, x)
        exact = [e.derivatives for e in _exact(activation, x)]
    hand, automatic = (
        np.array([ulp_error(y, e, x.dtype) for y, e in zip(values, exact, strict=True)])
        for values in (computed.derivative, computed.automatic)
    )
    return hand, automatic


class Exact(NamedTuple):
    """Exact values at a point; a second one where x is subnormal and may be taken for 0."""

    values: tuple[Any, ...]
    derivatives: tuple[Any, ...]
    reference_error: float = 0.0


def _formula(activation: Activation) -> Any:
    """The mpmath formula of one of our own activations, not of a user's that has the same name."""
    from functional_nn.gradients.references.activation_definitions import FORMULAS

    ours = ACTIVATIONS.get(activation.name)
    same = isinstance(ours, Activation) and ours.function is activation.function
    return FORMULAS[activation.name] if same else None


def _exact(activation: Activation, x: np.ndarray) -> list[Exact]:
    import mpmath as mp

    formula = _formula(activation)
    if formula is None:
        return [_exact_without_formula(activation, value) for value in x]
    smallest = float(jnp.finfo(x.dtype).smallest_normal)
    parameters = [mp.mpf(float(value)) for value in activation.parameters]
    exact = []
    for value in x.astype(np.float64).tolist():
        inputs = [value, math.copysign(0.0, value)] if 0 < abs(value) < smallest else [value]
        with mp.workdps(DIGITS):
            numbers = [mp.mpf(number) for number in inputs]
            values = tuple(formula.function(number, *parameters) for number in numbers)
            exact.append(Exact(values, tuple(formula.derivative(number, *parameters) for number in numbers)))
    return exact


def _exact_without_formula(activation: Activation, x: Any) -> Exact:
    import mpmath as mp

    from functional_nn.gradients.references.numerical import exact_jacobian

    reference = exact_jacobian(lambda leaves: [activation(leaves[0])], [np.asarray([x])], digits=DIGITS)
    return Exact((), (mp.mpf(float(reference.values[0][0, 0])),), float(reference.error[0][0, 0]))


def ulp_error(computed: Any, exact: Sequence[Any], kind: np.dtype, at_least: float = 0.0) -> float:
    """|computed - exact| in units of the last place, by this file's rules: the least over the exact values.

    Args:
        computed: a number of the type.
        exact: ``mpmath`` numbers, each of which is right.
        kind: the type.
        at_least: the unit is that of no smaller number than this.
    """
    limits = jnp.finfo(kind)
    smallest, largest = float(limits.smallest_normal), float(limits.max)
    y = float(computed)

    def error(value):
        if math.isnan(y):
            return math.nan
        if max(abs(y), abs(value)) < smallest:
            return 0.0
        if math.isinf(y):
            return 0.0 if value * int(math.copysign(1, y)) > largest else math.inf
        return in_units(y - value, max(abs(value), at_least), kind)

    return min(map(error, exact))


def in_units(error: Any, value: Any, kind: np.dtype) -> float:
    """|error| in units of the last place of a value in the type."""
    import mpmath as mp

    limits = jnp.finfo(kind)
    _, exponent = mp.frexp(min(max(abs(mp.mpf(value)), float(limits.smallest_normal)), float(limits.max)))
    return float(mp.ldexp(abs(mp.mpf(error)), limits.nmant + 1 - int(exponent)))


def _verdicts(
    activation: Activation, kind: np.dtype, regime: str, computed: Computed, exact: Sequence[Exact]
) -> Iterator[Verdict]:
    derivatives = [e.derivatives for e in exact]
    tangents = [tuple(TANGENT * value for value in values) for values in derivatives]
    uncertain = [e.reference_error for e in exact]
    yield _verdict(
        "vjp", activation, kind, regime, computed.x, derivatives, computed.derivative, computed.automatic, uncertain
    )
    scaled = [abs(TANGENT) * error for error in uncertain]
    yield _verdict(
        "jvp", activation, kind, regime, computed.x, tangents, computed.tangent, computed.automatic_tangent, scaled
    )
    if exact and exact[0].values:
        values = [e.values for e in exact]
        yield _verdict("value", activation, kind, regime, computed.x, values, computed.value, None, uncertain)


def _verdict(what, activation, kind, regime, x, exact, hand, automatic, uncertain) -> Verdict:
    """The verdict at the point where the formula is worst; automatic differentiation is shown where it is worst."""
    share = LEAST_GATE.get(activation.name, 0.0) if what == "value" else 0.0
    least = [share * abs(float(value)) for value in x]
    errors = [ulp_error(y, e, kind, low) for y, e, low in zip(hand, exact, least, strict=True)]
    references = [in_units(error, e[0], kind) for error, e in zip(uncertain, exact, strict=True)]
    worst = _worst(errors)
    tolerance = VALUE_TOLERANCE if what == "value" else TOLERANCE
    outcomes = [judge(error, reference, tolerance) for error, reference in zip(errors, references, strict=True)]
    outcome: Outcome = "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
    if outcome != "pass" and outcomes[worst] != outcome:
        worst = outcomes.index(outcome)
    shown, automatic_error = worst, None
    if automatic is not None:
        automatic_errors = [ulp_error(y, e, kind) for y, e in zip(automatic, exact, strict=True)]
        automatic_worst = _worst(automatic_errors)
        automatic_error = automatic_errors[automatic_worst]
        automatic_error = math.inf if math.isnan(automatic_error) else automatic_error
        if outcome == "pass" and automatic_error > tolerance:
            shown = automatic_worst
    return Verdict(
        *(activation.name, "x", outcome, errors[worst], tolerance),
        kind=what,
        dtype=kind.name,
        regime=regime,
        unit="ULP",
        automatic_error=automatic_error,
        reference="mpmath",
        reference_error=references[worst],
        index=(shown,),
        hand=float(hand[shown]),
        automatic=None if automatic is None else float(automatic[shown]),
        arbiter=float(exact[shown][0]),
        note=f"x = {float(x[shown])!r}",
    )


def _worst(errors: Sequence[float]) -> int:
    return max(range(len(errors)), key=lambda i: math.inf if math.isnan(errors[i]) else errors[i])
