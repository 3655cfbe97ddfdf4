"""Makes the data of ``where_grad_is_wrong.html``: errors of ``jax.grad`` in float32, for functions of JAX and Optax.

Run ``python docs/figures/make_where_grad_is_wrong.py``. It computes each value, gradient and second derivative without
``jit``, as a user would. mpmath computes the right number from the function's formula. The data go into the file
of the figure, between two marks.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import optax

import functional_nn as fnn

PAGE = Path(__file__).parent / "where_grad_is_wrong.html"
QUANTITIES = ("value", "gradient", "second derivative")
POINTS = 120
"""The points of the first grid. As many again are added where the error changes most."""
HALF = 2000.0
"""Half of the digits of float32, in ULP. A curve that stays below it is left out."""
TINY = float(np.finfo(np.float32).tiny)
NAMES = {"jax": jax, "jnp": jnp, "optax": optax, "fnn": fnn}


@dataclass(frozen=True)
class Case:
    """A function of one number.

    ``code`` and ``ours`` are Python expressions: the function of JAX or Optax, and the same function of functional_nn,
    where it has one. ``formula`` is its gradient as derived by hand; without it, it is the derivative of ``ours``.
    ``exact`` is the function in mpmath. ``axis`` says where it is looked at: ("linear", low, high), or ("log", low,
    high), where both are positive or both are negative.
    """

    group: str
    name: str
    code: str
    exact: Callable
    axis: tuple[str, float, float]
    note: str
    ours: str = ""
    formula: str = ""


def mp_sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def mp_softplus(x):
    return mp.log1p(mp.exp(x))


def mp_gelu_tanh(x):
    return x * mp_sigmoid(2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))


def pair(function: str, rest: str = "") -> str:
    """The code of a function of the vector (x, 0)."""
    return f"lambda x: {function}(jnp.stack([x, 0.0 * x]){rest})"


A, S, L, E, P = (
    "Activations",
    "Softmax and its relatives",
    "Losses of Optax",
    "Elementary functions",
    "Special functions",
)
WIDE, ROOT = ("linear", -40, 40), mp.sqrt
# fmt: off
CASES = (
    Case(A, "jax.nn.sigmoid", "jax.nn.sigmoid", mp_sigmoid, WIDE,
         "The derivative is computed as y (1 - y). For large x, y rounds to 1, and 1 - y is 0.", "fnn.sigmoid"),
    Case(A, "jnp.tanh", "jnp.tanh", mp.tanh, ("linear", -20, 20),
         "The derivative is computed as 1 - y². In both tails y² rounds to 1.", "fnn.tanh"),
    Case(A, "jax.nn.softplus", "jax.nn.softplus", mp_softplus, WIDE,
         "The gradient is a sigmoid, and its derivative cancels for large x.", "fnn.softplus"),
    Case(A, "jax.nn.log_sigmoid", "jax.nn.log_sigmoid", lambda x: -mp_softplus(-x), WIDE,
         "This is softplus mirrored: the second derivative is 0 where it should be small.", "fnn.log_sigmoid"),
    Case(A, "jax.nn.silu", "jax.nn.silu", lambda x: x * mp_sigmoid(x), WIDE,
         "The second derivative contains that of the sigmoid, which cancels for large x.", "fnn.silu"),
    Case(A, "jax.nn.gelu", "jax.nn.gelu", mp_gelu_tanh, ("linear", -8, 8),
         "By default gelu uses tanh. For x < -4, 1 + tanh(…) loses its digits, so the value itself is wrong.",
         "fnn.gelu_tanh"),
    Case(A, "jax.nn.mish", "jax.nn.mish", lambda x: x * mp.tanh(mp_softplus(x)), ("linear", -30, 30),
         "The derivative of tanh(softplus(x)) is 1 - tanh², which cancels for large x.", "fnn.mish"),
    Case(A, "jax.nn.soft_sign", "jax.nn.soft_sign", lambda x: x / (1 + abs(x)), ("log", 1, 1e10),
         "1 / (1 + x) - x / (1 + x)² subtracts two nearly equal numbers.", "fnn.softsign"),
    Case(A, "jax.nn.squareplus", "jax.nn.squareplus", lambda x: (x + ROOT(x * x + 4)) / 2, ("log", -1e6, -1),
         "For negative x, x + √(x² + 4) subtracts two nearly equal numbers."),
    Case(S, "jax.nn.softmax", f"{pair('jax.nn.softmax')}[0]", mp_sigmoid, WIDE,
         "softmax of (x, 0). The gradient p - p² cancels when p is nearly 1.", f"{pair('fnn.softmax')}[0]",
         f"{pair('fnn.softmax.pullback', ', jnp.array([1.0, 0.0])')}[0]"),
    Case(S, "jax.nn.log_softmax", f"{pair('jax.nn.log_softmax')}[0]", lambda x: -mp_softplus(-x), WIDE,
         "log_softmax of (x, 0). The right answer is as small as e⁻ˣ, but x - log(eˣ + 1) rounds to 0.",
         f"{pair('fnn.log_softmax')}[0]",
         f"{pair('fnn.log_softmax.pullback', ', jnp.array([1.0, 0.0])')}[0]"),
    Case(S, "jax.nn.logsumexp", pair("jax.nn.logsumexp"), mp_softplus, WIDE,
         "logsumexp of (x, 0) is computed as log(eˣ + 1). For very negative x the sum rounds to 1."),
    Case(S, "jnp.logaddexp", "lambda x: jnp.logaddexp(x, 0.0)", mp_softplus, WIDE,
         "The second derivative multiplies by 1 - p, which is 0 when p rounds to 1."),
    Case(L, "optax.losses.softmax_cross_entropy",
         "lambda x: optax.losses.softmax_cross_entropy(jnp.stack([x, 0.0 * x]), jnp.array([1.0, 0.0]))",
         lambda x: mp_softplus(-x), WIDE,
         "Logits (x, 0), first class. A confident right answer has a small loss, but both loss and gradient become 0.",
         "lambda x: fnn.cross_entropy(jnp.stack([x, 0.0 * x])[None], jnp.array([0]))",
         "lambda x: fnn.cross_entropy.gradient(jnp.stack([x, 0.0 * x])[None], jnp.array([0]))[0, 0]"),
    Case(L, "optax.losses.sigmoid_binary_cross_entropy",
         "lambda x: optax.losses.sigmoid_binary_cross_entropy(x, 1.0)", lambda x: mp_softplus(-x), WIDE,
         "Label 1. The second derivative p (1 - p) is 0 where p rounds to 0 or 1.",
         "lambda x: fnn.binary_cross_entropy(x[None], jnp.ones(1))",
         "lambda x: fnn.binary_cross_entropy.gradient(x[None], jnp.ones(1))[0]"),
    Case(L, "optax.losses.sigmoid_focal_loss", "lambda x: optax.losses.sigmoid_focal_loss(x, 1.0)",
         lambda x: mp_softplus(-x) * mp_sigmoid(-x) ** 2, ("linear", -25, 25),
         "Label 1. The factor (1 - p)² is computed from a rounded p."),
    Case(L, "optax.losses.log_cosh", "lambda x: optax.losses.log_cosh(x, 0.0)", lambda x: mp.log(mp.cosh(x)),
         ("log", 1e-7, 40), "The loss subtracts log 2 from a number near log 2. For small x nothing is left."),
    Case(E, "x / jnp.linalg.norm", "lambda x: x / jnp.linalg.norm(jnp.stack([x, x / x]))",
         lambda x: x / ROOT(1 + x * x), ("log", 0.01, 1e8),
         "The first component of (x, 1) / ‖(x, 1)‖. Its gradient subtracts two nearly equal numbers."),
    Case(E, "jnp.hypot", "lambda x: jnp.hypot(x, 1.0)", lambda x: ROOT(1 + x * x), ("log", 0.01, 1e8),
         "√(x² + 1). The second derivative subtracts two nearly equal numbers for large x."),
    Case(E, "jnp.sqrt(1 + x²)", "lambda x: jnp.sqrt(1 + x**2)", lambda x: ROOT(1 + x * x), ("log", 0.01, 1e8),
         "The same function written by hand loses the same digits."),
    Case(E, "jnp.arcsinh", "jnp.arcsinh", mp.asinh, ("log", 0.01, 1e14),
         "For large x, x² + 1 is x² and, later, not a number float32 can hold in its derivative."),
    Case(P, "jax.scipy.special.digamma", "jax.scipy.special.digamma", mp.digamma, ("linear", -25, 6),
         "Below x = -9 or so, the gradient comes from a series that holds for positive x only."),
    Case(P, "jax.scipy.special.gammaln", "jax.scipy.special.gammaln", lambda x: mp.log(abs(mp.gamma(x))),
         ("linear", -25, 6), "The second derivative is the gradient of digamma, which is wrong below x = -9 or so."),
    Case(P, "jax.scipy.special.betaln", "lambda x: jax.scipy.special.betaln(x, 2.0)",
         lambda x: -mp.log(abs(x * (x + 1))), ("linear", -25, 6),
         "betaln(x, 2) is -log|x (x + 1)|, but it is computed from three gamma functions."),
    Case(P, "jax.scipy.special.log_ndtr", "jax.scipy.special.log_ndtr", lambda x: mp.log(mp.ncdf(x)),
         ("log", -1e4, -0.1),
         "The logarithm of the normal distribution. Far to the left its second derivative should be near -1."),
    Case(P, "jax.scipy.special.expn", "lambda x: jax.scipy.special.expn(2, x)", lambda x: mp.expint(2, x),
         ("log", 1e-12, 20),
         "The exponential integral E₂. Very near 0 its second derivative is 1 / x, but JAX gives NaN."),
)
# fmt: on


def short(position: float, axis: tuple[str, float, float]) -> np.float32:
    """The point at a position between 0 and 1, with four digits, so that it is easily typed."""
    kind, low, high = axis
    x = low + position * (high - low) if kind == "linear" else low * (high / low) ** position
    return np.float32(f"{x:.4g}")


def exact_numbers(case: Case, x: np.float32) -> tuple[list, list[float]]:
    """Value, first and second derivative in many digits, and the condition number of each."""
    d = [mp.re(v) for v in mp.diffs(case.exact, mp.mpf(float(x)), 3)]
    return d[:3], [float(abs(mp.mpf(float(x)) * d[k + 1] / d[k])) if d[k] else np.inf for k in range(3)]


def computed(code: str, formula: str = "") -> list[Callable]:
    """The function in ``code`` and its two derivatives: by ``jax.grad``, or from the code of its gradient."""
    f = eval(code, dict(NAMES))
    gradient = eval(formula, dict(NAMES)) if formula else jax.grad(f)
    return [f, gradient, jax.grad(gradient)]


def error_in_ulp(value: np.float32, exact) -> float:
    """The distance to the exact number, in units of its last place."""
    if not np.isfinite(value):
        return np.inf
    return float(abs(mp.mpf(float(value)) - exact)) / float(np.spacing(np.float32(abs(float(exact)))))


def order(x: np.float32) -> int:
    """The place of a float32 among all of them: neighbors differ by 1."""
    bits = int(np.float32(x).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def packed_steps(values: Sequence[np.float32], exact: Sequence[np.float32]) -> str:
    """How many float32 numbers lie between each value and the exact one. Small counts take one byte; NaN is 0."""
    result = bytearray()
    for value, right in zip(values, exact, strict=True):
        steps = order(value) - order(right)
        number = 0 if np.isnan(value) else 2 * steps + 1 if steps >= 0 else -2 * steps
        while number > 127:
            result.append(number % 128 + 128)
            number //= 128
        result.append(number)
    return base64.b64encode(bytes(result)).decode()


def floats(numbers: Sequence[np.float32]) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def at_points(functions: Sequence[Callable], x: Sequence[np.float32]) -> np.ndarray:
    """The functions (rows) at all points (columns). ``vmap`` is quick, and is used where it gives the same numbers."""
    result = np.empty((len(functions), len(x)), np.float32)
    some = range(0, len(x), max(1, len(x) // 5))
    for row, function in zip(result, functions, strict=True):
        row[:] = jax.vmap(function)(jnp.array(x))
        alone = np.array([function(jnp.float32(x[k])) for k in some], np.float32)
        if not np.array_equal(row[list(some)], alone, equal_nan=True):
            row[:] = [function(jnp.float32(v)) for v in x]
    return result


def measure(case: Case) -> dict:
    """All curves of a function that have lost more than half of their digits somewhere."""
    jax_functions, rows = computed(case.code), {}
    formula = case.formula or f"{case.ours}.derivative"
    own_functions = computed(case.ours, formula) if case.ours else None

    def visit(positions: Sequence[float]) -> None:
        found = {}
        for position in positions:
            x = short(position, case.axis)
            try:
                exact, condition = exact_numbers(case, x)
            except (ZeroDivisionError, ValueError):  # a pole
                continue
            if all(TINY < abs(v) < 1e30 for v in exact):
                found[position] = (x, exact, condition)
        x = [row[0] for row in found.values()]
        printed = at_points(jax_functions, x).T
        own = at_points(own_functions, x).T if own_functions else printed
        for (position, (x_, exact, condition)), values, ours in zip(found.items(), printed, own, strict=True):
            errors = [
                min(error_in_ulp(v, e) / max(1, c), 1e9) for v, e, c in zip(values, exact, condition, strict=True)
            ]
            rows[position] = (x_, exact, condition, values, errors, ours)

    visit(np.linspace(0, 1, POINTS + 1).tolist())
    places = sorted(rows)
    heights = np.log(np.maximum([rows[p][4] for p in places], 0.5))
    changes = np.abs(np.diff(heights, axis=0)).max(axis=1)
    visit([(places[k] + places[k + 1]) / 2 for k in np.argsort(-changes, kind="stable")[: POINTS * 2 // 3]])

    table = list({float(row[0]): row for _, row in sorted(rows.items())}.values())
    curves = []
    for k, quantity in enumerate(QUANTITIES):
        if max(row[4][k] for row in table) <= HALF:
            continue
        exact = [np.float32(float(row[1][k])) for row in table]
        conditions = [min(255, round(8 * np.log2(min(max(1.0, row[2][k]), 1e9)))) for row in table]
        curve = {"quantity": quantity, "exact": floats(exact), "jax": packed_steps([row[3][k] for row in table], exact)}
        if own_functions:
            curve["ours"] = packed_steps([row[5][k] for row in table], exact)
        curves.append({**curve, "condition": base64.b64encode(bytes(conditions)).decode()})
    text = {"group": case.group, "name": case.name, "code": case.code, "note": case.note}
    text["formula"] = formula if case.ours else ""
    return {**text, "axis": list(case.axis), "x": floats([row[0] for row in table]), "curves": curves}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="functions to measure again, while the others stay; default: all")
    wanted = parser.parse_args().names
    mp.mp.dps = 60
    page = PAGE.read_text(encoding="utf-8")
    mark = re.compile(r'(<script type="application/json" class="data">)(.*?)(</script>)', re.DOTALL)
    old = json.loads(mark.search(page)[2]) if wanted else {}  # type: ignore[index]
    functions = {function["name"]: function for function in old.get("functions", [])}
    for case in CASES:
        if not wanted or case.name in wanted:
            functions[case.name] = measure(case)
            print(case.name, [curve["quantity"] for curve in functions[case.name]["curves"]], flush=True)
    listed = [functions[case.name] for case in CASES if functions.get(case.name, {}).get("curves")]
    data = {"jax": jax.__version__, "optax": optax.__version__, "functions": listed}
    block = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    PAGE.write_text(mark.sub(lambda m: m[1] + block + m[3], page), encoding="utf-8")
    print(f"{len(block.encode())} bytes of data in {PAGE.name}")


if __name__ == "__main__":
    main()
