"""A Python loop over a jitted step for many models, for JAX libraries without a training loop of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.peers import Peer
from benchmarks.peers.population import shuffled_rows
from benchmarks.w2 import Member


def python_loop(
    step: Callable[[Any, np.ndarray], Any],
    state: Any,
    logits: Callable[[Any, np.ndarray], jax.Array],
    population: Sequence[Member],
    images: int,
) -> Peer:
    """Calls `state = step(state, rows)` for each batch of `images` images, with rows for each model."""
    generators = [np.random.default_rng(member.seed) for member in population]

    def train_epoch() -> None:
        nonlocal state
        for rows in shuffled_rows(generators, images):
            state = step(state, rows)
        jax.block_until_ready(state)

    return Peer(train_epoch, lambda images: np.asarray(logits(state, images)), models_a_round=len(population))


def keys_and_rates(population: Sequence[Member]) -> tuple[jax.Array, jax.Array]:
    """The random keys and the learning rates of all models."""
    seeds, rates = (np.array(values) for values in zip(*population, strict=True))
    return jax.vmap(jax.random.key)(seeds), jax.numpy.asarray(rates, np.float32)
