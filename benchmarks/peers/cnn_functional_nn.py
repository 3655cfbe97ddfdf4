"""functional_nn's convolutions in the epoch that `fit` runs, differentiated by their formula and by `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks import w3
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def network(lowerings: tuple[str, str]) -> fnn.Layer:
    blocks = [
        layer
        for size, lowering in zip(w3.CHANNELS, lowerings, strict=True)
        for layer in (fnn.conv(size, 3, lowering=lowering), fnn.relu, fnn.max_pool(2))
    ]
    return fnn.chain(*blocks, fnn.flatten(), fnn.dense(w3.CLASSES))


def fit(net: fnn.Layer, mnist: Mnist, seed: int) -> Peer:
    optimizer = optax.adam(w3.LEARNING_RATE)
    train_step = fnn.make_train_step(net, fnn.cross_entropy, optimizer, keep_finite=False)
    epoch = jax.jit(fnn.make_epoch(train_step, w3.BATCH_SIZE))
    data = fnn.load_dataset("mnist", mnist.folder)
    images, labels = jax.device_put((data.train_images, data.train_labels))
    train_state = fnn.create_train_state(net, optimizer, jax.random.key(seed), images.shape[1:])
    number = 0

    def train_epoch() -> None:
        nonlocal train_state, number
        train_state, _ = jax.block_until_ready(epoch(train_state, images, labels, jnp.int32(number)))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *w3.IMAGE_SHAPE)
        return np.asarray(net.apply(train_state.params, train_state.state, images, train=False)[0])

    return Peer(train_epoch, predict)


def by_hand(mnist: Mnist, seed: int) -> Peer:
    """The layers' own backward passes; XLA's convolution where there are channels enough."""
    return fit(fnn.with_hand_vjp(network(("auto", "native"))), mnist, seed)


def automatically(mnist: Mnist, seed: int) -> Peer:
    """`jax.grad` of the forward pass, everything as it is by default."""
    return fit(network(("auto", "auto")), mnist, seed)
