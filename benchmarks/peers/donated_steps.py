"""Rounds of jitted steps with donated state over given batches of tokens, for JAX libraries without a loop."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
import optax

from benchmarks import language

Params = TypeVar("Params")


def rounds_of_steps(
    network: Callable[[Params, jax.Array], jax.Array], params: Params, tokens: np.ndarray
) -> Callable[[], jax.Array]:
    """A function that trains on all batches once. `network` gives the logits of a batch of tokens."""
    optimizer = optax.adam(language.LEARNING_RATE)

    def loss(params: Params, batch: jax.Array) -> jax.Array:
        logits = network(params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def step(params, optimizer_state, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state, value

    step = jax.jit(step, donate_argnums=(0, 1))
    state = params, optimizer.init(params)
    batches = jax.device_put(list(tokens))

    def train_round() -> jax.Array:
        nonlocal state
        for batch in batches:
            *state, value = step(*state, batch)
        return value

    return train_round
