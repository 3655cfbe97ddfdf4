"""W2 with Flax NNX: an ensemble by `nnx.vmap` as in its documentation, and its arrays with `jax.vmap`."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import optax
from flax import nnx

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.flax_nnx import LIBRARIES as LIBRARIES
from benchmarks.peers.flax_nnx import update
from benchmarks.peers.population_loop import keys_and_rates, python_loop
from benchmarks.w1 import LEARNING_RATE
from benchmarks.w2 import members, sizes


def models_and_optimizers(
    keys: jax.Array, learning_rates: jax.Array, hidden: Sequence[int]
) -> tuple[nnx.Sequential, nnx.Optimizer]:
    """All models and their optimizers, with a leading axis for the models. Each has its own learning rate."""

    @nnx.vmap
    def make(key):
        rngs = nnx.Rngs(key)
        layers = [layer for pair in pairwise(sizes(hidden)) for layer in (nnx.Linear(*pair, rngs=rngs), nnx.relu)]
        model = nnx.Sequential(*layers[:-1])
        adam = optax.inject_hyperparams(optax.adam)(learning_rate=LEARNING_RATE)
        return model, nnx.Optimizer(model, adam, wrt=nnx.Param)

    model, optimizer = make(keys)
    optimizer.opt_state.hyperparams["learning_rate"][...] = learning_rates
    return model, optimizer


def each_logits(graph, state, images) -> jax.Array:
    return jax.lax.map(lambda state: nnx.merge(graph, state)[0](images), state)


def tutorial(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """The step with `nnx.vmap` and `nnx.jit`."""
    population = members(seed, models)
    model, optimizer = models_and_optimizers(*keys_and_rates(population), hidden)
    jitted = nnx.jit(nnx.vmap(update))

    def step(_, rows):
        jitted(model, optimizer, mnist.train_images[rows], mnist.train_labels[rows])
        return model, optimizer

    return python_loop(
        step=step,
        state=(model, optimizer),
        logits=lambda state, images: each_logits(*nnx.split(state), images),
        population=population,
        images=len(mnist.train_images),
    )


def functional(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """Split into a graph and arrays once. The jitted step donates the arrays, and gathers its batches on the device."""
    population = members(seed, models)
    graph, state = nnx.split(models_and_optimizers(*keys_and_rates(population), hidden))
    train_images, train_labels = jax.device_put((mnist.train_images, mnist.train_labels))

    def step(state, rows, images, labels):
        model, optimizer = nnx.merge(graph, state)
        update(model, optimizer, images[rows], labels[rows])
        return nnx.state((model, optimizer))

    step = jax.jit(jax.vmap(step, in_axes=(0, 0, None, None)), donate_argnums=0)
    return python_loop(
        step=lambda state, rows: step(state, rows, train_images, train_labels),
        state=state,
        logits=lambda state, images: each_logits(graph, state, images),
        population=population,
        images=len(mnist.train_images),
    )
