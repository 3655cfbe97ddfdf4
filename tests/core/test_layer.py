"""Names, keys and paths: what the combinators thread, and where errors say they come from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.layer import child_keys


def test_equal_names_are_numbered():
    net = fnn.chain(fnn.dense(2), fnn.relu, fnn.dense(3), fnn.dense(4, name="head"), fnn.chain(fnn.dense(5)))
    params, _ = jax.eval_shape(lambda key: net.init(key, (7,)), jax.random.key(0))
    assert sorted(params) == ["chain_0", "dense_0", "dense_1", "head_0"]
    assert sorted(params["chain_0"]) == ["dense_0"]


def test_layers_keep_the_names_they_are_given():
    """A named layer keeps its path and its initial values when another one is inserted."""
    small = fnn.chain(fnn.dense(4), encoder=fnn.dense(3), head=fnn.dense(2))
    large = fnn.chain(fnn.dense(4), fnn.relu, fnn.dense(4), encoder=fnn.dense(3), head=fnn.dense(2))
    params, state = small.init(jax.random.key(0), (4,))
    more, _ = large.init(jax.random.key(0), (4,))
    assert list(params) == ["dense_0", "encoder", "head"]
    assert repr(large) == "chain(dense_0, relu_0, dense_1, encoder, head)"
    np.testing.assert_array_equal(params["encoder"]["weight"], more["encoder"]["weight"])
    assert [row.layer for row in fnn.summary(small, (4,)).rows] == ["dense_0", "encoder", "head"]
    x = jnp.ones((2, 4))
    expected = x
    for name in ("dense_0", "encoder", "head"):
        expected = expected @ params[name]["weight"]  # biases start as 0
    np.testing.assert_allclose(small.apply(params, state, x, train=False)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"dense_0": fnn.dense(2)}, "layers: expected names that differ, got dense_0 twice"),
        ({"a/b": fnn.dense(2)}, "name: expected a name without '/'"),
        ({"backward": fnn.dense(2)}, "name: expected a name .*, and not 'backward'"),
        ({"shorcut": None}, "layers: expected layers, activations or functions of one array, got None"),
    ],
)
def test_names_that_cannot_be_given(names, words):
    for combinator in (fnn.chain, fnn.parallel, fnn.residual):
        with pytest.raises(fnn.InputError, match=words):
            combinator(fnn.dense(2), **names)


def test_feature_mismatch_names_the_layer_at_trace_time():
    net = fnn.chain(fnn.chain(fnn.dense(3), fnn.relu), fnn.dense(2))
    params, state = net.init(jax.random.key(0), (4,))
    with pytest.raises(fnn.InputError) as caught:
        jax.jit(lambda x: net.apply(params, state, x, train=False))(jnp.ones((2, 5)))
    assert caught.value.path == ("chain_0", "dense_0")
    assert str(caught.value) == (
        "chain_0/dense_0: x: expected 4 features on the last axis, got 5 (shape (2, 5)). Call init with this in_shape."
    )


@pytest.mark.parametrize(
    ("layer", "in_shape"),
    [
        (fnn.neuron(), (2, 3)),
        *((layer, shape) for layer in (fnn.neuron(), fnn.dense(2)) for shape in (784, ())),
    ],
)
def test_shapes_that_cannot_be_initialized(layer, in_shape):
    with pytest.raises(fnn.InputError, match="in_shape: expected"):
        layer.init(jax.random.key(0), in_shape)


def test_equal_layers_draw_different_numbers():
    net = fnn.chain(fnn.dropout(0.5), fnn.dropout(0.5))
    y, _ = net.apply({}, {}, jnp.ones((1, 10_000)), train=True, key=jax.random.key(0))
    assert abs(float((y != 0).mean()) - 0.25) < 0.02
    params, _ = fnn.chain(fnn.dense(4), fnn.dense(4)).init(jax.random.key(0), (4,))
    assert not np.allclose(params["dense_0"]["weight"], params["dense_1"]["weight"])


def test_names_give_distinct_keys():
    names = [f"{kind}_{number}" for kind in ("dense", "dropout", "chain", "conv") for number in range(500)]
    keys = jax.random.key_data(child_keys(jax.random.key(0), names))
    assert len(np.unique(keys, axis=0)) == 2000


def test_parameters_of_another_network_are_refused():
    net = fnn.chain(fnn.dense(2))
    params, state = net.init(jax.random.key(0), (3,))
    with pytest.raises(fnn.InputError, match="params: expected entries for the layers dense_0, got also dense_1"):
        net.apply({**params, "dense_1": {}}, state, jnp.ones((1, 3)), train=False)
    with pytest.raises(fnn.InputError, match="dense_0: params: expected entries weight, bias, got nothing"):
        net.apply({}, state, jnp.ones((1, 3)), train=False)
    with pytest.raises(fnn.InputError, match="params: expected a dict, as init gave it, got float32 of shape"):
        fnn.dense(2).apply(jnp.ones(3), {}, jnp.ones((1, 3)), train=False)


X = jnp.ones((2, 3))
WRONG_SHAPES = {
    "dense bias": (fnn.dense(2), {"weight": jnp.ones((3, 2)), "bias": jnp.ones(1)}, X, r"bias: expected shape \(2,\)"),
    "embedding": (fnn.embedding(5, 2), {"weight": jnp.ones((3, 2))}, jnp.array([[4]]), r"expected shape \(5, 2\)"),
    "conv": (
        fnn.conv(4, 3, bias=False, lowering="native"),
        {"weight": jnp.ones((5, 3, 4))},
        jnp.ones((1, 9, 3)),
        r"weight: expected shape \(3, in_size // groups, 4\), got .*shape \(5, 3, 4\)",
    ),
    "gru": (
        fnn.gru(2),
        fnn.gru(2, reset_after=False).init(jax.random.key(0), (5, 3))[0],
        X[:, None],
        "params: expected entries input_weight, hidden_weight, bias, hidden_bias, got",
    ),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_parameters_of_wrong_shapes_are_refused(name):
    layer, params, x, words = WRONG_SHAPES[name]
    with pytest.raises(fnn.InputError, match=words):
        jax.eval_shape(lambda: layer.apply(params, {}, x, train=False))


def test_a_neuron_takes_functions_of_every_element_alone():
    unit = fnn.neuron(jnp.tanh)
    params, state = unit.init(jax.random.key(0), (3,))
    y, _, pullback = unit.vjp(params, state, jnp.ones((2, 3)), train=True)
    with pytest.raises(fnn.FormulaMissing, match="tanh is a plain function"):
        pullback(y)
    with pytest.raises(fnn.InputError, match=r"a function that is applied to each element separately, got .*softmax"):
        fnn.neuron(fnn.softmax)
    with pytest.raises(fnn.InputError, match=r"a function that is applied to each element separately, got .*dense"):
        fnn.rnn(3, activation=fnn.dense(2))


class Holder:
    """A module as other libraries write them: a callable object with arrays."""

    def __init__(self):
        self.layers = [{"weight": jnp.ones((3, 3))}, {"weight": jnp.zeros((3, 3))}]

    def __call__(self, x):
        return x @ self.layers[0]["weight"]


def test_callables_with_arrays_are_refused_since_they_would_not_train():
    for combinator in (fnn.chain, fnn.residual, fnn.parallel):
        with pytest.raises(fnn.InputError, match=r"got a Holder, which holds 2 arrays\. They would be constants that"):
            combinator(Holder())


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(jnp.add, jnp.ones((1, 3))),
        jax.tree_util.Partial(jnp.add, jnp.ones((1, 3))),
        Holder().__call__,
        jax.jit(jnp.sin),
        jax.nn.relu,
    ],
    ids=["partial", "Partial", "method", "jit", "custom_jvp"],
)
def test_functions_stay_allowed_with_constants_of_their_own(function):
    net = fnn.chain(function)
    assert net.apply(*net.init(None, (3,)), jnp.ones((2, 3)), train=False)[0].shape == (2, 3)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyError("oops")], ids=repr)
def test_errors_of_a_user_s_function_stay_what_they_are_and_say_where(error):
    def broken(x):
        raise error

    with pytest.raises(type(error)) as caught:
        fnn.chain(fnn.chain(broken)).apply({}, {}, jnp.ones((1, 2)), train=False)
    assert caught.value.__notes__ == ["(in layer broken_0)", "(in layer chain_0)"]


@pytest.mark.parametrize(
    ("initializer", "spread"),
    [
        ("glorot", np.sqrt(2 / 1500)),
        ("he", np.sqrt(2 / 1000)),
        ("lecun", np.sqrt(1 / 1000)),
        ("pytorch", np.sqrt(1 / 3000)),
    ],
)
def test_initial_weights_have_the_variance_of_their_name(initializer, spread):
    params, _ = fnn.dense(500, initializer=initializer).init(jax.random.key(0), (1000,))
    np.testing.assert_allclose(params["weight"].std(), spread, rtol=0.01)
    assert abs(params["weight"].mean()) < 1e-3
    assert abs(params["bias"]).max() <= (1000**-0.5 if initializer == "pytorch" else 0)


def test_forgotten_brackets_are_answered():
    with pytest.raises(fnn.InputError, match=r"the function dense, which makes one. Write dense\("):
        fnn.chain(fnn.dense)


def test_a_layer_that_gives_back_too_little_is_named():
    def bare(params, state, x, *, train, key=None):
        return x

    for forward in (bare, lambda params, state, x, *, train, key=None: (x, state)):
        wrong = fnn.chain(fnn.Layer("mine", lambda key, shape: ({}, {}), forward, lambda residuals, y_bar: ({}, y_bar)))
        with pytest.raises(fnn.InputError, match=r"mine_0: forward: expected \(y, state, residuals\) to come back"):
            wrong.apply({}, {}, jnp.ones((1, 2)), train=True)
    half = fnn.chain(fnn.Layer("mine", lambda key, shape: {}, bare, lambda residuals, y_bar: ({}, y_bar)))
    with pytest.raises(fnn.InputError, match=r"mine_0: init: expected \(params, state\) to come back"):
        half.init(jax.random.key(0), (2,))


def without_formula():
    def forward(params, state, x, *, train, key=None):
        return x * params["scale"], state, ()

    return fnn.Layer("mine", lambda key, shape: ({"scale": jnp.float32(2)}, {}), forward)


def test_a_layer_without_a_backward_pass_has_no_formula():
    """``apply`` and all that is built on it work; ``vjp`` says which layer has no formula."""
    layer, x = without_formula(), jnp.ones((2, 3))
    params, state = layer.init(jax.random.key(0), (3,))
    with pytest.raises(fnn.FormulaMissing, match=r"^mine: this layer has no hand-derived backward pass"):
        layer.vjp(params, state, x, train=True)
    net = fnn.chain(fnn.residual(fnn.dense(3), layer), fnn.dense(2))
    params, state = net.init(jax.random.key(0), (3,))
    assert fnn.summary(net, (3,)).total.output_shape == (2,)
    gradient = jax.jit(jax.grad(lambda p: net.apply(p, state, x, train=True)[0].sum()))(params)
    assert gradient["residual_0"]["mine_0"]["scale"] != 0
    y, _, pullback = jax.jit(lambda p: net.vjp(p, state, x, train=True))(params)
    with pytest.raises(fnn.FormulaMissing, match=r"^residual_0/mine_0: this layer has no hand-derived"):
        pullback(y)
    for wrapped in (layer, fnn.remat(layer), fnn.frozen(layer, "scale")):
        trees, by_hand = wrapped.init(jax.random.key(0), (3,)), fnn.with_hand_vjp(wrapped)
        with pytest.raises(fnn.FormulaMissing, match="this layer has no hand-derived backward pass"):
            jax.eval_shape(jax.grad(lambda x, f=by_hand, t=trees: f.apply(*t, x, train=True)[0].sum()), x)


def test_a_network_shows_its_layers_and_those_inside_of_them():
    assert repr(fnn.chain(fnn.chain(fnn.chain(fnn.dense(3))), name="mine")) == "mine(chain_0(chain_0(…)))"


def test_a_layer_that_is_called_says_how_it_is_applied():
    with pytest.raises(
        TypeError, match=r"params, state = dense\.init\(key, in_shape\), then y, state = dense\.apply\("
    ):
        fnn.dense(10)(jnp.ones((1, 3)))


def right_backward(residuals, y_bar):
    x, weight = residuals
    return {"weight": x.T @ y_bar}, y_bar @ weight.T


def product(backward=right_backward, init=None, forward=None):
    """A layer that multiplies by a weight, with wrong parts."""

    def right_init(key, in_shape):
        return {"weight": jnp.ones((in_shape[-1], 5))}, {}

    def right_forward(params, state, x, *, train, key=None):
        return x @ params["weight"], state, (x, params["weight"])

    return fnn.Layer("product", init or right_init, forward or right_forward, backward)


def trained(layer):
    def total(params):
        return jnp.sum(fnn.with_hand_vjp(layer).apply(params, {}, jnp.ones((7, 3)), train=True)[0])

    return jax.jit(jax.grad(total))({"weight": jnp.ones((3, 5))})


WRONG = {
    "transposed": (
        lambda residuals, y_bar: ({"weight": y_bar.T @ residuals[0]}, y_bar @ residuals[1].T),
        r"product: backward: params_bar/weight: expected .* \(3, 5\), got \(5, 3\)\. Transpose it\.",
    ),
    "not summed": (
        lambda residuals, y_bar: ({"weight": residuals[0][:, :, None] * y_bar[:, None, :]}, y_bar @ residuals[1].T),
        r"product: backward: params_bar/weight: .*, 3, 5\)\. Sum over the axes",
    ),
    "swapped": (
        lambda residuals, y_bar: right_backward(residuals, y_bar)[::-1],
        r"product: backward: expected \(params_bar, x_bar\) to come back, got \(x_bar, params_bar\)",
    ),
    "left out": (
        lambda residuals, y_bar: ({}, right_backward(residuals, y_bar)[1]),
        "product: backward: expected .* got none for params_bar/weight",
    ),
    "unknown": (
        lambda residuals, y_bar: ({"weight": residuals[1], "bias": y_bar}, right_backward(residuals, y_bar)[1]),
        "product: backward: expected .* got also params_bar/bias",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_cotangents(name):
    backward, words = WRONG[name]
    with pytest.raises(fnn.InputError, match=words):
        trained(product(backward))


@pytest.mark.parametrize(("of_params", "of_x"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_cotangents_have_the_types_of_what_they_belong_to(of_params, of_x):
    params, x = {"weight": jnp.ones((3, 5), of_params)}, jnp.ones((7, 3), of_x)

    def by_pullback(params, x):
        y, _, pullback = product().vjp(params, {}, x, train=True)
        return pullback(jnp.ones_like(y))

    def by_grad(params, x):
        # x is used twice, so JAX adds two cotangents, which must have one type.
        def total(params, x):
            y, _ = fnn.with_hand_vjp(product()).apply(params, {}, x, train=True)
            return y.astype("float32").sum() + (x * x).sum().astype("float32")

        return jax.grad(total, (0, 1))(params, x)

    for differentiated in (by_pullback, by_grad):
        with jax.numpy_dtype_promotion("standard"):
            params_bar, x_bar = jax.eval_shape(differentiated, params, x)
        assert (params_bar["weight"].dtype, x_bar.dtype) == (of_params, of_x)
