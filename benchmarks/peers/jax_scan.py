"""W1 and W2 without a library: a whole epoch in one `lax.scan`, without tuning, for reference."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import w2
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loop import mean_cross_entropy
from benchmarks.peers.population_loop import keys_and_rates
from benchmarks.w1 import BATCH_SIZE, LEARNING_RATE, SIZES

LIBRARIES = ("jax", "jaxlib", "optax")


def start(key, learning_rate, sizes: Sequence[int]):
    """The parameters of a network, and the state of its optimizer."""
    keys = jax.random.split(key, len(sizes) - 1)
    glorot = jax.nn.initializers.glorot_uniform()
    params = [(glorot(key, pair), jnp.zeros(pair[1])) for key, pair in zip(keys, pairwise(sizes), strict=True)]
    return params, optax.adam(learning_rate).init(params)


def network(params, images):
    *hidden_layers, (weight, bias) = params
    for hidden_weight, hidden_bias in hidden_layers:
        images = jax.nn.relu(images @ hidden_weight + hidden_bias)
    return images @ weight + bias


def epoch(state, key, learning_rate, images, labels):
    """Shuffles the images, and trains on the full batches and on the remaining images."""
    optimizer = optax.adam(learning_rate)

    def step(state, batch):
        params, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(network(params, images[batch]), labels[batch]))
        updates, optimizer_state = optimizer.update(gradient(params), optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), None

    order = jax.random.permutation(key, len(images))
    full, rest = jnp.split(order, [len(order) // BATCH_SIZE * BATCH_SIZE])
    state, _ = jax.lax.scan(step, state, full.reshape(-1, BATCH_SIZE))
    return step(state, rest)[0] if rest.size else state


def whole_epoch(mnist: Mnist, seed: int) -> Peer:
    """One compiled program per epoch."""
    key_start, key = jax.random.split(jax.random.key(seed))
    state, compiled_epoch = start(key_start, LEARNING_RATE, SIZES), jax.jit(epoch)
    images, labels = jnp.asarray(mnist.train_images), jnp.asarray(mnist.train_labels)

    def train_epoch() -> None:
        nonlocal state, key
        key, key_epoch = jax.random.split(key)
        state = jax.block_until_ready(compiled_epoch(state, key_epoch, LEARNING_RATE, images, labels))

    return Peer(train_epoch, lambda images: np.asarray(network(state[0], images)))


def population(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """The same with `vmap`, for many models in one program."""
    keys, rates = keys_and_rates(w2.members(seed, models))
    state = jax.vmap(lambda key, rate: start(key, rate, w2.sizes(hidden)))(keys, rates)
    epochs = jax.jit(jax.vmap(epoch, in_axes=(0, 0, 0, None, None)), donate_argnums=0)
    images, labels = jnp.asarray(mnist.train_images), jnp.asarray(mnist.train_labels)
    number = 0

    def train_epoch() -> None:
        nonlocal state, number
        number += 1
        epoch_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
        state = jax.block_until_ready(epochs(state, epoch_keys, rates, images, labels))

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(jax.lax.map(lambda params: network(params, images), state[0]))

    return Peer(train_epoch, predict, models_a_round=models)
