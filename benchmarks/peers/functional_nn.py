"""functional_nn: the compiled programs that `fit` runs, with the images as bytes on the device."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks import w1
from benchmarks.mnist import Mnist, load
from benchmarks.peers import Peer
from functional_nn.data.dataset import Split
from functional_nn.training.optimizers.precision import as_precision
from functional_nn.training.programs.cache import compiled_programs
from functional_nn.training.programs.compile import Programs
from functional_nn.training.programs.recipe import Recipe
from functional_nn.training.programs.spec import ProgramSpec, shapes_of

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def fit(mnist: Mnist, seed: int) -> Peer:
    """The epoch of `fit`."""
    _, *hidden, classes = w1.SIZES
    return epochs_of_fit(fnn.models.mlp(classes, hidden=hidden), w1, mnist, seed)


def epochs_of_fit(net: fnn.Layer, workload: ModuleType, mnist: Mnist, seed: int, devices: int = 1) -> Peer:
    """The programs that `fit` runs for a network, with the learning rate and the batch size of a workload.

    `devices` is the number of devices into which the CPU is divided.
    """
    jax.config.update("jax_num_cpu_devices", devices)
    devices = min(devices, len(jax.local_devices()))
    data = load(mnist.folder)
    split = Split(data.train_images, data.train_labels, data.test_images, data.test_labels)
    recipe = Recipe(net, fnn.cross_entropy, optax.adam(workload.LEARNING_RATE))
    precision = as_precision(workload.PRECISION)
    spec = ProgramSpec(recipe, workload.BATCH_SIZE, precision, data=shapes_of(split), devices=devices)
    compiled, _ = compiled_programs(spec)
    programs = Programs(compiled)
    images, labels = jax.device_put((split.train_x, split.train_labels), compiled.sharding)
    image_shape = images.shape[1:]
    train_state = programs.start(jax.random.key(seed))
    number = 0

    def train_epoch() -> None:
        nonlocal train_state, number
        train_state, _ = jax.block_until_ready(programs.epoch(train_state, images, labels, jnp.int32(number)))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        return np.asarray(net.apply(train_state.params, train_state.state, images, train=False)[0])

    return Peer(train_epoch, predict)
