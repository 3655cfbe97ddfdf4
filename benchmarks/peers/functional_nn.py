"""functional_nn: what `fit` runs, a whole epoch in one compiled program with the images on the device as bytes."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks import w1
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def fit(mnist: Mnist, seed: int) -> Peer:
    """The epoch of `fit`."""
    _, *hidden, classes = w1.SIZES
    return epochs_of_fit(fnn.mlp(classes, hidden=hidden), w1, mnist, seed)


def epochs_of_fit(net: fnn.Layer, workload: ModuleType, mnist: Mnist, seed: int) -> Peer:
    """A network in the epoch of `fit`, with a workload's learning rate and batch size."""
    optimizer = optax.adam(workload.LEARNING_RATE)
    train_step = fnn.make_train_step(net, fnn.cross_entropy, optimizer, keep_finite=False)
    epoch = jax.jit(fnn.make_epoch(train_step, workload.BATCH_SIZE))
    data = fnn.load_dataset("mnist", mnist.folder)
    images, labels = jax.device_put((data.train_images, data.train_labels))
    image_shape = images.shape[1:]
    train_state = fnn.create_train_state(net, optimizer, jax.random.key(seed), image_shape)
    number = 0

    def train_epoch() -> None:
        nonlocal train_state, number
        train_state, _ = jax.block_until_ready(epoch(train_state, images, labels, jnp.int32(number)))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        return np.asarray(net.apply(train_state.params, train_state.state, images, train=False)[0])

    return Peer(train_epoch, predict)
