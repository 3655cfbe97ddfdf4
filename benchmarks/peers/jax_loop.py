"""A Python loop over a jitted step, the same for all JAX libraries without a training loop of their own."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, shuffled_batches
from benchmarks.w1 import BATCH_SIZE


def mean_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def python_loop(
    step: Callable[[Any, np.ndarray, np.ndarray], Any],
    state: Any,
    logits: Callable[[Any, np.ndarray], jax.Array],
    mnist: Mnist,
    seed: int,
) -> Peer:
    """A peer that calls `state = step(state, images, labels)` for each batch, and waits at the end of the epoch."""
    generator = np.random.default_rng(seed)

    def train_epoch() -> None:
        nonlocal state
        for images, labels in shuffled_batches(generator, mnist.train_images, mnist.train_labels, BATCH_SIZE):
            state = step(state, images, labels)
        jax.block_until_ready(state)

    return Peer(train_epoch, lambda images: np.asarray(logits(state, images)))
