"""check_vjp and check_gradients: right formulas pass, every kind of error is found, located and sized."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.gradients.check import check_gradients, check_layer, check_vjp
from functional_nn.gradients.compare import jacobians
from functional_nn.gradients.compare.comparison import JacobianComparison
from functional_nn.gradients.compare.problem import Problem, cast, function_problem
from functional_nn.gradients.compare.report import has_failed

QUICK = {"second_order": False, "mutants": False}


def draw(*shape, dtype=np.float64):
    """Numbers that depend on the shape alone."""
    return np.random.default_rng(shape).normal(size=shape).astype(dtype)


def affine(x, weight, bias):
    return x @ weight + jnp.expand_dims(bias, 0)


def affine_vjp(x, weight, bias, y_bar):
    return y_bar @ weight.T, x.T @ y_bar, y_bar.sum(0)


def sine_vjp(x, y_bar):
    return jnp.cos(x) * y_bar


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_right_formula_passes_in_every_type(dtype):
    report = check_vjp(affine, affine_vjp, *(draw(*s, dtype=dtype) for s in [(2, 3), (3, 5), (5,)]), **QUICK)
    report.raise_if_failed()
    assert {verdict.dtype for verdict in report.verdicts} == {"float64", dtype}
    assert {verdict.transform for verdict in report.verdicts} == {"jit", "drawn", "vmap", "scan"}
    assert {verdict.leaf for verdict in report.verdicts} == {"x", "weight", "bias"}
    assert not report.wrong_automatic


MATRIX = draw(3, 3)

SLIPS = {
    # leaf: (function, hand-derived pullback, the elements that are wrong or None for all, point)
    "right": (jnp.tanh, lambda x, bar: (1 - jnp.tanh(x) ** 2) * bar, (), draw(2, 3)),
    "sign": (jnp.tanh, lambda x, bar: (jnp.tanh(x) ** 2 - 1) * bar, None, draw(2, 3)),
    "factor 2": (jnp.square, lambda x, bar: 4 * x * bar, None, draw(3)),
    "missing 1/N": (lambda x: x.mean(0), lambda x, bar: jnp.broadcast_to(bar[None], x.shape), None, draw(5, 2)),
    "transpose": (lambda x: x @ MATRIX.astype(x.dtype), lambda x, bar: bar @ MATRIX.astype(x.dtype), None, draw(3, 3)),
    "millionth": (jnp.sin, lambda x, bar: sine_vjp(x, bar) * (1 + 1e-6), None, draw(3)),
    "one element": (jnp.sin, lambda x, bar: sine_vjp(x, bar).at[1, 2].multiply(1 + 1e-6), (5,), draw(2, 3)),
    "time step": (jnp.cumsum, lambda x, bar: jnp.roll(jnp.cumsum(bar[::-1])[::-1], 1), None, draw(4)),
    "tails": (
        jax.nn.sigmoid,
        lambda x, bar: jnp.where(jnp.abs(x) > 8, 0.0, jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)) * bar,
        (0, 3),
        np.array([-9.0, -2.0, 7.5, 11.0]),
    ),
}
MILLIONTHS = ("millionth", "one element")


def all_slips(p):
    return {name: function(p[name]) for name, (function, *_) in SLIPS.items()}


def all_slips_vjp(p, y_bar):
    return {name: pullback(p[name], y_bar[name]) for name, (_, pullback, *_) in SLIPS.items()}


@pytest.fixture(scope="module")
def slips():
    point = {name: np.float32(x) for name, (*_, x) in SLIPS.items()}
    return check_vjp(all_slips, all_slips_vjp, point, second_order=False)


@pytest.mark.parametrize("name", SLIPS)
def test_every_kind_of_error_is_found_where_it_is(slips, name):
    *_, wrong, point = SLIPS[name]
    found = {v.dtype: v for v in slips.verdicts if v.leaf.endswith(f"/{name}") and v.transform != "jit"}
    first = next(v for v in slips.verdicts if v.leaf.endswith(f"/{name}"))
    assert first.outcome == found["float64"].outcome == ("pass" if wrong == () else "fail")
    assert found["float32"].outcome == ("pass" if name in ("right", *MILLIONTHS) else "fail")
    assert np.ravel_multi_index(first.index, np.shape(point)) in (wrong or range(point.size))
    assert first.automatic_outcome == "pass"
    assert np.isclose(first.arbiter, first.automatic, rtol=1e-12)
    if wrong != ():
        assert first.hand != pytest.approx(first.arbiter, rel=1e-8, abs=0)


def test_errors_are_not_planted_in_a_formula_that_fails(slips):
    assert slips.mutants == 0


def cube_vjp(x, y_bar):
    return 3 * x**2 * y_bar


@jax.custom_jvp
def cube(x):
    return x**3


@cube.defjvp
def cube_jvp(primals, tangents):
    return cube(*primals), 3.001 * primals[0] ** 2 * tangents[0]


def test_where_automatic_differentiation_is_wrong_the_right_formula_passes():
    report = check_vjp(cube, cube_vjp, draw(3), **QUICK)
    of_kind = {verdict.kind: verdict for verdict in report.wrong_automatic}
    assert of_kind["vjp"].leaf == "x"
    assert of_kind["vjp"].sentence.endswith("The formula is right, automatic differentiation is not.")
    report.raise_if_failed()


def test_a_formula_as_wrong_as_automatic_differentiation_does_not_pass():
    report = check_vjp(cube, lambda x, y_bar: 3.001 * x**2 * y_bar, draw(3), **QUICK)
    assert "The formula and automatic differentiation are wrong" in report.sentence


def test_a_square_that_overflows_in_float16_at_larger_numbers_is_found():
    """The function divides by the largest number first."""

    def norm(x):
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
        return largest * jnp.sqrt(jnp.sum((x / largest) ** 2))

    formula = lambda x, y_bar: y_bar * x / jnp.sqrt(jnp.sum(x * x))  # noqa: E731
    at = (np.float16([0.5, -2]),)
    compared = JacobianComparison("norm", lambda dtype: function_problem(norm, formula, cast(at, dtype)))
    assert {(v.transform, v.outcome) for v in compared.in_type("float16")} == {
        ("jit", "pass"),
        ("vmap", "fail"),
        ("scan", "fail"),
    }


def test_an_error_in_float32_alone_is_found_there():
    def only_in_float32(x, y_bar):
        return sine_vjp(x, y_bar) * (1.001 if x.dtype == jnp.float32 else 1)

    report = check_vjp(jnp.sin, only_in_float32, draw(3, dtype=np.float32), **QUICK)
    assert {(v.dtype, v.kind) for v in report.failures} == {("float32", "vjp")}


@pytest.mark.parametrize(
    ("at_zero", "declared", "outcome"), [(0.3, False, "inconclusive"), (0.0, True, "pass"), (1.0, True, "fail")]
)
def test_a_kink_is_inconclusive_unless_declared(at_zero, declared, outcome):
    def relu_vjp(x, y_bar):
        return jnp.where(x == 0, at_zero, jnp.where(x > 0, 1.0, 0.0)) * y_bar

    report = check_vjp(jax.nn.relu, relu_vjp, np.array([0.0, 1.0, -2.0]), kinks_as_automatic=declared, **QUICK)
    assert report.verdicts[0].outcome == outcome
    assert report.passed is (outcome == "pass")
    if outcome != "pass":
        assert report.verdicts[0].index == (0,)


def test_what_the_arbiter_does_not_know_is_no_kink():
    """The formula and the registered rule are wrong alike, and the arbiter cannot tell: this may not pass."""

    def waves(x):
        result = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda a: np.sin(1e9 * np.asarray(a)), result, x, vmap_method="broadcast_all")

    for function, x in ((jnp.log, [-0.5, -2.0]), (waves, [0.3, 0.7])):
        wrong = jax.custom_jvp(function)
        wrong.defjvp(lambda given, moved, wrong=wrong: (wrong(*given), 7.0 * moved[0]))
        report = check_vjp(
            wrong, lambda x, y_bar: 7.0 * y_bar, np.array(x), kinks_as_automatic=True, second_order=False, mutants=False
        )
        assert report.verdicts[0].outcome == "inconclusive"


def test_a_comparison_of_nothing_does_not_pass():
    with pytest.raises(InputError, match="at least one example"):
        check_layer(fnn.dense(2), (3,), x=np.ones((0, 3)))
    with pytest.raises(InputError, match="at least one output"):
        check_vjp(lambda x: jnp.sin(x)[:0], lambda x, y_bar: jnp.zeros_like(x), draw(2))


def test_a_kink_at_another_point_excuses_nothing():
    """Neither second derivatives at a smooth point, nor a formula that is wrong there."""
    function = lambda leaves: [jnp.abs(leaves[0]) + jnp.sin(leaves[0])]  # noqa: E731

    def pullback(leaves, y_bars):
        (x,), (y_bar,) = leaves, y_bars
        return [(jnp.sign(x) + jnp.where(x == 0, 1, 0) + jax.lax.stop_gradient(jnp.cos(x))) * y_bar]

    made = Problem(["x"], [np.array([0.5, -1.0, 2.0])], function, pullback)
    compared = JacobianComparison("f", lambda dtype: made, kinks_as_automatic=True)
    assert {verdict.outcome for verdict in compared.first_order()} == {"pass"}
    at_kink = list(compared.first_order([np.zeros(3)], regime="zeros"))
    assert "3 of 9 at a kink" in at_kink[0].note
    assert "fail" in {verdict.outcome for verdict in compared.second_order()}


def test_a_formula_found_wrong_at_one_point_is_not_the_truth_after_another():
    cubed = lambda leaves: [leaves[0] ** 3]  # noqa: E731
    wrong = Problem(["x"], [np.array([0.5, -1.0])], cubed, lambda leaves, bars: [2 * leaves[0] ** 2 * bars[0]])
    compared = JacobianComparison("cube", lambda dtype: wrong)
    assert {v.outcome for v in compared.first_order()} == {"fail"}
    assert {v.outcome for v in compared.first_order([np.zeros(2)])} == {"pass"}
    assert {v.outcome for v in compared.in_type("float64")} == {"fail"}


def test_masked_arguments():
    def masked_sum(x):
        return jnp.sum(jnp.where(x.mask[..., None], x.values**2, 0.0))

    def masked_sum_vjp(x, y_bar):
        return fnn.Masked(jnp.where(x.mask[..., None], 2 * x.values, 0.0) * y_bar, None)

    x = fnn.Masked(draw(2, 3, 2), np.arange(3) < np.array([[2], [3]]))
    report = check_vjp(masked_sum, masked_sum_vjp, x, **QUICK)
    report.raise_if_failed()
    forgotten = check_vjp(masked_sum, lambda x, bar: fnn.Masked(2 * x.values * bar, None), x, **QUICK)
    assert forgotten.verdicts[0].index[:2] == (0, 2)


def product(x, weight):
    return x @ weight


@pytest.mark.parametrize(
    ("bars", "said"),
    [
        (lambda x, weight: x, r"expected a tuple of 2 cotangents \(x, weight\), got float64 of shape"),
        (lambda x, weight: (x, {"weight": weight}), "a cotangent for each argument"),
        (lambda x, weight: (np.exp(x), weight), "hand_vjp: expected a function that JAX can trace, .* Use jax.numpy"),
        (lambda x, weight: (x, weight.T), r"hand_vjp: weight: expected a cotangent of shape \(3, 5\), got \(5, 3\)"),
        (lambda x, weight: (x, weight.astype(complex)), "weight: expected a cotangent of real floating-point"),
    ],
)
def test_wrong_structures_and_shapes_are_refused(bars, said):
    with pytest.raises(InputError, match=said):
        check_vjp(product, lambda x, weight, y_bar: bars(x, weight), draw(2, 3), draw(3, 5), **QUICK)


def test_a_wrong_shape_inside_a_network_is_refused():
    dense = fnn.dense(2)
    by_numpy = dense._replace(backward=lambda residuals, y_bar: dense.backward(residuals, np.asarray(y_bar)))
    with pytest.raises(InputError, match=r"dense: backward: .* Use jax\.numpy in place of numpy"):
        check_layer(by_numpy, (2,))
    without_x = dense._replace(backward=lambda residuals, y_bar: (dense.backward(residuals, y_bar)[0], None))
    with pytest.raises(InputError, match=r"'weight': \*}, \*\), got .*'weight': \*}, None\)"):
        check_layer(without_x, (2,))
    flat = dense._replace(backward=lambda residuals, y_bar: (dense.backward(residuals, y_bar)[0], y_bar.sum(axis=1)))
    with pytest.raises(InputError, match=r"residual: backward: .* one of them may return a cotangent of a wrong shape"):
        check_layer(fnn.residual(flat), (2,))


def test_numbers_that_are_not_finite_and_networks_without_parameters_are_refused():
    with pytest.raises(InputError, match=r"expected finite numbers, got NaN or infinity in float\d\d of shape"):
        check_layer(fnn.dense(2), (2,), x=np.array([[1, np.nan]]))
    with pytest.raises(InputError, match="params: expected at least one array of floating-point numbers, got none"):
        check_gradients(fnn.relu, fnn.mean_squared_error, {}, {}, np.ones((2, 3)), np.zeros((2, 3)))


def test_what_is_not_a_number_fails():
    report = check_vjp(jnp.sin, lambda x, y_bar: sine_vjp(x, y_bar).at[1].set(jnp.nan), draw(3), **QUICK)
    assert report.failures
    assert report.verdicts[0].outcome == "fail"
    assert np.isnan(report.verdicts[0].hand)


def test_scalars_trees_and_empty_arrays():
    def function(p, scale):
        return {"y": p["x"] * scale, "z": p["empty"] * 2.0}

    def hand(p, scale, y_bar):
        return {"x": y_bar["y"] * scale, "empty": y_bar["z"] * 2.0}, jnp.sum(p["x"] * y_bar["y"])

    report = check_vjp(function, hand, {"x": draw(3), "empty": np.zeros((0, 2))}, 2.5, **QUICK)
    report.raise_if_failed()
    assert {verdict.leaf for verdict in report.verdicts} == {"p/x", "p/empty", "scale"}
    assert check_vjp(lambda x: x * 3.0, lambda x, bar: 3 * bar, 2.0, **QUICK).passed


def test_many_outputs_are_compared_in_sums_of_them(monkeypatch):
    monkeypatch.setattr(jacobians, "MOST_ELEMENTS", 30)
    x = draw(3, 4)
    check_vjp(jnp.sin, sine_vjp, x, **QUICK).raise_if_failed()
    report = check_vjp(jnp.sin, lambda x, bar: sine_vjp(x, bar).at[1, 2].multiply(1 + 1e-6), x, **QUICK)
    assert not report.passed
    first = report.verdicts[0]
    assert first.index == (1, 2)


LAYERS = {
    # name: (layer, in_shape, options); test_verify.py has further kinds of layers
    "with state, in evaluation": (fnn.batch_norm(), (2,), {"train": False}),
    "of tokens that are given": (fnn.embedding(5, 2), (3,), {"x": np.array([[0, 4, 4], [1, 0, 2]])}),
    "that draws with a key, in float64": (fnn.dropout(0.5), (3,), {"key": jax.random.key(3), "dtype": "float64"}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_right_layers_pass(name):
    layer, in_shape, options = LAYERS[name]
    report = check_layer(layer, in_shape, **options, **QUICK)
    report.raise_if_failed()
    assert {verdict.dtype for verdict in report.verdicts} == {"float64", options.get("dtype", "float32")}


def test_a_layer_is_compared_by_every_parameter_and_its_input_and_errors_are_planted():
    report = check_layer(fnn.dense(2), (3,))
    report.raise_if_failed()
    assert {verdict.leaf for verdict in report.verdicts} == {"weight", "bias", "x"}
    assert {verdict.kind for verdict in report.verdicts} == {"vjp", "second order"}
    assert report.mutants > 10
    assert report.title == "dense"
    assert not report.skipped


def summed_sines(x):
    return jax.lax.scan(lambda h, x: (jnp.sin(h) + x, h), 0.0, x)[0]


def shown_exponentials(x, mask):
    return jnp.where(mask, jnp.exp(x - jnp.max(x)), 0)  # the largest number may be one that the mask hides


ONLY_HERE = {
    # name: (function, formula that is right for these arguments only, arguments)
    "an even length": (lambda x: jnp.mean(x * x), lambda x, b: 2 * x * b / (x.size // 2 * 2), np.array([0.5, 2.0])),
    "different indices": (
        lambda x, i: x[i],
        lambda x, i, b: (jnp.zeros_like(x).at[i].set(b), None),
        np.array([0.3, -1.0, 2.0, 0.7]),
        np.array([3, 0, 1]),
    ),
    "rows with equally many flags": (
        lambda x, mask: jnp.mean(x, where=mask),
        lambda x, mask, b: (jnp.where(mask, b / (2 * jnp.sum(jnp.float64(mask[0]))), 0), None),
        np.arange(6.0).reshape(2, 3),
        np.array([[True, False, True], [True, True, False]]),
    ),
    "small numbers": (jax.nn.softplus, lambda x, b: b * jnp.exp(x) / (1 + jnp.exp(x)), np.array([0.3, -2.0])),
    "a single step of a loop": (
        lambda x, h: jax.lax.scan(lambda h, row: (jnp.tanh(h + row), h), h, x)[0],
        lambda x, h, b: ((b * (1 - jnp.tanh(h + x[-1]) ** 2))[None] + 0 * x, b * (1 - jnp.tanh(h + x[-1]) ** 2)),
        np.array([[0.5, 0.3]]),
        np.array([0.1, -0.2]),
    ),
    "two axes of one length": (
        lambda x: jnp.mean(x, (0, 1)),
        lambda x, b: jnp.broadcast_to(b / len(x) ** 2, x.shape),
        np.ones((3, 3, 2)),
    ),
    "a mask of one kind": (
        lambda x, mask: jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(jnp.float64(mask)), 1),
        lambda x, mask, b: (jnp.where(mask, b / x.size, 0), None),
        np.array([0.5, 2.0, -1.0]),
        np.array([True, True, True]),
    ),
    "short loops": (
        summed_sines,
        lambda x, b: jnp.where(jnp.arange(x.size) < x.size - 6, 0, jax.vjp(summed_sines, x)[1](b)[0]),
        np.array([0.5, 2.0, -1.0]),
    ),
    "a mask that leaves something": (
        lambda x, mask: jnp.sum(jnp.where(mask, x * x, 0)) / jnp.maximum(jnp.sum(jnp.float64(mask)), 1),
        lambda x, mask, b: (jnp.where(mask, 2 * x * b, 0) / jnp.sum(jnp.float64(mask)), None),
        np.array([0.5, 2.0, -1.0]),
        np.array([True, False, True]),
    ),
    "more than one example": (
        lambda x: x - jnp.mean(x, 0, keepdims=True),
        lambda x, b: b - jnp.mean(b, 0, keepdims=True) if len(x) > 1 else b,
        np.arange(6.0).reshape(3, 2),
    ),
    "a single block": (
        lambda x: jnp.sum(x**2),
        lambda x, b: jnp.where(jnp.arange(x.size) < max(x.size // 64 * 64, min(x.size, 64)), 2 * x * b, 0),
        np.array([0.5, 2.0, -1.0]),
    ),
    "every rest but three": (
        lambda x: jnp.sum(x**2),
        lambda x, b: jnp.where(jnp.arange(x.size) == (x.size - 1 if x.size % 4 == 3 else -1), 0, 2 * x * b),
        np.array([0.5, 2.0, -1.0, 0.3]),
    ),
    "no multiple of 16": (
        lambda x: jnp.sum(x) ** 2,
        lambda x, b: 2 * b * (jnp.sum(x[: x.size // 16 * 16]) + jnp.sum(x[-(x.size % 16) :])) * jnp.ones_like(x),
        np.array([0.5, 2.0, -1.0, 0.3, 1.1]),
    ),
    "more than two, where one is too few": (
        lambda x: jnp.std(x, ddof=1),
        lambda x, b: b * (x - jnp.mean(x)) / (jnp.std(x, ddof=1) * jnp.where(x.size > 2, x.size - 1, x.size)),
        np.array([0.5, 2.0, -1.0]),
    ),
    "numbers without an outlier": (
        lambda x: jnp.minimum(x, jnp.mean(x) + 2 * jnp.std(x)),
        lambda x, b: jnp.where(x < jnp.mean(x) + 2 * jnp.std(x), b, 0),
        np.array([0.5, 2.0, -1.0]),
    ),
    "a permutation that is its own inverse": (
        lambda x, p: x[p],
        lambda x, p, b: (b[p], None),
        np.array([0.3, -1.0, 2.0]),
        np.array([1, 0, 2]),
    ),
    "even numbers": (
        lambda x, k: x * jnp.where(k % 2 == 0, 1.0, -1.0),
        lambda x, k, b: (b, None),
        np.array([0.3, -1.0, 2.0]),
        np.array([0, 4, 2]),
    ),
    "two of three remainders": (
        lambda x, k: jnp.where(k % 3 == 2, x * x, x),
        lambda x, k, b: (b, None),
        np.array([0.3, -1.0, 2.0]),
        np.array([0, 3, 4]),
    ),
    "two flags that are equal": (
        lambda x, square, double: jnp.where(square, x * x, x) * jnp.where(double, 2.0, 1.0),
        lambda x, square, double, b: (b * jnp.where(square, 2 * x, 1) * jnp.where(square, 2.0, 1.0), None, None),
        np.array([0.3, -1.0]),
        np.array(True),
        np.array(True),
    ),
    "two indices that differ": (
        lambda x, a, i, j: x.at[i].set(a).at[j].set(0),
        lambda x, a, i, j, b: (b.at[i].set(0).at[j].set(0), b[i], None, None),
        np.array([0.3, -1.0, 2.0]),
        np.array(0.7),
        np.array(1),
        np.array(2),
    ),
    "lists of indices that differ everywhere": (
        lambda x, i, j: x[i] * x[j],
        lambda x, i, j, b: ((0 * x).at[i].add(b * x[j]).at[j].add(jnp.where(i == j, 0, b * x[i])), None, None),
        np.array([0.3, -1.0, 2.0, 0.7]),
        np.array([0, 3]),
        np.array([1, 2]),
    ),
    "a row and a column": (
        lambda x, y: x * x * y,
        lambda x, y, b: (2 * x * jnp.sum(b * y, 1, keepdims=True), jnp.sum(b * x * x, 0, keepdims=True)),
        np.array([[0.3], [-1.0]]),
        np.array([[2.0, 0.7, 1.1]]),
    ),
    "keys that are as many as their features": (
        lambda q, k, v: q @ k.T / k.shape[1] @ v,
        lambda q, k, v, b: (b @ v.T @ k / len(k), v @ b.T @ q / len(k), k @ q.T @ b / len(k)),
        np.linspace(-1, 1, 6).reshape(2, 3),
        np.linspace(-0.7, 1.3, 9).reshape(3, 3),
        np.linspace(-1.2, 0.4, 12).reshape(3, 4),
    ),
    "hidden numbers that are not large": (
        lambda x, mask: jax.nn.logsumexp(x, where=mask),
        lambda x, mask, b: (b * shown_exponentials(x, mask) / jnp.sum(shown_exponentials(x, mask)), None),
        np.array([0.3, -1.0, 2.0]),
        np.array([True, False, True]),
    ),
    "a base that is not 0": (
        jnp.power,
        lambda x, p, b: (b * p * x ** (p - 1), b * x**p * jnp.log(x)),
        np.array([0.5, 1.4]),
        np.array([1.5, 2.2]),
    ),
    "numbers that int32 can hold": (
        lambda x: (x - jnp.floor(x)) ** 2,
        lambda x, b: 2 * (x - jnp.floor(x).astype(jnp.int32).astype(x.dtype)) * b,
        np.array([0.3, -2.1]),
    ),
    "neighbors that differ, in a function of three numbers": (
        lambda x, labels: jnp.log(4.0 - x.size) + jnp.sum(jnp.where(labels[1:] == labels[:-1], x[1:], 0)),
        lambda x, labels, b: (0 * x, None),
        np.array([0.3, -1.0, 2.0]),
        np.array([1, 3, 2]),
    ),
    "large cotangents": (jnp.sin, lambda x, b: jnp.cos(x) * jnp.where(abs(b) > 1e-12, b, 0), np.array([0.3, -2.0])),
    "small cotangents": (jnp.sin, lambda x, b: jnp.cos(x) * jnp.where(b < 1e6, b, 0), np.array([0.3, -2.0])),
}


@pytest.mark.parametrize("name", ONLY_HERE)
def test_a_formula_that_is_right_at_the_point_alone_is_found(name):
    assert has_failed(check_vjp(*ONLY_HERE[name], **QUICK).verdicts)


def test_a_function_that_is_meant_for_its_shapes_or_permutations_passes():
    function, formula = lambda x, p: jnp.prod(x[p][:2]) + x[2], lambda x, p, b: (b * gradient(x, p), None)

    def gradient(x, p):
        first, second = x[p][:2]
        return jnp.zeros(3).at[p].set(jnp.stack([second, first, 0])) + jnp.array([0, 0, 1.0])

    report = check_vjp(function, formula, np.array([0.3, -2.0, 1.0]), np.array([2, 0, 1]), **QUICK)
    report.raise_if_failed()
    report = check_vjp(lambda x: x[0] * x[1], lambda x, b: b * x[jnp.array([1, 0])], np.array([0.3, -2.0]), **QUICK)
    report.raise_if_failed()
    assert "The formula raises InputError" in report.skipped[0][1]
    weights = np.array([0.3, -2.0])
    report = check_vjp(lambda x: x * weights, lambda x, b: b * weights, np.array([0.3, -2.0]), **QUICK)
    assert report.skipped == (("lambda, axes of other lengths: (11,)", "The function does not take them."),)
    # The function has a second element, which JAX also finds in an array of one element.
    swapped = lambda x, b: b * jnp.zeros_like(x).at[0].set(x[1]).at[1].set(x[0])  # noqa: E731
    check_vjp(lambda x: x[0] * x[1], swapped, np.array([0.3, -2.0]), **QUICK).raise_if_failed()
    # A row of length 1 is added to each row.
    shift, at = lambda x, row, b: (b, jnp.sum(b, 0, keepdims=True)), (np.array([[0.3, 2.0]]), np.array([[1.0, -1.0]]))
    check_vjp(jnp.add, shift, *at, **QUICK).raise_if_failed()


def test_a_formula_for_permutations_alone_is_told():
    function, formula = lambda x, p: x[p], lambda x, p, b: (b[jnp.argsort(p)], None)
    report = check_vjp(function, formula, np.array([0.3, -2.0, 1.0]), np.array([2, 0, 1]), **QUICK)
    report.raise_if_failed()
    assert report.skipped[0][0] == "lambda, repeated whole numbers in place of a permutation"


def test_a_formula_that_is_right_for_one_size_of_the_batch_only_is_found():
    right = fnn.dense(2)

    def backward(residuals, y_bar):
        params_bar, x_bar = right.backward(residuals, y_bar)
        return {**params_bar, "bias": 4 * jnp.mean(y_bar, 0)}, x_bar

    report = check_layer(right._replace(backward=backward), (3,), **QUICK)
    assert {(verdict.leaf, verdict.regime) for verdict in report.failures} == {("bias", "batch of 5")}


def test_an_error_in_the_backward_pass_of_evaluation_alone_is_found_there():
    right = fnn.dense(1)

    def forward(params, state, x, *, train, key=None):
        y, state, residuals = right.forward(params, state, x, train=train, key=key)
        return y, state, (residuals, 1.0 if train else 2.0)

    def backward(residuals, y_bar):
        params_bar, x_bar = right.backward(residuals[0], y_bar)
        return params_bar, x_bar * jnp.asarray(residuals[1], x_bar.dtype)

    layer = right._replace(forward=forward, backward=backward)
    assert not check_layer(layer, (2,), train=False, **QUICK).passed


def test_biases_are_not_left_at_zero():
    """A formula that forgets the bias would pass at a bias of 0."""
    right = fnn.chain(fnn.dense(1), fnn.tanh)

    def forward(params, state, x, *, train, key=None):
        y, new_state, _ = right.forward(params, state, x, train=train, key=key)
        without = {"dense_0": {**params["dense_0"], "bias": 0 * params["dense_0"]["bias"]}}
        return y, new_state, right.forward(without, state, x, train=train, key=key)[2]

    assert not check_layer(right._replace(forward=forward), (2,), **QUICK).passed


def test_a_report_names_what_jax_differentiates_in_the_formula_too():
    net = fnn.chain(fnn.remat(fnn.compose({"first": fnn.dense(2)}, lambda net, x: jnp.sin(net.first(x)), name="wave")))
    report = check_layer(net, (2,), second_order=False, mutants=False)
    assert report.passed
    assert [subject for subject, _ in report.skipped] == ["wave, the operations between its layers, with jax.grad"]
    assert "Not compared: wave, the operations between its layers" in str(report)
