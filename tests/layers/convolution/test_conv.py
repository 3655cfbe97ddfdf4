"""Convolution and its transpose: values against loops and PyTorch's arithmetic, lowerings, options, errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted

import functional_nn as fnn
from functional_nn.jaxprs.walk import equations
from functional_nn.layers.convolution.conv import convolve, input_gradient, weight_gradient
from functional_nn.layers.convolution.sliding_windows import place_windows


def by_loops(x, weight, out_sizes, stride, dilation, before, groups):
    """y[o] = Σₖ x[o s + k d - p] Wₖ, one number after the other; nothing outside x."""
    y = np.zeros((x.shape[0], *out_sizes, weight.shape[-1]))
    in_part, out_part = weight.shape[-2], weight.shape[-1] // groups
    for o, k in itertools.product(np.ndindex(*out_sizes), np.ndindex(*weight.shape[:-2])):
        at = [i * s + j * d - p for i, s, j, d, p in zip(o, stride, k, dilation, before, strict=True)]
        if all(0 <= i < n for i, n in zip(at, x.shape[1:-1], strict=True)):
            for g in range(groups):
                ins, outs = slice(g * in_part, (g + 1) * in_part), slice(g * out_part, (g + 1) * out_part)
                y[:, *o, outs] += x[:, *at, ins] @ weight[*k, :, outs]
    return y


SETTINGS = [
    # in_shape, window, out_size, options, padding before, out_sizes
    ((5, 7, 2), (2, 4), 3, {"stride": (2, 3)}, (0, 1), (3, 3)),
    ((5, 7, 2), (3, 2), 3, {"padding": "valid", "dilation": (2, 3)}, (0, 0), (1, 4)),
    ((11, 3), 4, 2, {"padding": "causal", "dilation": 2, "stride": 3}, (6,), (4,)),
    ((5, 7, 4), 2, 6, {"groups": 2, "padding": ((2, 0), (1, 3))}, (2, 1), (6, 10)),
    ((5, 7, 3), (3, 2), 6, {"groups": 3, "stride": 2}, (1, 0), (3, 4)),
    ((2, 3, 5, 2), (2, 1, 3), 3, {"padding": "valid"}, (0, 0, 0), (1, 3, 3)),
    ((4, 33), 3, 2, {}, (1,), (4,)),
    # Few channels, so neighbors are taken in pairs: widths and windows that are odd and even.
    ((4, 3), 5, 2, {}, (2,), (4,)),
    ((5, 3), 2, 2, {}, (0,), (5,)),
    ((4, 3), 2, 2, {}, (0,), (4,)),
]


@pytest.mark.parametrize(("in_shape", "window", "out_size", "options", "before", "out_sizes"), SETTINGS)
def test_values_are_those_of_loops(in_shape, window, out_size, options, before, out_sizes):
    random = np.random.default_rng(0)
    layer = fnn.conv(out_size, window, **options)
    shapes, state = jax.eval_shape(lambda key: layer.init(key, in_shape), jax.random.key(0))
    params = {name: random.normal(size=leaf.shape).astype(np.float32) for name, leaf in shapes.items()}
    x = random.normal(size=(2, *in_shape)).astype(np.float32)
    axes = len(in_shape) - 1
    stride, dilation = (np.broadcast_to(options.get(name, 1), axes) for name in ("stride", "dilation"))
    expected = by_loops(x, params["weight"], out_sizes, stride, dilation, before, options.get("groups", 1))
    y, _ = jax.jit(lambda p, x: layer.apply(p, state, x, train=True))(params, x)
    np.testing.assert_allclose(y, expected + params["bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("in_shape", "window", "options", "groups"),
    [
        ((5, 7, 2), (3, 2), {"stride": (2, 1), "padding": ((2, 1), (0, 3)), "dilation": (1, 2)}, 1),
        ((11, 3), 4, {"padding": "causal", "dilation": 2, "stride": 2}, 3),
        ((3, 2, 5, 1), 2, {"padding": "same"}, 1),
    ],
)
def test_the_three_maps_are_each_others_transposes_in_both_lowerings(in_shape, window, options, groups):
    """⟨convolve(x, W), y⟩ = ⟨x, input_gradient(y, W)⟩ = ⟨W, weight_gradient(x, y)⟩, in both lowerings."""
    windows = place_windows(in_shape[:-1], window, **options)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, *in_shape)), random.normal(size=(2, *windows.out_sizes, 6))
    weight = random.normal(size=(*windows.window, in_shape[-1] // groups, 6))
    x, y, weight = jnp.asarray(x), jnp.asarray(y), jnp.asarray(weight)

    @jax.jit
    def maps(x, y, weight):
        made = []
        for native in (False, True):
            options = windows, groups, native
            made.append(
                (convolve(x, weight, *options), input_gradient(y, weight, *options), weight_gradient(x, y, *options))
            )
        return made

    product, native = maps(x, y, weight)
    for a, b in zip(product, native, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    made_y, made_x, made_weight = product
    inner = jnp.sum(made_y * y)
    np.testing.assert_allclose([jnp.sum(made_x * x), jnp.sum(made_weight * weight)], inner, rtol=1e-12)


def convolutions(function, *arguments):
    """How many of XLA's convolutions a function computes on this platform, those of functions in it included."""
    found = equations(jax.make_jaxpr(function)(*arguments))
    return sum(equation.primitive.name == "conv_general_dilated" for _, equation, *_ in found)


@pytest.mark.parametrize("groups", [1, 2])
def test_matrix_products_in_bfloat16_add_the_places_of_a_window_in_float32(groups):
    """In bfloat16 256 + 1 is 256: a sum of 256 and fifteen ones would be wrong by 6%. With groups it is depthwise."""
    windows, native = place_windows((31,), 16), False

    @jax.jit
    def computed(x, y, weight):
        return convolve(x, weight, windows, groups, native), input_gradient(y, weight, windows, groups, native)

    arrays = jnp.ones((1, 31, 2)), jnp.ones((1, 16, 2)), jnp.ones((16, 2 // groups, 2)).at[0].set(256)
    halves = computed(*(array.astype(jnp.bfloat16) for array in arrays))
    for half, single in zip(halves, computed(*arrays), strict=True):
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), single, rtol=1e-2)


def assert_native_by_hand_alone(layer, channels, native):
    """With the formula the layer has so many of XLA's convolutions; without it, none, also afterwards."""
    params, state = jax.eval_shape(lambda key: layer.init(key, (6, 6, channels)), jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 6, 6, channels), jnp.float32)

    def applied(layer):
        return lambda params, state, x: layer.apply(params, state, x, train=True)[0]

    found = [convolutions(applied(which), params, state, x) for which in (layer, fnn.with_hand_vjp(layer), layer)]
    assert found == [0, native, 0]


@pytest.mark.parametrize("make", [fnn.conv, fnn.conv_transpose])
@pytest.mark.parametrize(
    ("channels", "options", "native"),
    [(8, {}, 1), (7, {}, 0), (8, {"groups": 2}, 0), (8, {"window": 1}, 0)],
)
def test_a_forward_pass_that_jax_need_not_derive_is_xla_s_convolution_where_that_is_quicker(
    make, channels, options, native
):
    assert_native_by_hand_alone(make(4, **{"window": 3} | options), channels, native)


@pytest.mark.parametrize(
    ("make", "native"),
    [
        (lambda conv: fnn.chain(fnn.relu, fnn.residual(fnn.chain(conv, conv))), 2),
        (lambda conv: fnn.parallel(conv, fnn.remat(fnn.chain(conv)), combine="product"), 2),
        (lambda conv: fnn.repeat(fnn.residual(conv), 3), 1),
        (lambda conv: fnn.shared(fnn.chain(conv, conv), {"conv_1": "conv_0"}), 2),
        (lambda conv: fnn.frozen(fnn.chain(conv, conv), "conv_0/*"), 2),
        (fnn.reverse_time, 1),
    ],
    ids=["residual", "parallel", "repeat", "shared", "frozen", "reverse_time"],
)
def test_with_hand_vjp_reaches_the_convolutions_inside_and_leaves_the_plain_network_alone(make, native):
    assert_native_by_hand_alone(make(fnn.conv(8, 3)), 8, native)


def test_a_layer_computes_the_same_wherever_it_is_called():
    """Another layer's ``with_hand_vjp`` does not change a plain layer that is called inside it."""
    plain = fnn.conv(8, 3)
    params, state = plain.init(jax.random.key(0), (6, 6, 8))
    outer = fnn.with_hand_vjp(
        fnn.Layer("outer", plain.init, lambda *given, **options: plain.forward(*given, **options), plain.backward)
    )
    assert convolutions(lambda x: outer.apply(params, state, x, train=True)[0], jnp.ones((2, 6, 6, 8))) == 0


@pytest.mark.parametrize(("n", "window", "stride", "dilation", "p", "q"), [(4, 2, 3, 1, 0, 2), (5, 4, 1, 2, 3, 0)])
def test_a_transposed_convolution_is_pytorch_s(n, window, stride, dilation, p, q):
    """PyTorch's formula by loops: input i adds to output i s - p + k d, with output_padding q rows more."""
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, n, 3)), random.normal(size=(3, 5, window))
    out = (n - 1) * stride - 2 * p + dilation * (window - 1) + q + 1
    expected = np.zeros((2, out, 5))
    for i, k in itertools.product(range(n), range(window)):
        if 0 <= (o := i * stride - p + k * dilation) < out:
            expected[:, o] += x[:, i] @ weight[..., k]
    layer = fnn.conv_transpose(5, window, stride=stride, dilation=dilation, padding=((p, p - q),), bias=False)
    ours = jnp.asarray(weight.transpose(2, 1, 0), jnp.float32)
    y, _ = jitted(layer).apply({"weight": ours}, {}, jnp.asarray(x, jnp.float32), train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "initializer", "variance"),
    [
        (fnn.conv, "he", 2 / 150),
        (fnn.conv, "pytorch", 1 / 450),
        (fnn.conv_transpose, "glorot", 2 / 400),
    ],
)
def test_initial_weights_count_the_window_and_the_channels_of_one_group(make, initializer, variance):
    """Fan-in 5 · 5 · 6 = 150 and fan-out 5 · 5 · 10 = 250."""
    params, _ = jitted(make(40, 5, groups=4, initializer=initializer)).init(jax.random.key(0), (7, 7, 24))
    weight, bias = np.asarray(params["weight"]), np.asarray(params["bias"])
    assert weight.shape == ((5, 5, 6, 40) if make is fnn.conv else (5, 5, 10, 24))
    np.testing.assert_allclose(weight.var(), variance, rtol=0.1)
    assert len(np.unique(weight)) > 0.99 * weight.size
    assert (abs(bias).max() > 0) == (initializer == "pytorch")
    assert abs(bias).max() <= 150**-0.5


@pytest.mark.parametrize("groups", [1, 4])
def test_large_windows_are_the_same_sums(groups):
    random = np.random.default_rng(0)
    weight, x = random.normal(size=(140, 4 // groups, 4)), random.normal(size=(1, 9, 4))
    net = fnn.conv(4, 140, groups=groups, bias=False, padding=((70, 70),), lowering="product")

    @jax.jit
    def computed(params, x):
        y, _, residuals = net.forward(params, {}, x, train=False)
        pullback = jax.vjp(lambda params, x: net.apply(params, {}, x, train=False)[0], params, x)[1]
        return y, net.backward(residuals, y), pullback(y)

    y, by_hand, automatic = computed({"weight": weight.astype(np.float32)}, x.astype(np.float32))
    np.testing.assert_allclose(y, by_loops(x, weight, (10,), (1,), (1,), (70,), groups), rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), by_hand, automatic)


@pytest.mark.parametrize(("make", "groups"), [(fnn.conv, 2), (fnn.conv_transpose, 1)])
def test_x_in_bfloat16_with_params_in_float32(make, groups):
    """The formula computes in the wider type, as ``apply`` does."""
    layer = jitted(make(2, 3, groups=groups))
    params, state = layer.init(jax.random.key(0), (5, 2))
    x = jax.random.normal(jax.random.key(1), (2, 5, 2)).astype(jnp.bfloat16)

    @jax.jit
    def gradients(params):
        y, _, pullback = layer.vjp(params, state, x, train=True)
        automatic = jax.grad(lambda params: jnp.sum(layer.apply(params, state, x, train=True)[0]))(params)
        return pullback(jnp.ones_like(y))[0], automatic

    with jax.numpy_dtype_promotion("standard"):
        params_bar, automatic = gradients(params)
    for path, expected in automatic.items():
        np.testing.assert_allclose(params_bar[path], expected, rtol=1e-5, atol=1e-5)
