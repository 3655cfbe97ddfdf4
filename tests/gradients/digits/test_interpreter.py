"""The interpreter against JAX's own evaluation, primitive by primitive."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import lax, nn
from jax.ad_checkpoint import checkpoint_name
from jax.scipy import special

from functional_nn.core.errors import InputError
from functional_nn.gradients.digits import operations
from functional_nn.gradients.digits.interpreter import Program
from functional_nn.gradients.digits.numbers import as_numbers, many_digits
from functional_nn.jaxprs.walk import equations
from functional_nn.jaxprs.xla_options import quick_jit

pytestmark = pytest.mark.usefixtures("float64")
X = np.random.default_rng(0).normal(size=(3, 5))
Y = np.random.default_rng(1).normal(size=(3, 5))
IMAGES = np.random.default_rng(2).normal(size=(2, 7, 6, 4))
KERNEL = np.random.default_rng(3).normal(size=(3, 2, 2, 6))
PLACES = np.array([[1], [0], [1], [7]])


def evaluated(digits, function, *leaves, points=1):
    """The outputs' elements; with several points, all of them the same."""
    program = Program(lambda leaves: [function(*leaves)], leaves)
    with np.errstate(all="ignore"), many_digits(digits):
        numbers = [np.repeat(as_numbers(leaf)[..., None], points, -1) for leaf in leaves]
        return program(numbers)


def convolution(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (2, 1), ((2, 1), (0, 3)), (1, 2), (1, 2), ("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )


def printed(x):
    jax.debug.print("{}", x.sum())
    return 2 * x


def counted(x):
    """A loop whose number of steps depends on the values."""
    return lax.while_loop(
        lambda carry: carry[1] < 3, lambda carry: (carry[0] * 2, carry[1] + jnp.abs(x[0, 0])), (x, 0.0)
    )[0]


def rolled(x):
    carry, ys = lax.scan(lambda carry, x: (carry * x, (carry + x, 2)), x[0], x, reverse=True)
    return jnp.concatenate([carry, ys[0].ravel(), ys[1].astype(float)])


def windowed(reduction, start):
    return lambda x: lax.reduce_window(x, start, reduction, (2, 3), (1, 2), ((1, 0), (2, 1)), (2, 1), (1, 2))


def updates(method):
    return lambda x, y: getattr(x.at[jnp.array([0, 2, 0])], method)(y, mode="drop")


def at_a_place_that_depends(x):
    return lax.dynamic_slice(x, (jnp.argmax(x[:, 0]), jnp.argmin(x[0])), (1, 2))


ONE = {
    **{
        name: getattr(lax, name)
        for name in ("exp", "exp2", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asinh")
    },
    **{
        name: getattr(lax, name) for name in ("atan", "erf", "erfc", "logistic", "cbrt", "square", "neg", "abs", "sign")
    },
    **{name: getattr(lax, name) for name in ("floor", "ceil", "round", "is_finite", "stop_gradient")},
    **{name: (lambda f: lambda x: f(jnp.abs(x)))(getattr(lax, name)) for name in ("log", "log1p", "sqrt", "rsqrt")},
    **{name: (lambda f: lambda x: f(jnp.abs(x)))(getattr(lax, name)) for name in ("lgamma", "digamma")},
    **{name: (lambda f: lambda x: f(x / 5))(getattr(lax, name)) for name in ("asin", "acos", "atanh")},
    "acosh": lambda x: lax.acosh(1 + jnp.abs(x)),
    "to even": lambda x: lax.round(jnp.round(x * 4) / 2, lax.RoundingMethod.TO_NEAREST_EVEN),
    "away from zero": lambda x: lax.round(jnp.round(x * 4) / 2, lax.RoundingMethod.AWAY_FROM_ZERO),
    "integer_pow": lambda x: x**3 + x**-5 + x**0,
    "clamp": lambda x: lax.clamp(-0.5, x, 0.5),
    "convert": lambda x: x.astype(int) + (x > 0) + x.astype(bool) + (3 * x).astype(int) // 2 + (7 * x).astype(int) % 3,
    "logic": lambda x: (x > 0) & ~(x < 1) | (x != 0) ^ (x >= 0.5) & (x <= 2) | (x == X[0, 0]),
    "parity": lambda x: lax.reduce(x > 0, False, lax.bitwise_xor, (1,)),
    "as it is": lambda x: checkpoint_name(lax.optimization_barrier(jnp.copy(jax.device_put(x))), "x"),
    "printed": printed,
    "polyval": lambda x: jnp.polyval(jnp.array([2.0, -1, 3]), x),
    "reduce_precision": lambda x: lax.reduce_precision(jnp.round(x * 4), 8, 10),
    "tile": lambda x: lax.tile(x, (2, 3)),
    "select_n": lambda x: lax.select_n(jnp.clip(x + 1, 0, 2).astype(jnp.int32), x, 2 * x, -x),
    **{name: getattr(jnp, name) for name in ("sum", "prod", "max", "min", "argmax", "argmin", "any", "all")},
    "over one axis": lambda x: jnp.concatenate([x.sum(0), x.max(0), x.min(0), x.argmax(0), x.prod(0)]),
    **{name: (lambda f: lambda x: f(x, 1))(getattr(lax, name)) for name in ("cumsum", "cumprod", "cummax", "cummin")},
    **{name: (lambda f: lambda x: f(x, 0, reverse=True))(getattr(lax, name)) for name in ("cumlogsumexp",)},
    "cumsum backwards": lambda x: lax.cumsum(x, 1, reverse=True),
    "window sum": windowed(lax.add, 0.0),
    "window max": windowed(lax.max, -jnp.inf),
    "window min": windowed(lax.min, jnp.inf),
    "sort": lambda x: jnp.sort(x, axis=0),
    "sort by two keys": lambda x: lax.sort((jnp.round(x), -x, x * 2), num_keys=2, dimension=1)[2],
    "top_k": lambda x: jnp.concatenate(lax.top_k(x, 2), dtype=float),
    "transpose": lambda x: x.reshape(5, 3).T[:, ::-1],
    "reshape": lambda x: x[:, None].reshape(1, 15)[0],
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (3, 2, 5)),
    "slice": lambda x: x[1:, ::2],
    "split": lambda x: jnp.concatenate(jnp.split(x, [1, 3], axis=1)[::-1], axis=1),
    "stack": lambda x: jnp.stack([x, jnp.unstack(x)[1] + x], 1),
    "pad": lambda x: lax.pad(x, 2.0, ((1, -1, 2), (-1, 2, 0))),
    "gather": lambda x: jnp.take(x, PLACES, axis=0, mode="fill", fill_value=7.0),
    "dynamic_slice": at_a_place_that_depends,
    "dynamic_update_slice": lambda x: lax.dynamic_update_slice(x, x[:2, :2] * 3, (1, jnp.argmax(x[0]))),
    "scan": rolled,
    "while": counted,
    "argmax with NaN": lambda x: jnp.argmax(jnp.where(x < 0, jnp.nan, x), 1),
    "cumlogsumexp with -inf": lambda x: lax.cumlogsumexp(jnp.where(x[:, :1] < 0.1, -jnp.inf, x)),
    "cond": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x) + lax.switch(2, [jnp.sin, jnp.cos, jnp.exp], x),
    "calls": lambda x: jax.jit(nn.relu)(jax.checkpoint(nn.softplus)(nn.logsumexp(x, axis=0))),
    "map": lambda x: jax.vmap(lambda row: row @ row[::-1])(x),
    "random": lambda x: (
        x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape) + jax.random.normal(jax.random.key(1), x.shape)
    ),
}
SQUARE = np.random.default_rng(4).normal(size=(2, 3, 3))


def joined(arrays):
    return jnp.concatenate([array.ravel() for array in arrays], dtype=float)


def triangular(**options):
    """Solves triangular systems from both sides, with each option also turned around."""

    def function(a):
        b = a[..., :2] if options["left_side"] else a[..., :2, :]
        return lax.linalg.triangular_solve(a, b, **options)

    return function


MATRICES = {
    "cholesky": lambda a: jnp.linalg.cholesky(a @ a.swapaxes(1, 2) + jnp.eye(3)),
    **{
        f"triangular_solve {left} {lower} {transposed}": triangular(
            left_side=bool(left), lower=bool(lower), transpose_a=bool(transposed), unit_diagonal=left == lower
        )
        for left, lower, transposed in ((1, 1, 0), (1, 0, 1), (0, 1, 1), (0, 0, 0))
    },
    "lu": lambda a: joined(lax.linalg.lu(a)),
    "lu of wide ones": lambda a: joined(lax.linalg.lu(a[:, :2])),
    "lu of tall ones": lambda a: joined(lax.linalg.lu(a[..., :2])),
    "pivots": lambda a: lax.linalg.lu_pivots_to_permutation((a[..., 0] > 0).astype(jnp.int32) + 1, 4),
    "solve": lambda a: jnp.linalg.solve(a, a[..., :2] ** 2) + jnp.linalg.inv(a)[..., 1:],
    "qr": lambda a: joined(jnp.linalg.qr(a)),
    "qr of wide ones": lambda a: joined(jnp.linalg.qr(a[:, :2])),
    "qr of tall ones": lambda a: joined([*jnp.linalg.qr(a[..., :2]), *jnp.linalg.qr(a[..., :2], mode="complete")]),
    "eigh": lambda a: joined(jnp.linalg.eigh(a + a.swapaxes(1, 2))),
    "svd": lambda a: joined([*jnp.linalg.svd(a), jnp.linalg.svd(a, compute_uv=False)]),
    "svd of wide ones": lambda a: joined(jnp.linalg.svd(a[:, :2], full_matrices=False)),
    "svd of tall ones": lambda a: joined(jnp.linalg.svd(a[..., :2], full_matrices=False)),
}


def complex_from(x):
    return x + 1j * jnp.flip(x, 1)


def of_complex(function):
    """Both parts of a function of complex numbers."""

    def parts(x):
        y = function(complex_from(x))
        return jnp.stack([y.real, y.imag])

    return parts


COMPLEX = {
    **{
        name: getattr(jnp, name)
        for name in ("exp", "log", "sqrt", "sin", "cos", "sinh", "cosh", "tanh", "sign", "conj", "square", "negative")
    },
    **{name: getattr(jnp, name) for name in ("tan", "acos", "asin", "atan", "acosh", "asinh", "atanh")},
    "logistic": lax.logistic,
    **{name: getattr(jnp, name) for name in ("sum", "prod", "cumsum", "cumprod", "abs", "angle")},
    "powers": lambda z: z**3 + z**-2 + z**1.5 + z ** (1 + 2j) + z**z + z**0 + (z.real > 0) ** z,
    "sums": lambda z: lax.complex(z.real, z.imag) + 2 * z - z / (3 - z) + jnp.copy(z),
    "matmul": lambda z: z @ (z.T * 1j),
    "select": lambda z: jnp.where((z == z[0]) | (z != z[::-1]) & jnp.isfinite(z), z, jnp.complex128(7)),
    "moves": lambda z: jnp.concatenate([z[1:, ::-1], z.at[0].set(3j)]),
    "conversion": lambda z: jnp.complex128(jnp.round(z.real)) * (z.real > 0) + jnp.conj(z.real),
    "fft": lambda z: jnp.fft.fft2(z) + jnp.fft.ifft(z) + jnp.fft.ifft2(z),
    "rfft": lambda z: jnp.fft.rfft(z.real) + jnp.fft.rfft2(z.imag),
    "irfft": lambda z: jnp.fft.irfft(z, n=7) + jnp.fft.irfft2(z, s=(3, 8))[:, 1:],
}
ONE |= {
    **{name: getattr(lax, name) for name in ("bessel_i0e", "bessel_i1e")},
    "erf_inv": lambda x: lax.erf_inv(x / 5),
    "polygamma": lambda x: lax.polygamma(2.0, jnp.abs(x)),
    "signbit": lambda x: jnp.signbit(x) + (lax.bitcast_convert_type(x, jnp.int64) >> 60) * 2,
    "shifts": lambda x: (
        (lax.shift_left((9 * x).astype(int), 3)) + lax.shift_right_logical((9 * jnp.abs(x)).astype(int), 1)
    ),
    "total order": lambda x: joined(jnp.searchsorted(jnp.sort(x[0]), x[1], side=side) for side in ("left", "right")),
    **{f"complex {name}": of_complex(function) for name, function in COMPLEX.items()},
}
TWO = {
    "zeta": lambda x, y: lax.zeta(1.5 + jnp.abs(x), jnp.abs(y)),
    "igamma": lambda x, y: lax.igamma(jnp.abs(x), jnp.abs(y)) + lax.igammac(jnp.abs(x), jnp.abs(y)),
    "betainc": lambda x, y: lax.betainc(jnp.abs(x), jnp.abs(y), nn.sigmoid(x)),
    **{name: getattr(lax, name) for name in ("add", "sub", "mul", "div", "atan2", "max", "min", "rem")},
    "pow": lambda x, y: jnp.abs(x) ** y + x ** jnp.round(y * 3) + x ** jnp.arange(5),
    "dot_general": lambda x, y: jnp.einsum("bi,bj->ij", x, y) @ jnp.ones((5, 2)),
    "batched": lambda x, y: jnp.einsum("bi,bi->b", x, y),
    **{f"scatter {name}": updates(name) for name in ("add", "mul", "max", "min", "subtract")},
    "scatter": lambda x, y: x.at[jnp.array([2, 0])].set(y[:2]),
    "logaddexp": jnp.logaddexp,
    "where": lambda x, y: jnp.where(x > y, x, y * 2),
}
GROUPS = [(ONE, (X,)), (TWO, (X, Y)), (MATRICES, (SQUARE,)), ({"convolution": convolution}, (IMAGES, KERNEL))]
KINDS = {name: (function, leaves) for functions, leaves in GROUPS for name, function in functions.items()}


@pytest.fixture(scope="module")
def values_of_jax():
    """What each function gives by JAX. Functions of the same arrays are one program, which is sooner compiled."""
    values = {}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for functions, leaves in GROUPS:
            all_of_them = quick_jit(lambda *leaves, of=functions: {name: f(*leaves) for name, f in of.items()})
            values |= all_of_them(*leaves)
    return {name: np.asarray(value, float).reshape(-1, 1) for name, value in values.items()}


@pytest.mark.parametrize("name", KINDS)
def test_values_are_those_of_jax(name, values_of_jax):
    function, leaves = KINDS[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = evaluated(40, function, *leaves, points=2)
    expected = np.repeat(values_of_jax[name], 2, 1)
    np.testing.assert_allclose(found.astype(float), expected, rtol=1e-13, atol=1e-14)


def test_every_rule_is_used_by_these_functions():
    """A rule that nothing above reaches fails here, so none is untested."""
    used = set()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for function, leaves in KINDS.values():
            for _, equation, *_ in equations(jax.make_jaxpr(function)(*leaves)):
                used.add(equation.primitive.name)
    never = {"add_any", "sharding_constraint", "pvary", "debug_print", "debug_callback", "polynomial"}
    never |= {"le_to", "lt_to"}  # some versions of JAX sort floating-point numbers by them
    assert set(operations.RULES) - used <= never


def test_fifty_digits_are_right():
    found = evaluated(50, lambda x: jnp.tanh(x) * nn.sigmoid(x) + lax.erfc(x) / jnp.sqrt(x), np.array([0.3]))
    with mpmath.workdps(60):
        x = mpmath.mpf(0.3)
        expected = mpmath.tanh(x) / (1 + mpmath.exp(-x)) + mpmath.erfc(x) / mpmath.sqrt(x)
        assert abs(mpmath.mpf(str(found[0, 0])) - expected) < mpmath.mpf(10) ** -48


def test_limits_are_those_of_floating_point_numbers():
    def function(x):
        return jnp.concatenate([1 / x, jnp.log(x), x**-2.0, jnp.sqrt(x - 1), jnp.log(x - 1), (x - 1) ** 0.5, x / x])

    found = evaluated(30, function, np.array([0.0]))[:, 0].astype(float)
    np.testing.assert_array_equal(found, [np.inf, -np.inf, np.inf, np.nan, np.nan, np.nan, np.nan])


SPECIAL = np.array([2.5, np.nan, -np.inf, 7.0, np.inf, -3.0, 300.0, 1e30, -1e30, 7.0])
AT_SPECIAL_VALUES = {
    "sort": lambda x: joined([jnp.sort(x), jnp.sort(x, descending=True), jnp.argsort(x)]),
    "sort by two keys": lambda x: joined(lax.sort((x // 5, x, 2 * x), num_keys=2)),
    "top_k": lambda x: joined(lax.top_k(x, 8)),
    "top_k of integers": lambda x: joined([one for t in ("uint8", "int8") for one in lax.top_k(x.astype(t), 5)]),
    "rem": lambda x: joined(lax.rem(x, jnp.full_like(x, b)) for b in (jnp.inf, -jnp.inf, 2.0, jnp.nan)),
    "floor": lambda x: joined([jnp.floor(x), jnp.ceil(x), jnp.floor(x / 9) / jnp.floor(x / 1e40)]),
    "to integers": lambda x: joined(x.astype(t) for t in ("int8", "uint8", "int32", "uint32", "int64", "bool")),
}


def test_nan_infinity_and_numbers_outside_of_a_type():
    """Sorting, remainders and conversions to integers give what JAX gives on a CPU."""

    def function(x):
        return joined(one(x) for one in AT_SPECIAL_VALUES.values())

    found = evaluated(50, function, SPECIAL)[:, 0].astype(float)
    np.testing.assert_array_equal(found, quick_jit(function)(SPECIAL))


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integers_divided_by_0(dtype):
    def function(x):
        a, b = x.astype(dtype), jnp.array([0, 3, 0], dtype)
        return joined([lax.div(a, b), lax.rem(a, b)])

    x = np.array([5.0, 7.0, 0.0])
    np.testing.assert_array_equal(evaluated(30, function, x)[:, 0].astype(float), quick_jit(function)(x))


def test_inputs_and_literals_are_the_binary_values_that_the_code_holds():
    found = evaluated(50, lambda x: x * np.float32(0.999), np.array([0.1], np.float32))
    assert found[0, 0] == as_numbers(np.float64(np.float32(0.1)) * np.float64(np.float32(0.999)))
    lower = evaluated(50, lambda x: x.astype(jnp.bfloat16).astype(float) - x, np.array([0.1]))
    assert lower[0, 0] == 0


def test_loops_under_vmap_end_after_different_steps():
    def repeated(steps, row):
        return lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, c[1] * c[1] + 1), (0, row))[1]

    def function(x):
        return jax.vmap(repeated)(jnp.array([1, 3, 0]), x)

    found = evaluated(30, function, X, points=2)
    np.testing.assert_allclose(found[:, 1].astype(float), function(X).ravel(), rtol=1e-15)


def test_points_are_evaluated_apart():
    """Branches, loops and places that differ from point to point."""

    def function(x):
        branch = lax.cond(x[0] > 0, lambda x: x * 2, lambda x: x + 10, x)
        loop = lax.while_loop(lambda y: y.sum() < 20, lambda y: y * 3 + 1, x)
        place = lax.dynamic_slice(x, (jnp.argmax(x),), (1,))
        added = jnp.zeros(2).at[jnp.argmax(x)].add(x[0])
        return jnp.concatenate([branch, loop, place, added, jnp.sort(x)])

    points = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, 2.0]])
    with many_digits(30):
        found = Program(lambda leaves: [function(*leaves)], [points[:, 0]])([as_numbers(points)])
    expected = np.stack([*map(quick_jit(function), points.T)], 1)
    np.testing.assert_allclose(found.astype(float), expected, rtol=1e-15)


def test_an_operation_without_a_rule_is_named_with_its_line():
    with pytest.raises(InputError, match=r"got igamma_grad_a, used in test_interpreter.py:\d+ .*difference_jacobian"):
        evaluated(30, lambda x: lax.igamma_grad_a(x, x), np.array([0.5]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.at[0].apply(jnp.sin),
        lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.int64), float),
        lambda x: jnp.linalg.svd(jnp.outer(x, x[:2]))[0],
        lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        lambda x: jnp.log1p(lax.complex(x, x)).real,
        lambda x: jnp.linalg.cholesky(jnp.diag(lax.complex(x, x))).real,
        lambda x: lax.max(lax.complex(x, x), 1 + 1j).real,
    ],
)
def test_what_has_no_rule_is_refused(function):
    with pytest.raises(InputError, match=r"difference_jacobian"):
        evaluated(30, function, np.array([0.5, 1.5, -0.5]))


OUTSIDE = {
    "betainc": (lambda x: special.betainc(2.0, 3.0, x), [-0.5, -1e-9, 1 + 1e-9, 2.0]),
    "gammainc": (lambda x: special.gammainc(2.0, x), [-0.5, -1e-9]),
    "gammaincc": (lambda x: special.gammaincc(2.0, x), [-0.5, -1e-9]),
    "zeta": (lambda x: special.zeta(x, 1.0), [-2.0, 0.5, 1 - 1e-9]),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_special_functions_have_no_numbers_outside_of_their_domains(name):
    """mpmath continues them. JAX's NaN there is right."""
    function, points = OUTSIDE[name]
    x = np.array([*points, 0.25 if name != "zeta" else 3.0])
    found = evaluated(30, function, x)[:, 0].astype(float)
    np.testing.assert_allclose(found, quick_jit(function)(x), rtol=1e-12)
    assert np.isnan(found).tolist() == [True] * len(points) + [False]


def test_a_special_function_that_cannot_be_computed_at_a_point_is_not_known_there():
    """The number would be about exp(-1e30). The search for the worst input goes on with other points."""
    x = np.array([1e30, 2.0])
    found = evaluated(30, lambda x: special.gammaincc(2.0, x), x)[:, 0].astype(float)
    np.testing.assert_allclose(found, [np.nan, 3 * np.exp(-2.0)])
