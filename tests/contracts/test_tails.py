"""Derivatives in the tails: formulas against exact values, where subtracting nearly equal numbers would give 0."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

mpmath = pytest.importorskip("mpmath")

TYPES = [np.float64, np.float32]
TOLERANCE = {np.float64: 1e-14, np.float32: 1e-6}
pytestmark = pytest.mark.usefixtures("float64")


def exact_softmax(y):
    with mpmath.workdps(120):
        e = [mpmath.exp(mpmath.mpf(float(x))) if x != -np.inf else mpmath.mpf(0) for x in y]
        return [x / sum(e) for x in e]


def agrees(ours, exact, dtype, scale=1):
    """Relative agreement wherever the exact number is normal; below, a result may be 0, but not larger."""
    tiny = float(np.finfo(dtype).tiny)
    for number, expected in zip(np.ravel(np.asarray(ours, np.float64)), np.ravel(exact), strict=True):
        if abs(expected) < tiny:
            assert abs(number) <= 2 * tiny
        else:
            error = abs((mpmath.mpf(float(number)) - expected) / expected)
            assert error <= TOLERANCE[dtype] * scale, (number, expected, float(error))


ROWS = {
    "normal": [0.5, -1.25, 2.0, 0.25],
    "margin of 18": [18.0, 0.0],
    "margin of 40": [40.0, 0.0],
    "margins of 80 and 60": [0.0, 80.0, 20.0, -3.0],
    "margin of 200": [200.0, 0.0, 150.0],
    "near ties": [1.0, 1.0 + 2.0**-20, 1.0 - 2.0**-20],
    "two on top": [40.0, 40.0, 0.0],
    "masked": [3.0, -np.inf, 40.0, 0.0],
    "subnormal": [700.0, 0.0, -3.0],
}


FOUR = [row + [-np.inf] * (4 - len(row)) for row in ROWS.values()]
"""The rows with classes of probability 0 added, so that one program computes all of them."""


@pytest.mark.parametrize("dtype", TYPES)
def test_jacobians_of_softmax_and_log_softmax(dtype):
    """With unit cotangents, the elements are pⱼ (δⱼₖ - pₖ) and δⱼₖ - pₖ, so 1 - pₖ must be the sum of the others."""
    rows = np.asarray(FOUR, dtype)
    of_softmax, of_log = [], []
    for p in map(exact_softmax, rows):
        with mpmath.workdps(120):
            rest = [sum(p[:k] + p[k + 1 :]) for k in range(4)]
            of_softmax.append([[p[j] * (rest[j] if j == k else -p[k]) for k in range(4)] for j in range(4)])
            of_log.append([[rest[k] if j == k else -p[k] for k in range(4)] for j in range(4)])
    for activation, exact in ((fnn.softmax, of_softmax), (fnn.log_softmax, of_log)):
        of_row = jax.vmap(activation.pullback, in_axes=(None, 0))
        agrees(jax.jit(jax.vmap(of_row, in_axes=(0, None)))(rows, np.eye(4, dtype=dtype)), exact, dtype)
    # A cotangent that is the same for all classes changes nothing but rounding.
    assert np.abs(jax.jit(fnn.softmax.pullback)(rows, np.full(rows.shape, 3, dtype))).max() <= 1e-6


@pytest.mark.parametrize("dtype", TYPES)
def test_log_softmax_of_the_largest_logit(dtype):
    """Minus its loss, log(1 + Σ e^(yₖ - yₘ)), which is small but not 0 for a large margin."""
    rows = np.asarray(FOUR, dtype)
    top, exact = rows.argmax(1), []
    for row, m in zip(rows, top, strict=True):
        with mpmath.workdps(400):
            others = sum(mpmath.exp(float(v) - mpmath.mpf(float(row[m]))) for v in np.delete(row, m) if v != -np.inf)
            exact.append(-mpmath.log1p(others))
    agrees(np.take_along_axis(np.asarray(jax.jit(fnn.log_softmax)(rows)), top[:, None], 1), exact, dtype)
    if dtype == np.float64:
        likely = np.eye(4)[top]
        agrees(jax.jit(fnn.cross_entropy.per_example)(rows, likely), [-value for value in exact], dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_gelu_tanh_of_negative_numbers(dtype):
    """x σ(2u). Its condition number is up to 90 here."""
    x = np.array([-0.5, -3.0, -5.0, -7.0, -8.0], dtype)
    with mpmath.workdps(60):
        exact = [v / (1 + mpmath.exp(-tanh_argument(v)[0])) for v in map(mpmath.mpf, x.tolist())]
    agrees(jax.jit(fnn.gelu_tanh)(x), exact, dtype, scale=20)


OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.125},
    "class weights": {"class_weights": [0.5, 2.0, 1.0, 4.0]},
    "ignored": {"ignore_index": -1},
}


@pytest.mark.parametrize(
    ("options", "dtype"), [*((name, np.float64) for name in OPTIONS), ("plain", np.float32), ("smoothing", np.float32)]
)
def test_cross_entropy_and_what_jax_makes_of_its_gradient(options, dtype):
    """Values, gradients and second derivatives of integer labels, for every row and label."""
    keywords = dict(OPTIONS[options])
    smoothing = keywords.get("label_smoothing", 0.0)
    rows, labels, gradients, seconds, values = [], [], [], [], []
    for y in FOUR:
        for label in range(4):
            if y[label] == -np.inf:
                continue
            if smoothing and -np.inf in y:
                continue  # The loss is infinite.
            c = keywords.get("class_weights", [1.0] * 4)
            with mpmath.workdps(120):
                p = exact_softmax(y)
                t = [c[k] * ((1 - smoothing) * (k == label) + smoothing / 4) for k in range(4)]
                # pⱼ Σₖ tₖ - tⱼ = Σₖ (pⱼ tₖ - tⱼ pₖ) over the other classes.
                gradients.append([sum(p[j] * t[k] - t[j] * p[k] for k in range(4) if k != j) for j in range(4)])
                rest = [sum(p[:k] + p[k + 1 :]) for k in range(4)]
                seconds.append([sum(t) * p[j] * rest[j] for j in range(4)])
                values.append(c[label] * mpmath.log1p(rest[label] / p[label]))
            rows.append(y)
            labels.append(label)
    loss = fnn.losses.cross_entropy_with(**keywords)
    y, labels = jnp.asarray(rows, dtype), jnp.asarray(labels)

    def row_gradient(y, label):
        # The gradient of one example is divided by its weight in the mean.
        c = jnp.asarray(keywords.get("class_weights", [1.0] * 4), dtype)[label]
        return loss.gradient(y[None], label[None])[0] * c

    agrees(jax.jit(jax.vmap(row_gradient))(y, labels), gradients, dtype, scale=3)
    jacobians = jax.jit(jax.vmap(jax.jacrev(row_gradient)))(y, labels)
    agrees(jnp.diagonal(jacobians, axis1=1, axis2=2), seconds, dtype, scale=8)
    if not smoothing:
        agrees(jax.jit(loss.per_example)(y, labels), values, dtype)
        # Training differentiates the value.
        by_jax = jax.jit(jax.grad(lambda y: jnp.sum(loss.per_example(y, labels))))(y)
        agrees(by_jax, gradients, dtype, scale=3)


def test_binary_cross_entropy_near_its_labels():
    loss = fnn.losses.binary_cross_entropy_from_probabilities
    t = np.array([0.3, 0.3, 0.0, 1.0, 0.75, 0.0, 1.0, 1e-9])
    p = np.array([0.3 + 2.0**-40, 0.3, 0.0, 1.0, 0.75 - 2.0**-50, 1e-300, 1 - 2.0**-53, 2e-9])
    with mpmath.workdps(60):
        exact = [
            1 - 2 * b if a == b in (0, 1) else (mpmath.mpf(a) - b) / (mpmath.mpf(a) * (1 - mpmath.mpf(a)))
            for a, b in zip(p.tolist(), t.tolist(), strict=True)
        ]
    agrees(np.asarray(jax.jit(loss.gradient)(p, t)) * len(p), exact, np.float64)
    # XLA's log1p(-p) has an error of 2.6e-14 here.
    p = np.array([0.414005, 0.41409, 0.2499, 0.2501])
    with mpmath.workdps(60):
        exact = [-mpmath.log(1 - mpmath.mpf(a)) for a in p.tolist()]
    agrees(jax.jit(loss.per_example)(p, np.zeros(4)), exact, np.float64, scale=0.1)
    second = jax.grad(lambda y: jnp.sum(fnn.binary_cross_entropy.gradient(y, jnp.array([0.0, 1.0]))) * 2)
    np.testing.assert_allclose(jax.jit(second)(np.array([45.0, -60.0])), np.exp([-45.0, -60.0]), rtol=1e-14)


def test_cosine_distance_near_parallel():
    """1 - cos θ = 2 sin²(θ/2), where 1 - u · v has lost every digit; and the same direction has no distance."""
    angle = 1e-9
    y, t = jnp.array([[1.0, angle], [3.0, -1.0]]), jnp.array([[2.0, 0.0], [6.0, -2.0]])
    np.testing.assert_allclose(jax.jit(fnn.cosine_distance.per_example)(y, t), [angle**2 / 2, 0], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(fnn.cosine_distance.gradient)(y, t)[0], [-(angle**2) / 2, angle / 2], rtol=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradient_of_cosine_distance_in_all_directions(dtype):
    """Nearly opposite to the label, and nearly along an axis."""
    t, exact = [1.0, 2.0, 3.0], []
    ys = [[0.16101, -0.585529, -1.34122], [-1.0, -2.0, -4.0], [128.0, 0.5, -0.75]]
    for y in np.array(ys, dtype).tolist():
        with mpmath.workdps(60):
            norms = [mpmath.sqrt(sum(mpmath.mpf(a) ** 2 for a in vector)) for vector in (y, t)]
            u, v = ([mpmath.mpf(a) / norm for a in vector] for vector, norm in zip((y, t), norms, strict=True))
            cosine = sum(a * b for a, b in zip(u, v, strict=True))
            exact.append([(cosine * a - b) / norms[0] for a, b in zip(u, v, strict=True)])
    gradient = jax.jit(jax.vmap(lambda y: fnn.cosine_distance.gradient(y[None], np.array([t], dtype))[0]))
    agrees(gradient(np.array(ys, dtype)), exact, dtype, scale=2)


def test_multiclass_hinge_of_large_scores():
    y = jnp.array([[2.0**60, 2.0**60]])
    np.testing.assert_array_equal(jax.jit(fnn.multiclass_hinge)(y, jnp.array([0])), 0.5)


# Gates of recurrent cells: one unit, weights that pass a gate's argument through, and h = 0.


CELLS = {"lstm": fnn.lstm_cell(1), "gru": fnn.gru_cell(1)}


@partial(jax.jit, static_argnums=0)
def traced_gradient(name, params, x):
    y, _, pullback = CELLS[name].vjp(params, {}, x, train=False)
    params_bar, _ = pullback(jax.tree.map(jnp.ones_like, y))
    return y, params_bar["bias"]


def cell_gradient(name, params, x, state, dtype):
    return traced_gradient(name, *jax.tree.map(lambda leaf: np.asarray(leaf, dtype), (params, (x, state))))


def derivative(a):
    return 1 / ((1 + mpmath.exp(-a)) * (1 + mpmath.exp(a)))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("a", [0.5, -3.0, 18.0, -18.0, 40.0, -40.0, 80.0, -80.0])
def test_gates_of_lstm_and_gru(a, dtype):
    sigma, tanh, sech2 = lambda x: 1 / (1 + mpmath.exp(-x)), mpmath.tanh, lambda x: mpmath.sech(x) ** 2
    b = a / 4  # for tanh, whose tails are shorter
    with mpmath.workdps(120):
        a, b = mpmath.mpf(a), mpmath.mpf(b)
        c, next_c = mpmath.mpf("0.5"), sigma(a) / 2 + sigma(a) * tanh(b)
        s = 1 + sigma(a) * sech2(next_c)  # the cotangents of h and of c are 1
        lstm_bar = [s * tanh(b) * derivative(a), s * c * derivative(a), s * sigma(a) * sech2(b),
                    tanh(next_c) * derivative(a)]  # fmt: skip
        n_bar = sigma(-a) * sech2(b)
        gru_bar = [n_bar * mpmath.mpf("0.25") * derivative(a), -tanh(b) * derivative(a), n_bar]
        h_next = sigma(-a) * tanh(b)
    zeros = np.zeros((1, 1))
    lstm = {"input_weight": zeros.repeat(4, 1), "hidden_weight": zeros.repeat(4, 1)}
    lstm["bias"] = np.array([a, a, b, a], float)
    _, bias_bar = cell_gradient("lstm", lstm, zeros, (zeros, zeros + 0.5), dtype)
    agrees(bias_bar, lstm_bar, dtype)
    gru = {"input_weight": zeros.repeat(3, 1), "hidden_weight": zeros.repeat(3, 1), "hidden_bias": np.array([0.25])}
    with mpmath.workdps(120):
        shifted = b - sigma(a) / 4
    gru["bias"] = np.array([a, a, shifted], float)
    y, bias_bar = cell_gradient("gru", gru, zeros, zeros, dtype)
    # The argument of tanh is a sum, so its rounding counts.
    agrees(bias_bar, gru_bar, dtype, scale=1 if abs(b) < 5 else 20)
    agrees(y, [h_next], dtype, scale=2)


@pytest.mark.parametrize("dtype", TYPES)
def test_attention_where_one_key_has_all_the_weight(dtype):
    """The cotangent of a bias of the scores is that of the scores: pⱼ Σₖ pₖ (c_bar · vⱼ - c_bar · vₖ)."""
    scores = np.array([[30.0, 0.0, -4.0]])
    p = exact_softmax(scores[0])
    v = [mpmath.mpf(1), mpmath.mpf(3), mpmath.mpf(-2)]
    with mpmath.workdps(120):
        exact = [p[j] * sum(p[k] * (v[j] - v[k]) for k in range(3)) for j in range(3)]
    q, k = np.zeros((1, 1, 1, 1), dtype), np.zeros((1, 3, 1, 1), dtype)
    parts = (q, k, np.array([1, 3, -2], dtype).reshape(1, 3, 1, 1), scores.astype(dtype).reshape(1, 1, 1, 3))

    @jax.jit
    def bias_bar(parts):
        _, _, pullback = fnn.dot_product_attention().vjp({}, {}, parts, train=False)
        return pullback(jnp.ones((1, 1, 1, 1), dtype))[1][-1]

    agrees(bias_bar(parts), exact, dtype)


SECOND = {
    "sigmoid": lambda x: -derivative(x) * mpmath.tanh(x / 2),
    "tanh": lambda x: -2 * mpmath.tanh(x) / mpmath.cosh(x) ** 2,
    "softsign": lambda x: -2 * mpmath.sign(x) / (1 + abs(x)) ** 3,
    "softplus": derivative,
    "log_sigmoid": lambda x: -derivative(x),
    "gelu": lambda x: mpmath.npdf(x) * (2 - x * x),
    "gelu_tanh": lambda x: gated(x, *tanh_argument(x)),
    "silu": lambda x: gated(x, x, 1, 0),
    "mish": lambda x: mish_second(x),
    "elu": lambda x: mpmath.exp(x) if x <= 0 else mpmath.mpf(0),
}


def gated(x, v, slope, curvature):
    """(x σ(v))'' = 2 σ' v' + x (σ' v'' + σ'' v'²)."""
    return derivative(v) * (2 * slope + x * (curvature - slope**2 * mpmath.tanh(v / 2)))


def tanh_argument(x):
    b = 2 * mpmath.sqrt(2 / mpmath.pi)
    c = mpmath.mpf("0.044715") * b
    return b * x + c * x**3, b + 3 * c * x**2, 6 * c * x


def mish_second(x):
    p = mpmath.exp(x)
    w = 2 + 2 * p + p * p
    first, second = 4 * (p + p * p) / w**2, 4 * (p + 2 * p * p) / w**2 - 16 * (p + p * p) ** 2 / w**3
    return 2 * first + x * second


@pytest.mark.parametrize("dtype", TYPES)
def test_second_derivatives_of_activations(dtype):
    """At most 8 ULP, in the tails, near 0, and as ``with_hand_vjp`` gives them."""
    points = [1e-20, 1e-7, 0.03, 0.7, 1.0, 3.1, 5.0, 9.3, 13.2, 20.0, 37.0, 44.0, 80.0]
    x = np.array(points + [-point for point in points], dtype)
    derivatives = {name: fnn.activations.activation(name).derivative for name in SECOND}
    second = jax.jit(lambda x: {name: jax.vmap(jax.grad(f))(x) for name, f in derivatives.items()})
    for name, ours in jax.device_get(second(x)).items():
        for point, number in zip(x.tolist(), ours.tolist(), strict=True):
            with mpmath.workdps(80):
                exact = SECOND[name](mpmath.mpf(point))
            if abs(exact) >= float(np.finfo(dtype).tiny):
                unit = float(np.spacing(dtype(abs(float(exact)))))
                assert abs(mpmath.mpf(number) - exact) <= 8 * unit, (name, point, number, exact)
            else:
                assert abs(number) <= 2 * float(np.finfo(dtype).tiny), (name, point)


def test_second_derivatives_of_saturated_gates_are_finite():
    net = fnn.with_hand_vjp(fnn.lstm_cell(1))
    one, row = np.ones((1, 1), np.float32), np.ones((1, 4), np.float32)
    params = {"input_weight": row, "hidden_weight": row, "bias": row[0]}

    def slope(a):
        return jax.grad(lambda x: jnp.sum(net.apply(params, {}, (x, (one, one)), train=True)[0][0]))(a * one)[0, 0]

    assert np.isfinite(jax.jit(jax.vmap(jax.grad(slope)))(np.float32([-2000, 2000]))).all()
