"""functional_nn: what `fit` runs, a whole epoch in one compiled program with the images on the device as bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.w1 import BATCH_SIZE, LEARNING_RATE, SIZES

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def fit(mnist: Mnist, seed: int) -> Peer:
    """The epoch of `fit`."""
    _, *hidden, classes = SIZES
    net, optimizer = fnn.mlp(classes, hidden=hidden), optax.adam(LEARNING_RATE)
    train_step = fnn.make_train_step(net, fnn.cross_entropy, optimizer, keep_finite=False)
    epoch = jax.jit(fnn.make_epoch(train_step, BATCH_SIZE))
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
