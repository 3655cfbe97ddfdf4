"""Errors of activations and their derivatives in units in the last place (ULP), measured by mpmath.

Both the hand-derived derivative and ``jax.grad`` are measured. The error in ULP is |computed - exact| in units of the
last place of the exact value, in the type of the computation. Rules:

- All values below the smallest normal number count as equal, and their unit is that of the smallest normal number,
  because XLA on the CPU replaces subnormal results by 0. It also replaces subnormal inputs by 0. So for a subnormal
  input, the value at ±0 is right too.
- If the exact value is larger than the largest number of the type, infinity is right.
- At a kink the exact value is the one declared in the activation's docstring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from functional_nn.activations.activation_types import ACTIVATIONS, Activation
from functional_nn.core.errors import InputError
from functional_nn.core.validation import as_host_array, check_dtype, shown
from functional_nn.gradients.compare.problem import converted_anew
from functional_nn.gradients.compare.report import Outcome, Report, Verdict, judge

TOLERANCE = 4.0
"""The largest error of a derivative, in ULP."""
VALUE_TOLERANCE = 16.0
"""The largest error of a function, in ULP; the functions are ``jax.nn``'s."""
LEAST_GATE = {"gelu": 1 / 256, "gelu_tanh": 1.0, "silu": 1 / 256, "mish": 1 / 256, "hard_silu": 1.0}
"""For values x g(x), the unit is at least that of this number times |x|: ``jax.nn`` loses digits if g is nearly 0."""
DTYPES = ("float64", "float32", "bfloat16", "float16")
DIGITS = 50


class Computed(NamedTuple):
    """Results at the same points, each an array (points,) in the type of the computation.

    Args:
        x: the points.
        value: the function.
        derivative: the hand-derived derivative.
        automatic: the derivative by ``jax.vjp``.
    """

    x: np.ndarray
    value: np.ndarray
    derivative: np.ndarray
    automatic: np.ndarray


class Exact(NamedTuple):
    """Exact numbers at one point.

    Args:
        values: the right values of the function. There are two if x is subnormal, since x may be replaced by 0. There
            are none for an activation without a formula in mpmath.
        derivatives: the right values of the derivative.
        reference_error: the absolute error of the derivatives.
    """

    values: tuple[Number, ...]
    derivatives: tuple[Number, ...]
    reference_error: float = 0.0


class ErrorsInULP(NamedTuple):
    """The values from which one verdict is made, at the same points.

    Args:
        kind: ``"vjp"`` or ``"value"``.
        exact: for each point, the numbers that count as right.
        hand: the results of the formula.
        automatic: the results of automatic differentiation; None if there are none.
        reference_error: the absolute errors of the exact numbers.
    """

    kind: str
    exact: Sequence[tuple[Number, ...]]
    hand: np.ndarray
    automatic: np.ndarray | None
    reference_error: Sequence[float]


def check_activation(
    activation: Activation,
    dtype: DTypeLike = "float32",
    points: Mapping[str, ArrayLike] | ArrayLike | None = None,
) -> Report:
    """Measures the errors of an activation and of its derivative in ULP, beside those of ``jax.grad``.

    It measures rounding: a derivative may be off by at most 4 ULP. So it rejects a formula that is right on paper but
    loses digits where terms cancel. Use ``check_vjp`` to check whether a formula is right.

    Args:
        activation: one of ``ACTIVATIONS``, or your own. Your own function is evaluated and differentiated in 50
            digits, so only its derivative gets verdicts. At a kink, or where the function has no value, the verdict is
            inconclusive. Choose other points.
        dtype: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``. The last two are computed in 32 bits.
        points: numbers, or a dict of numbers by regime. None means points that are chosen in every regime.

    >>> import functional_nn as fnn
    >>> report = check_activation(fnn.sigmoid, points=[0.5, 20.0])
    >>> report.passed, len(report.wrong_automatic)
    (True, 1)
    """
    dtype = comparison_dtype(activation, dtype)
    if points is None:
        regimes = regime_points(activation, dtype)
    else:
        by_regime = dict(points) if isinstance(points, Mapping) else {"given": points}
        regimes = {
            name: as_host_array("points", values).astype(dtype).reshape(-1) for name, values in by_regime.items()
        }
    if not regimes or not all(len(values) and np.isfinite(values).all() for values in regimes.values()):
        raise InputError("points", f"finite numbers in {dtype.name}, at least one in each regime", shown(points))
    with converted_anew(lambda: activation(jnp.zeros(1))), jax.enable_x64(True):
        computed = compute(activation, np.concatenate(list(regimes.values())))
        exact = _exact(activation, computed.x)
    verdicts, start = [], 0
    for regime, values in regimes.items():
        part = slice(start, start + len(values))
        start += len(values)
        verdicts.extend(
            _verdicts(activation, dtype, regime, Computed(*(array[part] for array in computed)), exact[part])
        )
    return Report(tuple(verdicts), title=f"{activation.name}, {dtype.name}")


def comparison_dtype(activation: Activation, dtype: DTypeLike) -> np.dtype:
    """The NumPy type with this name. Raises InputError if ``activation`` or ``dtype`` is not valid."""
    if not isinstance(activation, Activation):
        raise InputError("activation", "an Activation, which acts on every element alone", shown(activation))
    dtype = np.dtype(check_dtype("dtype", dtype))
    if dtype.name not in DTYPES:
        raise InputError("dtype", f"a floating-point type: {', '.join(DTYPES)}", dtype.name)
    return dtype


def compute(activation: Activation, x: np.ndarray) -> Computed:
    """Computes the function and both derivatives in the type of x."""

    @jax.jit
    def results(x: jax.Array) -> tuple[jax.Array, ...]:
        value, pull_back = jax.vjp(activation, x)
        return value, activation.derivative(x), *pull_back(jnp.ones_like(x))

    with jax.numpy_dtype_promotion("standard"):
        return Computed(x, *(np.asarray(array) for array in results(x)))


def _ulp_errors(results: np.ndarray, exact: Sequence[tuple[Number, ...]], dtype: np.dtype) -> np.ndarray:
    return np.array([ulp_error(result, right, dtype) for result, right in zip(results, exact, strict=True)])


def _exact(activation: Activation, x: np.ndarray) -> list[Exact]:
    formula = mpmath_formula(activation)
    if formula is None:
        return [_exact_without_formula(activation, value) for value in x]
    parameters = [mp.mpf(float(value)) for value in activation.parameters]
    exact = []
    for value in x.astype(np.float64).tolist():
        with mp.workdps(DIGITS):
            numbers = [mp.mpf(number) for number in _right_inputs(value, x.dtype)]
            values = tuple(formula.function(number, *parameters) for number in numbers)
            derivatives = tuple(formula.derivative(number, *parameters) for number in numbers)
            exact.append(Exact(values, derivatives))
    return exact


def _exact_without_formula(activation: Activation, x: np.floating) -> Exact:
    from functional_nn.gradients.arbiter import exact_jacobian

    inputs = np.asarray(_right_inputs(float(x), x.dtype), x.dtype)
    derivatives, errors = [], []
    for value in inputs:
        point = [np.asarray([value])]
        reference = exact_jacobian(lambda leaves: [activation(jnp.asarray(leaves[0]))], point, digits=DIGITS)
        derivatives.append(mp.mpf(float(reference.values[0][0, 0])))
        errors.append(float(reference.error[0][0, 0]))
    return Exact((), tuple(derivatives), max(errors))


def _right_inputs(x: float, dtype: np.dtype) -> list[float]:
    """The point. If it is subnormal, also 0: XLA may replace the point by 0, so both values are right."""
    smallest = float(jnp.finfo(dtype).smallest_normal)
    return [x, math.copysign(0.0, x)] if 0 < abs(x) < smallest else [x]


def ulp_error(computed: float | np.floating, exact: Sequence[Number], dtype: np.dtype, at_least: float = 0.0) -> float:
    """The smallest |computed - exact| over the exact numbers, in units of the last place, by the rules of this module.

    Args:
        computed: a number of the type.
        exact: ``mpmath`` numbers, all of which are right.
        dtype: the type.
        at_least: if the exact number is smaller than this, the unit is that of this number.
    """
    limits = jnp.finfo(dtype)
    smallest, largest = float(limits.smallest_normal), float(limits.max)
    y = float(computed)

    def error(value: Number) -> float:
        if value != value:  # the exact number is not known
            return math.inf
        if math.isnan(y):
            return math.nan
        if max(abs(y), abs(value)) < smallest:
            return 0.0
        if math.isinf(y):
            return 0.0 if value * int(math.copysign(1, y)) > largest else math.inf
        return in_units(y - value, max(abs(value), at_least), dtype)

    return min(map(error, exact))


def in_units(error: Number, value: Number, dtype: np.dtype) -> float:
    """|error| in units of the last place of a value in the type; infinite if the value is NaN."""
    if value != value:
        return math.inf
    limits = jnp.finfo(dtype)
    # frexp gives |value| = m 2ᵉ with ½ ≤ m < 1. There, one unit in the last place is 2^(e - 1 - nmant).
    _, exponent = mp.frexp(min(max(abs(mp.mpf(value)), float(limits.smallest_normal)), float(limits.max)))
    return float(mp.ldexp(abs(mp.mpf(error)), limits.nmant + 1 - int(exponent)))


def _verdicts(
    activation: Activation, dtype: np.dtype, regime: str, computed: Computed, exact: Sequence[Exact]
) -> Iterator[Verdict]:
    """The verdicts of one regime: on the derivative and on the function."""
    derivatives, error = [point.derivatives for point in exact], [point.reference_error for point in exact]
    compared = [ErrorsInULP("vjp", derivatives, computed.derivative, computed.automatic, error)]
    if exact and exact[0].values:
        compared.append(ErrorsInULP("value", [point.values for point in exact], computed.value, None, error))
    for errors in compared:
        yield _verdict(activation, dtype, regime, computed.x, errors)


def _verdict(activation: Activation, dtype: np.dtype, regime: str, x: np.ndarray, compared: ErrorsInULP) -> Verdict:
    """The verdict at the point where the formula has its largest error.

    If only automatic differentiation fails, the verdict shows the values at its worst point.
    """
    least_gate, tolerance = 0.0, TOLERANCE
    if compared.kind == "value":
        least_gate, tolerance = LEAST_GATE.get(activation.name, 0.0), VALUE_TOLERANCE
    errors = [
        ulp_error(result, right, dtype, least_gate * abs(float(point)))
        for result, right, point in zip(compared.hand, compared.exact, x, strict=True)
    ]
    reference_errors = [
        in_units(error, right[0], dtype) for error, right in zip(compared.reference_error, compared.exact, strict=True)
    ]
    outcomes = [judge(error, other, tolerance) for error, other in zip(errors, reference_errors, strict=True)]
    outcome: Outcome = "pass"
    if "fail" in outcomes:
        outcome = "fail"
    elif "inconclusive" in outcomes:
        outcome = "inconclusive"
    worst = _worst(errors)
    # The largest error may be inconclusive while a smaller one fails, since the reference's error differs by point.
    if outcome != "pass" and outcomes[worst] != outcome:
        worst = outcomes.index(outcome)
    shown_at, automatic_error = worst, None
    if compared.automatic is not None:
        automatic_errors = _ulp_errors(compared.automatic, compared.exact, dtype).tolist()
        # Where the arbiter knows nothing, automatic differentiation is not blamed either.
        automatic_errors = [
            0.0 if math.isinf(other) else error for error, other in zip(automatic_errors, reference_errors, strict=True)
        ]
        automatic_worst = _worst(automatic_errors)
        automatic_error = automatic_errors[automatic_worst]
        automatic_error = math.inf if math.isnan(automatic_error) else automatic_error
        if outcome == "pass" and automatic_error > tolerance:
            shown_at = automatic_worst
    return Verdict(
        activation.name,
        "x",
        outcome,
        errors[worst],
        tolerance,
        kind=compared.kind,
        dtype=dtype.name,
        regime=regime,
        unit="ULP",
        automatic_error=automatic_error,
        reference="mpmath",
        reference_error=reference_errors[worst],
        index=(shown_at,),
        hand=float(compared.hand[shown_at]),
        automatic=None if compared.automatic is None else float(compared.automatic[shown_at]),
        arbiter=float(compared.exact[shown_at][0]),
        note=f"x = {float(x[shown_at])!r}",
    )


def _worst(errors: Sequence[float]) -> int:
    """The index of the largest error. NaN counts as larger than any number."""
    return max(range(len(errors)), key=lambda place: math.inf if math.isnan(errors[place]) else errors[place])


def regime_points(activation: Activation, dtype: np.dtype, density: int = 1) -> dict[str, np.ndarray]:
    """Makes points of a type for each regime, about 150 for a density of 1.

    The regimes are normal numbers, ±0, subnormal numbers, huge numbers, and tails up to the points where the derivative
    underflows. The package's own activations also have kinks, their neighbors, and neighbors of the derivative's zeros.
    """
    limits = jnp.finfo(dtype)
    smallest, largest = float(limits.smallest_normal), float(limits.max)
    rng = np.random.default_rng(0)
    # A little beyond the point at which e⁻ˣ falls below the smallest normal number.
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
    arrays = {name: values.astype(dtype) for name, values in regimes.items()}
    formula = mpmath_formula(activation)
    if formula and formula.kinks:
        kinks = np.asarray(formula.kinks, dtype)
        # XLA on the CPU replaces subnormal numbers by 0, so these are the neighbors of 0.
        beside_zero = np.asarray([smallest, -smallest], dtype)
        beside = _neighbors([kink for kink in formula.kinks if kink], dtype, steps=3)
        arrays["kinks"] = kinks
        arrays["beside kinks"] = np.concatenate([beside, beside_zero] if 0.0 in formula.kinks else [beside])
    if formula and formula.zeros:
        arrays["zeros"] = _neighbors(formula.zeros, dtype, steps=12 * density)
    return arrays


def _neighbors(centers: Sequence[float], dtype: np.dtype, steps: int) -> np.ndarray:
    """The closest numbers of a type on both sides of each center."""
    infinity = np.asarray(np.inf, dtype)
    found = []
    for center in np.asarray(centers, dtype):
        up = down = center
        for _ in range(steps):
            up = np.nextafter(up, infinity)
            down = np.nextafter(down, -infinity)
            found += [up, down]
    return np.asarray(found, dtype)


def mpmath_formula(activation: Activation) -> Formula | None:
    """The mpmath formula of one of the package's activations; None for a user's activation of the same name."""

    ours = ACTIVATIONS.get(activation.name)
    is_ours = isinstance(ours, Activation) and ours.function is activation.function
    return FORMULAS.get(activation.name) if is_ours else None


Number: TypeAlias = Any
"""An ``mpmath.mpf``; mpmath has no types."""


class Formula(NamedTuple):
    """A function and its derivative.

    Args:
        function: f.
        derivative: f', with the declared value at kinks. Both take the activation's parameters after x.
        kinks: the points where f' jumps.
        zeros: the points, roughly, where f' crosses 0.
    """

    function: Callable[..., Number]
    derivative: Callable[..., Number]
    kinks: tuple[float, ...] = ()
    zeros: tuple[float, ...] = ()


def _sigma(x: Number) -> Number:
    return 1 / (1 + mp.exp(-x))


def _cumulative(x: Number) -> Number:
    """Φ(x). Huge x are clipped, since mpmath fails for them; there Φ is 0 or 1 to a billion digits."""
    return mp.ncdf(_clip(x, -(10**6), 10**6))


def _gelu_tanh_argument(x: Number) -> tuple[Number, Number]:
    """The argument u of tanh, and its derivative u'."""
    c, a = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
    return c * (x + a * x**3), c * (1 + 3 * a * x**2)


def _gelu_tanh(x: Number) -> Number:
    u, _ = _gelu_tanh_argument(x)
    # (1 + tanh u) / 2 = σ(2u), without the cancellation where tanh u is nearly -1.
    return x * _sigma(2 * u)


def _gelu_tanh_derivative(x: Number) -> Number:
    u, slope = _gelu_tanh_argument(x)
    return _sigma(2 * u) + x * slope * mp.sech(u) ** 2 / 2


def _mish_derivative(x: Number) -> Number:
    s = mp.log1p(mp.exp(x))  # its derivative is σ(x)
    return mp.tanh(s) + x * mp.sech(s) ** 2 * _sigma(x)


def _selu_constants() -> tuple[Number, Number]:
    """α and λ, with the digits in common use. They keep the mean 0 and the variance 1 of a normal variable."""
    return mp.mpf("1.6732632423543772848170429916717"), mp.mpf("1.0507009873554804934193349852946")


def _selu(x: Number) -> Number:
    alpha, scale = _selu_constants()
    return scale * (x if x > 0 else alpha * mp.expm1(x))


def _selu_derivative(x: Number) -> Number:
    alpha, scale = _selu_constants()
    return scale * (1 if x > 0 else alpha * mp.exp(x))


def _clip(x: Number, low: int, high: int) -> Number:
    return max(mp.mpf(low), min(mp.mpf(high), x))


def _hard_sigmoid(x: Number) -> Number:
    return _clip(x + 3, 0, 6) / 6


FORMULAS: dict[str, Formula] = {
    "identity": Formula(lambda x: x, lambda x: mp.mpf(1)),
    "sigmoid": Formula(_sigma, lambda x: mp.exp(-x) / (1 + mp.exp(-x)) ** 2),
    "tanh": Formula(mp.tanh, lambda x: mp.sech(x) ** 2),
    "softsign": Formula(lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "softplus": Formula(lambda x: mp.log1p(mp.exp(x)), _sigma),
    "log_sigmoid": Formula(lambda x: -mp.log1p(mp.exp(-x)), lambda x: _sigma(-x)),
    "relu": Formula(lambda x: max(x, mp.mpf(0)), lambda x: mp.mpf(x > 0), (0.0,)),
    "leaky_relu": Formula(
        lambda x, slope: x if x >= 0 else slope * x, lambda x, slope: mp.mpf(1 if x >= 0 else slope), (0.0,)
    ),
    "elu": Formula(
        lambda x, alpha: x if x > 0 else alpha * mp.expm1(x),
        lambda x, alpha: mp.mpf(1) if x > 0 else alpha * mp.exp(x),
        (0.0,),
    ),
    "selu": Formula(_selu, _selu_derivative, (0.0,)),
    "gelu": Formula(
        lambda x: x * _cumulative(x), lambda x: _cumulative(x) + x * mp.npdf(x), (), (-0.7517915246935645,)
    ),
    "gelu_tanh": Formula(_gelu_tanh, _gelu_tanh_derivative, (), (-0.7524614220710163,)),
    "silu": Formula(lambda x: x * _sigma(x), lambda x: _sigma(x) * (1 + x * _sigma(-x)), (), (-1.2784645427610737,)),
    "mish": Formula(lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), _mish_derivative, (), (-1.1924312145154952,)),
    "relu6": Formula(lambda x: _clip(x, 0, 6), lambda x: mp.mpf(0 < x < 6), (0.0, 6.0)),
    "hard_tanh": Formula(lambda x: _clip(x, -1, 1), lambda x: mp.mpf(-1 <= x <= 1), (-1.0, 1.0)),
    "hard_sigmoid": Formula(_hard_sigmoid, lambda x: mp.mpf(-3 < x < 3) / 6, (-3.0, 3.0)),
    "hard_silu": Formula(
        lambda x: x * _hard_sigmoid(x),
        lambda x: (2 * x + 3) / 6 if -3 < x < 3 else mp.mpf(x > 0),
        (-3.0, 3.0),
        (-1.5,),
    ),
}
"""Activations that act on single elements, by their names in ``functional_nn.activations.ACTIVATIONS``. The function of
one without a formula here is evaluated in 50 digits, so only its derivative is compared."""
