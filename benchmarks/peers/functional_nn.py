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
from functional_nn.training.epoch import EpochResult
from functional_nn.training.precision import as_precision
from functional_nn.training.programs import ProgramSpec, shapes_of
from functional_nn.training.recipe import Recipe
from functional_nn.training.run_programs import Programs, compiled_programs

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def fit(mnist: Mnist, seed: int) -> Peer:
    """The epoch of `fit`."""
    _, *hidden, classes = w1.SIZES
    return epochs_of_fit(fnn.models.mlp(classes, hidden=hidden), w1, mnist, seed)


def epochs_of_fit(net: fnn.Layer, workload: ModuleType, mnist: Mnist, seed: int, devices: int = 1) -> Peer:
    """The programs that `fit` runs for a network, with the learning rate and the batch size of a workload.

    `devices` is the number of devices into which the CPU is divided.
    """
    data = load(mnist.folder)
    split = Split(data.train_images, data.train_labels, data.test_images, data.test_labels)
    training = Training(net, split, workload.LEARNING_RATE, workload.BATCH_SIZE, seed, workload.PRECISION, devices)
    image_shape = data.train_images.shape[1:]
    return Peer(
        train_epoch=lambda: jax.block_until_ready(training.epoch()),
        predict=lambda images: training.logits(images.reshape(-1, *image_shape)),
    )


class Training:
    """The programs that `fit` runs for a network, on data that are on the device, and the state of the training."""

    def __init__(
        self,
        net: fnn.Layer,
        split: Split,
        learning_rate: float,
        batch_size: int,
        seed: int,
        precision: str = "float32",
        devices: int = 1,
    ):
        if devices > 1:  # this cannot be set after JAX has started
            jax.config.update("jax_num_cpu_devices", devices)
        devices = min(devices, len(jax.local_devices()))
        recipe = Recipe(net, fnn.cross_entropy, optax.adam(learning_rate))
        spec = ProgramSpec(recipe, batch_size, as_precision(precision), data=shapes_of(split), devices=devices)
        compiled, _ = compiled_programs(spec)
        self.net, self.programs = net, Programs(compiled)
        self.inputs, self.labels = jax.device_put((split.train_x, split.train_labels), compiled.sharding)
        self.train_state = self.programs.start(jax.random.key(seed))
        self.epochs = 0

    def epoch(self) -> EpochResult:
        """Trains one epoch, and returns its loss and what belongs to it, which may not be computed yet."""
        number = jnp.int32(self.epochs)
        self.train_state, result = self.programs.epoch(self.train_state, self.inputs, self.labels, number)
        self.epochs += 1
        return result

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self.net.apply(self.train_state.params, self.train_state.state, inputs, train=False)[0])
