"""A Python loop over a jitted step with donated state, for JAX libraries without a training loop of their own."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, shuffled_batches
from benchmarks.peers.jax_loop import mean_cross_entropy


def python_loop(
    network: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    workload: ModuleType,
    image_shape: tuple[int, ...],
    mnist: Mnist,
    seed: int,
) -> Peer:
    """A peer that calls a jitted step for each batch, with donated state, and images of a given shape."""
    optimizer = optax.adam(workload.LEARNING_RATE)
    generator = np.random.default_rng(seed)
    logits = jax.jit(lambda params, images: network(params, images.reshape(-1, *image_shape)))

    def step(state, images, labels):
        params, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(logits(params, images), labels))
        updates, optimizer_state = optimizer.update(gradient(params), optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state

    step, state = jax.jit(step, donate_argnums=0), (params, optimizer.init(params))

    def train_epoch() -> None:
        nonlocal state
        for images, labels in shuffled_batches(generator, mnist.train_images, mnist.train_labels, workload.BATCH_SIZE):
            state = step(state, images, labels)
        jax.block_until_ready(state)

    return Peer(train_epoch, lambda images: np.asarray(logits(state[0], images)))
