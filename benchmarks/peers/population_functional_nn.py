"""functional_nn: every model's epoch is the program of `fit`, compiled once with the learning rate as an argument."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, available_cores
from benchmarks.peers.functional_nn import LIBRARIES as LIBRARIES
from benchmarks.w2 import BATCH_SIZE, FEW, Member, members, sizes


def threads(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """A thread a core; each takes the next model and trains its epoch."""
    return epochs_of_fit(members(seed, models), available_cores(), mnist, hidden)


def solo(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One model after another, each with the whole machine."""
    return epochs_of_fit(members(seed, models, FEW), 1, mnist, hidden)


def epochs_of_fit(population: Sequence[Member], workers: int, mnist: Mnist, hidden: Sequence[int]) -> Peer:
    """So many models at a time."""
    _, *hidden_sizes, classes = sizes(hidden)
    net = fnn.mlp(classes, hidden=hidden_sizes)
    data = fnn.load_dataset("mnist", mnist.folder)
    images, labels = jax.device_put((data.train_images, data.train_labels))
    image_shape = images.shape[1:]

    @jax.jit
    def epoch(learning_rate, train_state, images, labels, number):
        train_step = fnn.make_train_step(net, fnn.cross_entropy, optax.adam(learning_rate), keep_finite=False)
        return fnn.make_epoch(train_step, BATCH_SIZE)(train_state, images, labels, number)

    @jax.jit
    def start(learning_rate, key):
        return fnn.create_train_state(net, optax.adam(learning_rate), key, image_shape)

    rates = [jnp.float32(member.learning_rate) for member in population]
    keys = [jax.random.key(member.seed) for member in population]
    train_states = [start(rate, key) for rate, key in zip(rates, keys, strict=True)]
    number = 0
    executor = ThreadPoolExecutor(workers)

    def train_member(learning_rate, train_state):
        return jax.block_until_ready(epoch(learning_rate, train_state, images, labels, jnp.int32(number)))[0]

    def train_epoch() -> None:
        nonlocal train_states, number
        train_states = list(executor.map(train_member, rates, train_states))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        return np.stack([net.apply(each.params, each.state, images, train=False)[0] for each in train_states])

    return Peer(train_epoch, predict, models_a_round=len(population))
