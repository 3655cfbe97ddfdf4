"""Parameters from and for Keras."""

import importlib.util

import numpy as np
import pytest
from tests.exchange.networks import NETWORKS, assert_near, assert_same_bits, batch, outputs, random_trees

from functional_nn.core.errors import InputError
from functional_nn.exchange import from_keras, to_keras

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed"),
    pytest.mark.slow,  # Keras takes ten seconds to import
]


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    """Keras on JAX. It mixes types, which the other tests' rule for promotion forbids."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests."""


def model(name):
    import keras
    from keras import layers

    made = {
        "mlp": lambda: [
            *(layers.Dense(4, "relu"), layers.LayerNormalization(epsilon=1e-5), layers.PReLU()),
            layers.Dense(3, use_bias=False),
        ],
        "cnn": lambda: [
            *(layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(epsilon=1e-5), layers.ReLU()),
            *(layers.MaxPool2D(2), layers.Conv2D(6, 3, padding="same", use_bias=False)),
            *(layers.GroupNormalization(2, epsilon=1e-5), layers.Flatten(), layers.Dense(5)),
        ],
        "conv_transpose": lambda: [layers.Conv2DTranspose(4, 3, 2, "valid")],
        "rnn": lambda: [layers.SimpleRNN(7, return_sequences=True), layers.Dense(3)],
        "lstm": lambda: [layers.LSTM(7, return_sequences=True), layers.Dense(3)],
        "gru": lambda: [layers.GRU(7, return_sequences=True), layers.Dense(3)],
        "embedding": lambda: [layers.Embedding(11, 8), layers.Dense(3)],
    }
    if name == "attention":
        x = keras.Input((6, 8))
        y = layers.RMSNormalization(epsilon=1e-5)(layers.MultiHeadAttention(2, 4)(x, x))
        return keras.Model(x, y)
    return keras.Sequential([keras.Input(NETWORKS[name][1]), *made[name]()])


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_a_model_and_back(name):
    net, in_shape = NETWORKS[name]
    there = model(name)
    params, state = random_trees(name)
    there.set_weights(to_keras(net, params, state, in_shape, there))
    assert_near(np.asarray(there(batch(name), training=False)), outputs(name, params, state))
    read = from_keras(net, there, in_shape)
    assert_same_bits(read, (params, state))


def test_what_is_no_model():
    with pytest.raises(InputError, match=r"model: expected a Keras 3 model, got dict"):
        from_keras(NETWORKS["mlp"][0], {}, (5,))
