"""An LSTM over `lax.scan`, differentiated automatically, in a jitted step: without a library, and Haiku's."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, shuffled_batches
from benchmarks.peers.jax_loop import mean_cross_entropy

LIBRARIES = ("dm-haiku", "jax", "jaxlib", "optax")


def python_loop(network: Callable[[Any, jax.Array], jax.Array], params: Any, mnist: Mnist, seed: int) -> Peer:
    """A jitted step for each batch, which writes over the state it is given."""
    optimizer, generator = optax.adam(w4.LEARNING_RATE), np.random.default_rng(seed)

    @jax.jit
    def logits(params, images):
        return network(params, images.reshape(-1, w4.ROWS, w4.COLUMNS))

    def step(state, images, labels):
        params, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(logits(params, images), labels))
        updates, optimizer_state = optimizer.update(gradient(params), optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state

    step, state = jax.jit(step, donate_argnums=0), (params, optimizer.init(params))

    def train_epoch() -> None:
        nonlocal state
        for images, labels in shuffled_batches(generator, mnist.train_images, mnist.train_labels, w4.BATCH_SIZE):
            state = step(state, images, labels)
        jax.block_until_ready(state)

    return Peer(train_epoch, lambda images: np.asarray(logits(state[0], images)))


def scan(mnist: Mnist, seed: int) -> Peer:
    """All gates in one product; the input's part for all rows before the scan."""
    keys = jax.random.split(jax.random.key(seed), 3)
    glorot, gates = jax.nn.initializers.glorot_uniform(), 4 * w4.HIDDEN_SIZE
    params = {
        "input": glorot(keys[0], (w4.COLUMNS, gates)),
        "hidden": glorot(keys[1], (w4.HIDDEN_SIZE, gates)),
        "bias": jnp.zeros(gates),
        "dense": glorot(keys[2], (w4.HIDDEN_SIZE, w4.CLASSES)),
        "dense_bias": jnp.zeros(w4.CLASSES),
    }

    def network(params, rows):
        def step(state, row):
            hidden, cell = state
            i, f, g, o = jnp.split(row + hidden @ params["hidden"], 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(cell), cell), None

        zeros = jnp.zeros((len(rows), w4.HIDDEN_SIZE))
        inputs = jnp.swapaxes(rows, 0, 1) @ params["input"] + params["bias"]
        (hidden, _), _ = jax.lax.scan(step, (zeros, zeros), inputs)
        return hidden @ params["dense"] + params["dense_bias"]

    return python_loop(network, params, mnist, seed)


def haiku_lstm(mnist: Mnist, seed: int) -> Peer:
    """`hk.dynamic_unroll` of `hk.LSTM`."""

    def forward(rows):
        lstm = hk.LSTM(w4.HIDDEN_SIZE)
        _, state = hk.dynamic_unroll(lstm, rows, lstm.initial_state(len(rows)), time_major=False)
        return hk.Linear(w4.CLASSES)(state.hidden)

    network = hk.without_apply_rng(hk.transform(forward))
    params = network.init(jax.random.key(seed), jnp.zeros((1, w4.ROWS, w4.COLUMNS)))
    return python_loop(network.apply, params, mnist, seed)
