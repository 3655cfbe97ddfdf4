"""W2 with Equinox: an ensemble by `filter_vmap` as in its documentation, and its arrays with plain `jit`."""

from collections.abc import Sequence

import equinox as eqx
import jax
import optax

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.equinox import LIBRARIES as LIBRARIES
from benchmarks.peers.equinox import network, update
from benchmarks.peers.population_loop import keys_and_rates, python_loop
from benchmarks.w2 import members, sizes


def member_step(state, learning_rate, images, labels):
    """The step of one model."""
    return update(optax.adam(learning_rate), state, images, labels)


def start(keys: jax.Array, learning_rates: jax.Array, hidden: Sequence[int]):
    """All models and the states of their optimizers, with a leading axis for the models."""

    @eqx.filter_vmap
    def make_ensemble(key, learning_rate):
        model = network(key, sizes(hidden))
        return model, optax.adam(learning_rate).init(eqx.filter(model, eqx.is_array))

    return make_ensemble(keys, learning_rates)


def each_logits(arrays, static, images) -> jax.Array:
    return jax.lax.map(lambda arrays: jax.vmap(eqx.combine(arrays, static))(images), arrays)


def tutorial(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """The step with `filter_vmap` and `filter_jit`."""
    population = members(seed, models)
    keys, rates = keys_and_rates(population)
    step = eqx.filter_jit(eqx.filter_vmap(member_step))
    return python_loop(
        step=lambda state, rows: step(state, rates, mnist.train_images[rows], mnist.train_labels[rows]),
        state=start(keys, rates, hidden),
        logits=lambda state, images: each_logits(*eqx.partition(state[0], eqx.is_array), images),
        population=population,
        images=len(mnist.train_images),
    )


def partitioned(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """Arrays are separated from the rest once. The jitted step donates them, and gathers its batches on the device."""
    population = members(seed, models)
    keys, rates = keys_and_rates(population)
    state, static = eqx.partition(start(keys, rates, hidden), eqx.is_array)
    train_images, train_labels = jax.device_put((mnist.train_images, mnist.train_labels))

    def step(state, learning_rate, rows, images, labels):
        stepped = member_step(eqx.combine(state, static), learning_rate, images[rows], labels[rows])
        return eqx.filter(stepped, eqx.is_array)

    step = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None, None)), donate_argnums=0)
    return python_loop(
        step=lambda state, rows: step(state, rates, rows, train_images, train_labels),
        state=state,
        logits=lambda state, images: each_logits(state[0], static[0], images),
        population=population,
        images=len(mnist.train_images),
    )
