"""functional_nn: every model's epoch is the programs of `sweep`, compiled once, its learning rate an argument."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, available_cores
from benchmarks.peers.functional_nn import LIBRARIES as LIBRARIES
from benchmarks.w2 import BATCH_SIZE, FEW, PRECISION, Member, members, sizes
from functional_nn.sweeps.execution.population import UNROLL
from functional_nn.training.optimizers.precision import as_precision
from functional_nn.training.programs.compile import compiled
from functional_nn.training.programs.recipe import RecipeOf


def threads(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """A thread a core; each takes the next model and trains its epoch."""
    return epochs_of_sweep(members(seed, models), available_cores(), mnist, hidden)


def solo(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One model after another, each with the whole machine."""
    return epochs_of_sweep(members(seed, models, FEW), 1, mnist, hidden)


def epochs_of_sweep(population: Sequence[Member], workers: int, mnist: Mnist, hidden: Sequence[int]) -> Peer:
    """So many models at a time."""
    _, *hidden_sizes, classes = sizes(hidden)
    net = fnn.models.mlp(classes, hidden=hidden_sizes)
    data = fnn.load_dataset("mnist", mnist.folder)
    split = fnn.data.Split(data.train_images, data.train_labels, data.test_images, data.test_labels)
    recipe_of = RecipeOf(net, lambda h: optax.adam(h["learning_rate"]), fnn.cross_entropy, None)
    rates = [{"learning_rate": jnp.float32(member.learning_rate)} for member in population]
    programs, _ = compiled(recipe_of, rates[0], BATCH_SIZE, as_precision(PRECISION), split, unroll=UNROLL)
    images, labels = jax.device_put((split.train_x, split.train_labels))
    image_shape = images.shape[1:]
    train_states = [
        programs.start(rate, jax.random.key(member.seed)) for rate, member in zip(rates, population, strict=True)
    ]
    number = 0
    executor = ThreadPoolExecutor(workers)

    def train_member(learning_rate, train_state):
        return jax.block_until_ready(programs.epoch(learning_rate, train_state, images, labels, jnp.int32(number)))[0]

    def train_epoch() -> None:
        nonlocal train_states, number
        train_states = list(executor.map(train_member, rates, train_states))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        return np.stack([net.apply(each.params, each.state, images, train=False)[0] for each in train_states])

    return Peer(train_epoch, predict, models_a_round=len(population))
