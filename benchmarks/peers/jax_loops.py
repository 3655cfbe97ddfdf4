"""Python loops over jitted steps, for JAX libraries without a training loop; compiling anew, and memory of programs."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np
import optax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.stages import Compiled

from benchmarks.data import Mnist, Sonnets, share_of_right_characters
from benchmarks.peers import Peer, shuffled_batches
from benchmarks.peers.population import shuffled_rows
from benchmarks.w1 import BATCH_SIZE
from benchmarks.w2 import Member
from benchmarks.w6 import LanguageSizes


def mean_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def python_loop(
    step: Callable[[Any, np.ndarray, np.ndarray], Any],
    state: Any,
    logits: Callable[[Any, np.ndarray], jax.Array],
    mnist: Mnist,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> Peer:
    """A peer that calls `state = step(state, images, labels)` for each batch, and waits at the end of the epoch."""
    generator = np.random.default_rng(seed)

    def train_epoch() -> None:
        nonlocal state
        for images, labels in shuffled_batches(generator, mnist.train_images, mnist.train_labels, batch_size):
            state = step(state, images, labels)
        jax.block_until_ready(state)

    return Peer(train_epoch, lambda images: np.asarray(logits(state, images)))


def donated_loop(
    network: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    workload: ModuleType,
    image_shape: tuple[int, ...],
    mnist: Mnist,
    seed: int,
) -> Peer:
    """A peer that calls a jitted step for each batch, with donated state, and images of a given shape."""
    optimizer = optax.adam(workload.LEARNING_RATE)
    logits = jax.jit(lambda params, images: network(params, images.reshape(-1, *image_shape)))

    def step(state, images, labels):
        params, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(logits(params, images), labels))
        updates, optimizer_state = optimizer.update(gradient(params), optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state

    return python_loop(
        step=jax.jit(step, donate_argnums=0),
        state=(params, optimizer.init(params)),
        logits=lambda state, images: logits(state[0], images),
        mnist=mnist,
        seed=seed,
        batch_size=workload.BATCH_SIZE,
    )


def population_loop(
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


def epochs_of_text(network: Network, params: Params, sizes: LanguageSizes, text: Sonnets, seed: int) -> Peer:
    """A peer of W6 or W7. NumPy draws the order of an epoch, and each batch is sent when its step begins."""
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


def forget_programs() -> None:
    """From now on, JAX compiles every program anew: it takes none from memory or from its cache on disk."""
    jax.clear_caches()
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # JAX reads the setting only once, unless it is reset


def bytes_at_once(compiled: Compiled) -> int:
    """Arguments, results and scratch memory. What is written in the place of an argument counts once."""
    sizes = compiled.memory_analysis()
    return (
        sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    )
