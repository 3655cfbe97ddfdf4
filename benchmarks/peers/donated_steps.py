"""Jitted steps of a language model with donated state in a Python loop, for JAX libraries without a loop."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
import optax

from benchmarks.peers import Peer
from benchmarks.sonnets import read_sonnets, share_of_right_characters
from benchmarks.w6 import LanguageSizes

Params = TypeVar("Params")
Network = Callable[[Params, jax.Array], jax.Array]
"""The logits of a batch of tokens."""


def step_and_state(network: Network, params: Params, learning_rate: float) -> tuple[Callable, tuple]:
    """A jitted step `(*state, batch) -> (*state, loss)` that reuses the memory of the state, and the first state."""
    optimizer = optax.adam(learning_rate)

    def loss(params: Params, batch: jax.Array) -> jax.Array:
        logits = network(params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def step(params, optimizer_state, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state, value

    return jax.jit(step, donate_argnums=(0, 1)), (params, optimizer.init(params))


def epochs_of_sonnets(network: Network, params: Params, sizes: LanguageSizes, seed: int) -> Peer:
    """A peer of W6. NumPy draws the order of an epoch, and each batch is sent when its step begins."""
    text = read_sonnets()
    step, state = step_and_state(network, params, sizes.learning_rate)
    generator = np.random.default_rng(seed)

    def train_epoch() -> None:
        nonlocal state
        for rows in generator.permutation(len(text.train)).reshape(-1, sizes.batch):
            *state, _ = step(*state, text.train[rows])
        jax.block_until_ready(state)

    def accuracy() -> float:
        logits = jax.jit(network)(state[0], text.test[:, :-1])
        return share_of_right_characters(np.asarray(logits), text.test)

    return Peer(train_epoch, None, accuracy=accuracy)
