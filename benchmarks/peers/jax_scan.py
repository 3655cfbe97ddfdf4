"""No library: a whole epoch in one `lax.scan`, nothing tuned. A line of reference, not a peer."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loop import mean_cross_entropy
from benchmarks.w1 import BATCH_SIZE, LEARNING_RATE, SIZES

LIBRARIES = ("jax", "jaxlib", "optax")


def whole_epoch(mnist: Mnist, seed: int) -> Peer:
    """One compiled program an epoch: permutation, steps over full batches, one step over what is left."""
    keys = jax.random.split(jax.random.key(seed), len(SIZES))
    glorot = jax.nn.initializers.glorot_uniform()
    params = [
        (glorot(key, (inputs, outputs)), jnp.zeros(outputs))
        for key, (inputs, outputs) in zip(keys[1:], pairwise(SIZES), strict=True)
    ]
    optimizer = optax.adam(LEARNING_RATE)

    def network(params, images):
        *hidden_layers, (weight, bias) = params
        for hidden_weight, hidden_bias in hidden_layers:
            images = jax.nn.relu(images @ hidden_weight + hidden_bias)
        return images @ weight + bias

    @jax.jit
    def epoch(state, key, images, labels):
        def step(state, batch):
            params, optimizer_state = state
            gradient = jax.grad(lambda params: mean_cross_entropy(network(params, images[batch]), labels[batch]))
            updates, optimizer_state = optimizer.update(gradient(params), optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), None

        order = jax.random.permutation(key, len(images))
        full, rest = jnp.split(order, [len(order) // BATCH_SIZE * BATCH_SIZE])
        state, _ = jax.lax.scan(step, state, full.reshape(-1, BATCH_SIZE))
        return step(state, rest)[0] if rest.size else state

    state, key = (params, optimizer.init(params)), keys[0]
    images, labels = jnp.asarray(mnist.train_images), jnp.asarray(mnist.train_labels)

    def train_epoch() -> None:
        nonlocal state, key
        key, key_epoch = jax.random.split(key)
        state = jax.block_until_ready(epoch(state, key_epoch, images, labels))

    return Peer(train_epoch, lambda images: np.asarray(network(state[0], images)))
