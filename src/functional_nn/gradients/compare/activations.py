"""Errors of activations and their derivatives in units in the last place (ULP), measured in many digits.

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from functional_nn.activations.activation_types import ACTIVATIONS, Activation
from functional_nn.core.errors import InputError, shown
from functional_nn.core.validation import as_host_array, check_dtype
from functional_nn.gradients.compare.compared_values import ComparedValues
from functional_nn.gradients.compare.problem import converted_anew
from functional_nn.gradients.compare.report import Report, Verdict
from functional_nn.gradients.exact_numbers import GRADIENT, VALUE, ExactFunction, ExactNumbers, beside, ulp_errors

TOLERANCES = {"vjp": 4.0, "value": 16.0}
"""The largest errors of a derivative and of a function, in ULP; the functions are ``jax.nn``'s."""
LEAST_GATE = {"gelu": 1 / 256, "gelu_tanh": 1.0, "silu": 1 / 256, "mish": 1 / 256, "hard_silu": 1.0}
"""For values x g(x), the unit is at least that of this number times |x|: ``jax.nn`` loses digits if g is nearly 0."""
DTYPES = ("float64", "float32", "bfloat16", "float16")


def check_activation(
    activation: Activation, dtype: DTypeLike = "float32", points: Mapping[str, ArrayLike] | ArrayLike | None = None
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
    >>> report = fnn.gradients.check_activation(fnn.sigmoid, points=[0.5, 20.0])
    >>> report.passed, len(report.wrong_automatic)
    (True, 1)
    """
    if not isinstance(activation, Activation):
        raise InputError("activation", "an Activation, which acts on every element alone", shown(activation))
    dtype = np.dtype(check_dtype(dtype))
    if dtype.name not in DTYPES:
        raise InputError("dtype", f"a floating-point type: {', '.join(DTYPES)}", dtype.name)
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
        verdicts = list(_verdicts(activation, regimes))
    return Report(tuple(verdicts), title=f"{activation.name}, {dtype.name}")


def _verdicts(activation: Activation, regimes: Mapping[str, np.ndarray]) -> Iterator[Verdict]:
    """The verdicts of each regime: on the derivative and, for an activation of the package, on the function."""
    x = np.concatenate(list(regimes.values()))
    exact = _exact(activation, x)

    @jax.jit
    def computed(x: jax.Array) -> tuple[jax.Array, ...]:
        value, pull_back = jax.vjp(activation, x)
        return value, activation.derivative(x), *pull_back(jnp.ones_like(x))

    with jax.numpy_dtype_promotion("standard"):
        value, hand, automatic = map(np.asarray, computed(x))
    by_kind = {"vjp": hand, "value": value}
    end = 0
    for regime, points in regimes.items():
        part = slice(end, end := end + len(points))
        for kind, right in exact.items():
            numbers = ExactNumbers(*(array[:, part] for array in right))
            other = automatic[part] if kind == "vjp" else None
            template = Verdict(activation.name, "x", "pass", 0.0, TOLERANCES[kind], kind, x.dtype.name, regime=regime)
            template = replace(template, unit="ULP", reference="many digits")
            least = LEAST_GATE.get(activation.name, 0.0) if kind == "value" else 0.0
            yield _verdict(template, least, points, numbers, by_kind[kind][part], other)


def _exact(activation: Activation, x: np.ndarray) -> dict[str, ExactNumbers]:
    """The right numbers by kind, (2, points): at the points, and with 0 in place of the subnormal ones, as XLA may do.

    At a kink, they are those of the next number on the side of the declared value.
    """
    is_subnormal = (x != 0) & (np.abs(x) < jnp.finfo(x.dtype).smallest_normal)
    every = np.concatenate([x, np.where(is_subnormal, np.copysign(0, x), x)]).astype(np.float64)
    formula = own_formula(activation)
    if formula is None:
        kinds, exact = {"vjp": GRADIENT}, ExactFunction(activation, None, x.dtype)
    else:
        kinds, parameters = {"vjp": GRADIENT, "value": VALUE}, map(float, activation.parameters)
        exact = ExactFunction(partial(formula.function, *parameters), None, np.dtype(float))
        for kink, side in formula.kinks.items():
            every[every == kink] = np.nextafter(kink, side * np.inf)
    found = exact.at(every[:, None])
    return {kind: ExactNumbers(*(array.reshape(2, -1) for array in found[name])) for kind, name in kinds.items()}


def _verdict(
    template: Verdict, least: float, x: np.ndarray, exact: ExactNumbers, hand: np.ndarray, automatic: np.ndarray | None
) -> Verdict:
    """The verdict at the point where the formula has its largest error.

    If only automatic differentiation fails, the verdict shows the values at its worst point. Where the exact number is
    not known, neither is certain to be wrong.

    Args:
        template: a verdict with the fields that are already known.
        least: the unit is at least that of this number times |x|.
        x: the points.
        exact: the right numbers, see ``_exact``.
        hand: the numbers of the activation.
        automatic: the derivatives by automatic differentiation; None for the function.
    """
    is_unknown, sizes = np.any(np.isnan(exact.high), 0), least * np.abs(x.astype(np.float64))
    errors, by_jax = (
        np.where(is_unknown, np.inf, ulp_errors(found, exact, x.dtype, at_least=sizes).min(0))
        for found in (hand, hand if automatic is None else automatic)
    )
    nothing, unknown = np.zeros(x.shape), np.where(is_unknown, np.inf, 0.0)
    values = ComparedValues(errors, by_jax, nothing, unknown, np.ones(x.shape), 0.0, nothing)
    verdict, (at,) = values.verdict(template)
    if verdict.outcome == "pass" and verdict.automatic_outcome == "fail":
        at = int(np.argmax(by_jax))
    beside = {"automatic": None, "automatic_error": None} if automatic is None else {"automatic": float(automatic[at])}
    at_point = {"index": (at,), "hand": float(hand[at]), "arbiter": float(exact.high[0, at])}
    return replace(verdict, note=f"x = {float(x[at])!r}", **at_point, **beside)


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

    def both(size: np.ndarray) -> np.ndarray:
        return np.concatenate([size, -size])

    around = np.linspace(-4, 4, 33), rng.normal(size=24 * density), rng.uniform(-4, 4, size=24 * density)
    regimes = {
        "normal": np.concatenate([*around, both(small)]),
        "tails": both(tail),
        "±0": np.array([0.0, -0.0]),
        "subnormal": both(subnormal),
        "huge": both(huge[huge <= largest]),
    }
    arrays = {name: values.astype(dtype) for name, values in regimes.items()}
    formula = own_formula(activation)
    if formula and formula.kinks:
        # XLA on the CPU replaces subnormal numbers by 0, so these are the neighbors of 0.
        beside_zero = np.asarray([smallest, -smallest], dtype)
        kinks = arrays["kinks"] = np.asarray(list(formula.kinks), dtype)
        others = beside(kinks[kinks != 0], np.arange(1, 4))
        arrays["beside kinks"] = np.concatenate([others, beside_zero] if 0.0 in formula.kinks else [others])
    if formula and formula.zeros:
        arrays["zeros"] = beside(np.asarray(formula.zeros, dtype), np.arange(1, 12 * density + 1))
    return arrays


def own_formula(activation: Activation) -> Formula | None:
    """The formula of one of the package's activations; None for a user's activation of the same name."""
    ours = ACTIVATIONS.get(activation.name)
    is_ours = isinstance(ours, Activation) and ours.function is activation.function
    return FORMULAS.get(activation.name) if is_ours else None


class Formula(NamedTuple):
    """A function as in a textbook. It is computed in many digits, so its constants must not be rounded to float64.

    Args:
        function: f; it takes x after the activation's parameters.
        kinks: the points where f' jumps, each with the side of the declared value: -1 for left, 1 for right.
        zeros: the points, roughly, where f' crosses 0.
    """

    function: Callable[..., jax.Array]
    kinks: Mapping[float, int] = {}
    zeros: tuple[float, ...] = ()


def _sigma(x: jax.Array) -> jax.Array:
    return 1 / (1 + jnp.exp(-x))


def _softplus(x: jax.Array) -> jax.Array:
    """log(1 + eˣ), without an eˣ that is too large even for numbers of many digits."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _gelu_tanh(x: jax.Array) -> jax.Array:
    pi = 4 * jnp.atan(1 + 0 * x)  # JAX would compute 4 atan(1) in float64
    # (1 + tanh u) / 2 = σ(2u), without the cancellation where tanh u is nearly -1.
    return x * _sigma(jnp.sqrt(8 / pi) * (x + 44715 * x**3 / 10**6))


def _elu(alpha: float, x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, alpha * jnp.expm1(x))


FORMULAS: dict[str, Formula] = {
    "identity": Formula(lambda x: x),
    "sigmoid": Formula(_sigma),
    "tanh": Formula(jnp.tanh),
    "softsign": Formula(lambda x: x / (1 + jnp.abs(x))),
    "softplus": Formula(_softplus),
    "log_sigmoid": Formula(lambda x: -_softplus(-x)),
    "relu": Formula(lambda x: jnp.maximum(x, 0), {0.0: -1}),
    "leaky_relu": Formula(lambda slope, x: jnp.where(x >= 0, x, slope * x), {0.0: 1}),
    "elu": Formula(_elu, {0.0: -1}),
    # These numbers keep the mean 0 and the variance 1 of a normal variable.
    "selu": Formula(lambda x: 1.0507009873554805 * _elu(1.6732632423543772, x), {0.0: -1}),
    "gelu": Formula(lambda x: x * jax.lax.erfc(-x / jnp.sqrt(2 + 0 * x)) / 2, {}, (-0.7517915246935645,)),
    "gelu_tanh": Formula(_gelu_tanh, {}, (-0.7524614220710163,)),
    "silu": Formula(lambda x: x * _sigma(x), {}, (-1.2784645427610737,)),
    "mish": Formula(lambda x: x * jnp.tanh(_softplus(x)), {}, (-1.1924312145154952,)),
    "relu6": Formula(lambda x: jnp.clip(x, 0, 6), {0.0: -1, 6.0: 1}),
    "hard_tanh": Formula(lambda x: jnp.clip(x, -1, 1), {-1.0: 1, 1.0: -1}),
    "hard_sigmoid": Formula(lambda x: jnp.clip(x + 3, 0, 6) / 6, {-3.0: -1, 3.0: 1}),
    "hard_silu": Formula(lambda x: x * jnp.clip(x + 3, 0, 6) / 6, {-3.0: -1, 3.0: 1}, (-1.5,)),
}
"""Activations that act on single elements, by their names in ``functional_nn.activations.ACTIVATIONS``. The function of
one without a formula here is its own, so only its derivative is compared."""
