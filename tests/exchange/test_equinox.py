"""Parameters from and for Equinox."""

import jax
import numpy as np
import pytest
from tests.exchange.networks import NETWORKS, assert_near, assert_same_bits, batch, outputs, random_trees

from functional_nn.core.errors import InputError
from functional_nn.exchange import from_equinox, to_equinox

eqx = pytest.importorskip("equinox")


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests, since Equinox mixes types."""


class Steps(eqx.Module):
    """A cell over time, and a linear layer in each step."""

    cell: eqx.Module
    head: eqx.nn.Linear

    def __call__(self, x):
        def step(state, x):
            state = self.cell(x, state)
            return state, state[0] if isinstance(state, tuple) else state

        start = np.zeros(7, "float32")
        _, h = jax.lax.scan(step, (start, start) if isinstance(self.cell, eqx.nn.LSTMCell) else start, x)
        return jax.vmap(self.head)(h)


class Mlp(eqx.Module):
    layers: list

    def __init__(self, keys):
        first, last = eqx.nn.Linear(5, 4, key=keys[0]), eqx.nn.Linear(4, 3, use_bias=False, key=keys[1])
        self.layers = [first, jax.nn.relu, eqx.nn.LayerNorm(4), eqx.nn.PReLU(), last]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Attention(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.RMSNorm

    def __call__(self, x):
        return jax.vmap(self.norm)(self.attention(x, x, x))


class Images(eqx.Module):
    """Convolutions with batch norm, whose state goes through."""

    convolutions: list
    batch_norm: eqx.nn.BatchNorm
    group_norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear

    def __init__(self, mode):
        keys = jax.random.split(jax.random.key(0), 3)
        convolutions = [eqx.nn.Conv2d(3, 4, 3, padding=1, key=keys[0])]
        self.convolutions = [*convolutions, eqx.nn.Conv2d(4, 6, 3, padding=1, use_bias=False, key=keys[1])]
        self.batch_norm, self.group_norm = eqx.nn.BatchNorm(4, "batch", mode=mode), eqx.nn.GroupNorm(2, 6)
        self.head = eqx.nn.Linear(96, 5, key=keys[2])

    def __call__(self, x, state):
        x, state = self.batch_norm(self.convolutions[0](x), state, inference=True)
        x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(x))
        return self.head(self.group_norm(self.convolutions[1](x)).reshape(-1)), state


def model(name):
    keys = jax.random.split(jax.random.key(0), 3)
    match name:
        case "mlp":
            return Mlp(keys)
        case "conv_transpose":
            return eqx.nn.ConvTranspose2d(3, 4, 3, 2, key=keys[0])
        case "rnn":
            pytest.skip("Equinox has no plain recurrent cell")
        case "lstm":
            return Steps(eqx.nn.LSTMCell(5, 7, key=keys[0]), eqx.nn.Linear(7, 3, key=keys[1]))
        case "gru":
            return Steps(eqx.nn.GRUCell(5, 7, key=keys[0]), eqx.nn.Linear(7, 3, key=keys[1]))
        case "attention":
            biases = dict.fromkeys(("use_query_bias", "use_key_bias", "use_value_bias", "use_output_bias"), True)
            return Attention(eqx.nn.MultiheadAttention(2, 8, **biases, key=keys[0]), eqx.nn.RMSNorm(8, use_bias=False))
        case "embedding":
            linear = eqx.nn.Linear(8, 3, key=keys[1])
            return eqx.nn.Sequential([eqx.nn.Embedding(11, 8, key=keys[0]), linear])


def channels_first(x):
    return np.moveaxis(x, -1, 1)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "cnn"])
def test_outputs_of_a_model_and_back(name):
    net, in_shape = NETWORKS[name]
    params, state = random_trees(name)
    if name == "mlp":
        params["prelu_0"]["negative_slope"] = np.full(4, 0.3, "float32")  # Equinox has one slope for all features
    options = {"check": False} if name == "embedding" else {}  # its layers take one token, not a sequence
    there, _ = to_equinox(net, params, state, in_shape, model(name), **options)
    x = batch(name)
    if name == "conv_transpose":
        y = np.moveaxis(np.asarray(jax.vmap(there)(channels_first(x))), 1, -1)
    else:
        y = jax.vmap(jax.vmap(there) if name == "embedding" else there)(x)
    assert_near(np.asarray(y), outputs(name, params, state))
    assert_same_bits(from_equinox(net, there, in_shape, **options), (params, state))


@pytest.mark.parametrize("mode", ["ema", "batch"])
def test_batch_norm_and_images(mode):
    net, in_shape = NETWORKS["cnn"]
    params, state = random_trees("cnn")
    start, start_state = eqx.nn.make_with_state(Images)(mode)
    there, there_state = to_equinox(net, params, state, in_shape, start, start_state)
    y, _ = jax.vmap(there, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
        channels_first(batch("cnn")), there_state
    )
    assert_near(np.asarray(y), outputs("cnn", params, state))
    assert_same_bits(from_equinox(net, there, in_shape, there_state), (params, state))
    if mode == "ema":  # the first batch of a training does not replace the statistics
        assert not there_state.get(there.batch_norm.ema_first_time_index)
    with pytest.raises(InputError, match=r"model_state: expected the state of the batch norms, got None"):
        from_equinox(net, there, in_shape)


def test_what_does_not_fit():
    with pytest.raises(InputError, match=r"1 weight matrices in the network \(dense_0\), 2 in the model \(layers/0, "):
        from_equinox(NETWORKS["lstm"][0], model("mlp"), (6, 5))
