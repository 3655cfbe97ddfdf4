"""functional_nn: the programs of `sweep`, compiled once, with the learning rate of each model as an argument."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks.mnist import Mnist, load
from benchmarks.peers import Peer, available_cores
from benchmarks.peers.functional_nn import LIBRARIES as LIBRARIES
from benchmarks.w2 import BATCH_SIZE, FEW, PRECISION, Member, members, sizes
from functional_nn.sweeps.static_groups import member_spec
from functional_nn.training.precision import as_precision
from functional_nn.training.programs import CompiledPrograms, shapes_of
from functional_nn.training.recipe import RecipeFunctions
from functional_nn.training.run_programs import Programs, compiled_programs
from functional_nn.training.state import TrainState


def threads(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One thread per core; each takes the next model and trains it for an epoch."""
    return epochs_of_sweep(members(seed, models), available_cores(), mnist, hidden)


def solo(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One model after another, each on all cores."""
    return epochs_of_sweep(members(seed, models, FEW), 1, mnist, hidden)


def mapped(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """All models in one program, by `vmap`, as `sweep` trains them on a GPU or a TPU."""
    population = members(seed, models)
    net, split, compiled = sweep_programs(mnist, hidden, workers=1, mapped=models)
    rates = jnp.asarray([member.learning_rate for member in population], jnp.float32)
    programs = Programs(compiled, {"learning_rate": rates})
    images, labels = jax.device_put((split.train_x, split.train_labels))
    image_shape = images.shape[1:]
    train_state = programs.start(jnp.stack([jax.random.key(member.seed) for member in population]))
    number = 0

    def train_epoch() -> None:
        nonlocal train_state, number
        train_state, _ = jax.block_until_ready(programs.epoch(train_state, images, labels, jnp.int32(number)))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        each = (train_state.params, train_state.state)
        return np.asarray(jax.lax.map(lambda one: net.apply(*one, images, train=False)[0], each))

    return Peer(train_epoch, predict, models_a_round=models)


def epochs_of_sweep(population: Sequence[Member], workers: int, mnist: Mnist, hidden: Sequence[int]) -> Peer:
    """Epochs of all models, with `workers` models at a time."""
    net, split, compiled = sweep_programs(mnist, hidden, workers)
    programs = [Programs(compiled, {"learning_rate": jnp.float32(member.learning_rate)}) for member in population]
    images, labels = jax.device_put((split.train_x, split.train_labels))
    image_shape = images.shape[1:]
    train_states = [one.start(jax.random.key(member.seed)) for one, member in zip(programs, population, strict=True)]
    number = 0
    executor = ThreadPoolExecutor(workers)

    def train_member(one: Programs, train_state: TrainState) -> TrainState:
        train_state, _ = jax.block_until_ready(one.epoch(train_state, images, labels, jnp.int32(number)))
        return train_state

    def train_epoch() -> None:
        nonlocal train_states, number
        train_states = list(executor.map(train_member, programs, train_states))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        return np.stack([net.apply(each.params, each.state, images, train=False)[0] for each in train_states])

    return Peer(train_epoch, predict, models_a_round=len(population))


def sweep_programs(
    mnist: Mnist, hidden: Sequence[int], workers: int, mapped: int | None = None
) -> tuple[fnn.Layer, fnn.data.Split, CompiledPrograms]:
    """The network, the data and the programs of a sweep, which `workers` threads run at the same time.

    One program trains `mapped` models; None: one model.
    """
    _, *hidden_sizes, classes = sizes(hidden)
    net = fnn.models.mlp(classes, hidden=hidden_sizes)
    data = load(mnist.folder)
    split = fnn.data.Split(data.train_images, data.train_labels, data.test_images, data.test_labels)
    make_recipe = RecipeFunctions(net, lambda h: optax.adam(h["learning_rate"]), fnn.cross_entropy, None)
    precision = as_precision(PRECISION)
    shapes = shapes_of(split)
    spec = member_spec(make_recipe, BATCH_SIZE, precision, shapes, ("learning_rate",), workers=workers, members=mapped)
    compiled, _ = compiled_programs(spec)
    return net, split, compiled
