"""W1 with Equinox and Optax: `filter_jit` as in its MNIST example, and a partitioned model with plain `jit`."""

from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import optax

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loop import mean_cross_entropy, python_loop
from benchmarks.w1 import LEARNING_RATE, SIZES

LIBRARIES = ("equinox", "jax", "jaxlib", "optax")


def network(key: jax.Array, sizes: Sequence[int] = SIZES) -> eqx.nn.Sequential:
    keys, relu = jax.random.split(key, len(sizes) - 1), eqx.nn.Lambda(jax.nn.relu)
    linear = [eqx.nn.Linear(*pair, key=key) for key, pair in zip(keys, pairwise(sizes), strict=True)]
    return eqx.nn.Sequential([layer for each in linear for layer in (each, relu)][:-1])


def update(optimizer: optax.GradientTransformation, state, images, labels):
    """The step of Equinox's examples, before any `jit`."""
    model, optimizer_state = state
    gradient = eqx.filter_grad(lambda model: mean_cross_entropy(jax.vmap(model)(images), labels))
    updates, optimizer_state = optimizer.update(gradient(model), optimizer_state, model)
    return eqx.apply_updates(model, updates), optimizer_state


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """A step under `filter_jit`."""
    model, optimizer = network(jax.random.key(seed)), optax.adam(LEARNING_RATE)
    return python_loop(
        step=eqx.filter_jit(lambda state, images, labels: update(optimizer, state, images, labels)),
        state=(model, optimizer.init(eqx.filter(model, eqx.is_array))),
        logits=lambda state, images: jax.vmap(state[0])(images),
        mnist=mnist,
        seed=seed,
    )


def partitioned(mnist: Mnist, seed: int) -> Peer:
    """Arrays are separated from the rest once, so plain `jit` with donation works, with less Python work per step."""
    arrays, static = eqx.partition(network(jax.random.key(seed)), eqx.is_array)
    optimizer = optax.adam(LEARNING_RATE)

    def step(state, images, labels):
        arrays, optimizer_state = state
        model, optimizer_state = update(optimizer, (eqx.combine(arrays, static), optimizer_state), images, labels)
        return eqx.filter(model, eqx.is_array), optimizer_state

    return python_loop(
        step=jax.jit(step, donate_argnums=0),
        state=(arrays, optimizer.init(arrays)),
        logits=lambda state, images: jax.vmap(eqx.combine(state[0], static))(images),
        mnist=mnist,
        seed=seed,
    )
