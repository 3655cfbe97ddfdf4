"""W2: many models of W1's recipe at once, each with its own seed, order of images and learning rate.

`PEERS` lists the peers. Each is a function `(mnist, seed, models, hidden) -> Peer` of the number of models and the
sizes of their hidden layers. Everything else is as in `benchmarks.w1`. A round is one epoch of every model. Peers that
train one model after another train only `FEW` models, in each process if they have several.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import w1
from benchmarks.w1 import BATCH_SIZE as BATCH_SIZE
from benchmarks.w1 import PRECISION as PRECISION
from benchmarks.w1 import STEPS as STEPS

RECIPE = "W2: W1's recipe for many models, each with its own seed, order and learning rate"
UNIT = "s/model-epoch"
SCALE = 1  # converts seconds per epoch of one model to UNIT
EPOCHS_A_TURN = 1
OPTIONS = {"models": 32, "hidden": [128, 64]}

FEW = 4
"""The number of models if they are trained one after another. More models would not change the time of each."""


class Member(NamedTuple):
    """The settings in which the models differ."""

    seed: int
    learning_rate: float


def members(seed: int, models: int, most: int | None = None) -> list[Member]:
    """Models with learning rates from 10^-1/2 to 10^1/2 times that of W1; at most `most` of them, evenly spaced."""
    rates = w1.LEARNING_RATE * np.logspace(-0.5, 0.5, models)
    chosen = np.linspace(0, models - 1, min(models, most or models)).round().astype(int)
    return [Member(seed + int(number), float(rates[number])) for number in chosen]


def sizes(hidden: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the network, from its input to its output."""
    inputs, *_, outputs = w1.SIZES
    return (inputs, *hidden, outputs)


PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:threads",
    "functional_nn_solo": "benchmarks.peers.functional_nn:solo",
    "functional_nn_mapped": "benchmarks.peers.functional_nn:mapped",
    "pytorch": "benchmarks.peers.pytorch:population_in_turn",
    "pytorch_processes": "benchmarks.peers.pytorch:population_processes",
    "torch_func": "benchmarks.peers.pytorch:population_ensemble",
    "equinox": "benchmarks.peers.equinox:population_tutorial",
    "equinox_tuned": "benchmarks.peers.equinox:population_partitioned",
    "flax_nnx_tuned": "benchmarks.peers.flax_nnx:population_functional",
    "stax_processes": "benchmarks.peers.stax:population_processes",
    "jax_vmap_scan": "benchmarks.peers.plain_jax:population",
}

NAMES = {
    "functional_nn": "functional_nn, a thread per core",
    "functional_nn_solo": "functional_nn, one model after another",
    "functional_nn_mapped": "functional_nn, all models in one program",
    "pytorch": "PyTorch, one model after another",
    "pytorch_processes": "PyTorch, a process per core",
    "torch_func": "PyTorch, `torch.func` and `vmap`",
    "equinox": "Equinox, the tutorial's ensemble by `filter_vmap`",
    "equinox_tuned": "Equinox, `vmap`, partitioned once",
    "flax_nnx_tuned": "Flax NNX, `vmap` of a functional step",
    "stax_processes": "stax, a process per core",
    "jax_vmap_scan": "plain JAX, `vmap` of one `jax.lax.scan`",
}
SHOWN = (
    "functional_nn",
    "functional_nn_solo",
    "equinox_tuned",
    "equinox",
    "flax_nnx_tuned",
    "stax_processes",
    "pytorch",
    "pytorch_processes",
    "torch_func",
    "jax_vmap_scan",
)
WORK, OURS, PYTORCH = "32 networks at once, an epoch of one", "functional_nn", "pytorch"
