"""functional_nn's LSTM in the epoch that `fit` runs, differentiated by its formula and by `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def fit(lstm: fnn.Layer, mnist: Mnist, seed: int) -> Peer:
    rows = fnn.reshape((w4.ROWS, w4.COLUMNS))
    net, optimizer = fnn.chain(rows, lstm, fnn.dense(w4.CLASSES)), optax.adam(w4.LEARNING_RATE)
    train_step = fnn.make_train_step(net, fnn.cross_entropy, optimizer, keep_finite=False)
    epoch = jax.jit(fnn.make_epoch(train_step, w4.BATCH_SIZE))
    data = fnn.load_dataset("mnist", mnist.folder)
    images, labels = jax.device_put((data.train_images, data.train_labels))
    train_state = fnn.create_train_state(net, optimizer, jax.random.key(seed), images.shape[1:])
    number = 0

    def train_epoch() -> None:
        nonlocal train_state, number
        train_state, _ = jax.block_until_ready(epoch(train_state, images, labels, jnp.int32(number)))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(net.apply(train_state.params, train_state.state, images, train=False)[0])

    return Peer(train_epoch, predict)


def by_hand(mnist: Mnist, seed: int) -> Peer:
    """Backpropagation through time as the layer's formula has it, the weights' gradients in one product each."""
    return fit(fnn.with_hand_vjp(fnn.lstm(w4.HIDDEN_SIZE)), mnist, seed)


def automatically(mnist: Mnist, seed: int) -> Peer:
    """`jax.grad` of the layer's forward pass."""
    return fit(fnn.lstm(w4.HIDDEN_SIZE), mnist, seed)
