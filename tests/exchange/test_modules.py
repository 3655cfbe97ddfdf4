"""Modules of Flax NNX and Equinox as layers: they compute, train and draw as in their library."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import FormulaMissing, InputError
from functional_nn.exchange import layer_of

LIBRARIES = ("nnx", "equinox")
KEY, OTHER_KEY = jax.random.split(jax.random.key(3))
X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def of_nnx(rate):
    """A dense layer, batch norm and dropout, and what the library itself computes with the initial values of KEY."""
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)])
            self.dropout = nnx.Dropout(rate, rngs=rngs)

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.dropout(x)

    def own(train):
        net = Net(nnx.Rngs(KEY))
        net.train() if train else net.eval()
        gradient, y = nnx.grad(lambda net: total(net(X)), has_aux=True)(net)
        norm = net.layers[1]
        linear_bar, norm_bar = gradient["layers"][0], gradient["layers"][1]
        return (
            y,
            {"layers/1/mean": norm.mean[...], "layers/1/var": norm.var[...]},
            {f"layers/0/{name}": linear_bar[name][...] for name in ("kernel", "bias")}
            | {f"layers/1/{name}": norm_bar[name][...] for name in ("scale", "bias")},
        )

    return SimpleNamespace(module=lambda key: Net(nnx.Rngs(key)), own=own)


def of_equinox(rate):
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            self.linear = eqx.nn.Linear(4, 5, key=key)
            self.norm = eqx.nn.BatchNorm(5, "batch", mode="batch")
            self.dropout = eqx.nn.Dropout(rate)

        def __call__(self, x, state, key=None):
            x, state = self.norm(self.linear(x), state)
            return self.dropout(x, key=key), state

    make = eqx.nn.make_with_state(Net)

    def own(train):
        net, state = make(KEY)
        net = eqx.nn.inference_mode(net, value=not train)

        def loss(net):
            y, new = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(X, state)
            return total(y)[0], (y, new)

        gradient, (y, new) = eqx.filter_grad(loss, has_aux=True)(net)
        mean, variance = new.get(net.norm.batch_state_index)
        return (
            y,
            {
                "state/0": new.get(net.norm.batch_counter),
                "state/1/0": mean,
                "state/1/1": variance,
            },
            {
                f"{part}/{name}": getattr(getattr(gradient, part), name)
                for part in ("linear", "norm")
                for name in ("weight", "bias")
            },
        )

    return SimpleNamespace(module=make, own=own)


def case(library, rate=0.0):
    return globals()[f"of_{library}"](rate)


def total(y):
    """A loss whose gradient differs for each output, and the outputs."""
    return jnp.sum(y * jnp.arange(1.0, y.size + 1).reshape(y.shape)), y


def assert_near(ours, theirs):
    """A bias before batch norm has a gradient of 0, except for rounding of terms up to 30."""
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        np.testing.assert_allclose(ours[path], array, rtol=1e-4, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_outputs_statistics_and_gradients_are_those_of_the_library(library, train):
    of = case(library)
    layer = layer_of(of.module)
    params, state = layer.init(KEY, (4,))
    y, new_state, gradient = of.own(train)

    def loss(params):
        y, new_state = layer.apply(params, state, X, train=train)
        return total(y)[0], (y, new_state)

    ours, (our_y, our_state) = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(our_y, y, rtol=1e-5, atol=1e-6)
    assert_near(fnn.trees.flatten(our_state), new_state)
    assert_near(fnn.trees.flatten(ours), gradient)
    changed = {path: bool(np.any(new_state[path] != leaf)) for path, leaf in fnn.trees.flatten(state).items()}
    assert all(changed.values()) == train


@pytest.mark.parametrize("library", LIBRARIES)
def test_random_numbers_come_from_the_key(library):
    layer = layer_of(case(library, rate=0.5).module)
    params, state = layer.init(KEY, (4,))

    def dropped(train, key):
        return np.asarray(layer.apply(params, state, X, train=train, key=key)[0] == 0)

    one = dropped(True, KEY)
    assert 0 < one.mean() < 1
    assert any((row != one[0]).any() for row in one)  # examples differ
    np.testing.assert_array_equal(dropped(True, KEY), one)
    assert (dropped(True, OTHER_KEY) != one).any()
    assert not dropped(False, None).any()
    with pytest.raises(InputError, match=r"key=jax\.random\.key|a key, since"):
        dropped(True, None)


@pytest.mark.parametrize("library", LIBRARIES)
def test_in_a_chain_fit_and_sweep(library):
    """Each seed of a sweep has initial values of its own, and ends as the run of this seed alone."""
    net = fnn.chain(layer_of(case(library, rate=0.1).module), fnn.relu, fnn.dense(3))
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (24, 2, 2, 1), dtype=np.uint8), np.arange(24) % 3
    data = fnn.data.make_dataset("tiny", images, labels, images, labels, source="a test")
    runs = [
        fnn.fit(net, fnn.cross_entropy, optax.sgd(0.1), data, epochs=2, batch_size=8, seed=seed, progress=False)
        for seed in (0, 1)
    ]
    members = fnn.grid(learning_rate=[0.1], batch_size=[8], seed=[0, 1])
    result = fnn.sweep(net, lambda h: optax.sgd(h["learning_rate"]), members, data, epochs=2, progress=False)
    for run, member in zip(runs, result.members, strict=True):
        assert_near(fnn.trees.flatten(member.params), fnn.trees.flatten(run.params))
        assert_near(fnn.trees.flatten(member.state), fnn.trees.flatten(run.state))
    first, second = (fnn.trees.flatten(run.params) for run in runs)
    assert all((np.asarray(second[path]) != leaf).any() for path, leaf in first.items())
    y, _, pullback = net.vjp(runs[0].params, runs[0].state, X, train=False)
    with pytest.raises(FormulaMissing, match="module_0: this layer has no hand-derived backward pass"):
        pullback(y)
    with pytest.raises(InputError, match="couples its examples"):
        fnn.training.per_example_gradients(
            net, fnn.cross_entropy, runs[0].params, runs[0].state, X, np.zeros(6, int), key=KEY
        )


def test_a_formula_is_used_and_checked():
    nnx = pytest.importorskip("flax.nnx")

    def backward(residuals, y_bar):
        params, _, x = residuals
        return {"kernel": x.T @ y_bar}, y_bar @ params["kernel"].T

    def module(key):
        return nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(key))

    assert fnn.gradients.check_layer(layer_of(module, backward=backward), (4,), mutants=False).passed
    wrong = layer_of(
        module, backward=lambda residuals, y_bar: (backward(residuals, y_bar)[0], y_bar @ jnp.ones((3, 4)))
    )
    assert {verdict.leaf for verdict in fnn.gradients.check_layer(wrong, (4,), mutants=False).failures} == {"x"}


def test_what_is_no_module():
    def fails(key):
        raise KeyError("units")

    for given, words in (
        ("MLP", "got 'MLP'"),
        (fnn.dense(3), r"got Layer\('dense'\)"),
        (lambda key: {"weight": key}, "got a function that makes a dict"),
        (lambda: None, "got one that raises .TypeError"),
        (fails, r"got one that raises .KeyError: .units.\)\. It is called with one argument, a key"),
    ):
        with pytest.raises(InputError, match=f"module: expected a Flax NNX or Equinox module, .*{words}"):
            layer_of(given)


def test_libraries_that_are_not_loaded_stay_so(monkeypatch):
    """They are recognized among the loaded modules. An import of None is an error."""
    for name in ("flax", "flax.nnx", "equinox"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="got a function that makes a list"):
        layer_of(lambda key: [])
