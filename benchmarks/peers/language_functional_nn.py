"""The language model with functional_nn: the epoch of `fit`, differentiated by the formulas and by `jax.grad`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks import language
from benchmarks.peers.functional_nn import LIBRARIES as LIBRARIES
from functional_nn.data.dataset import Split
from functional_nn.training.optimizers.precision import as_precision
from functional_nn.training.programs.cache import compiled_programs
from functional_nn.training.programs.compile import Programs
from functional_nn.training.programs.recipe import Recipe
from functional_nn.training.programs.spec import ProgramSpec, shapes_of


def network() -> fnn.Layer:
    return fnn.models.language_model(
        language.COUNT,
        language.TIME,
        features=language.FEATURES,
        depth=language.DEPTH,
        heads=language.HEADS,
        positions="learned",
    ).layer


def by_hand(tokens: np.ndarray, seed: int) -> Callable[[], float]:
    """Differentiated by the formulas."""
    return epochs(fnn.with_hand_vjp(network()), tokens, seed)


def automatically(tokens: np.ndarray, seed: int) -> Callable[[], float]:
    """Differentiated by `jax.grad`."""
    return epochs(network(), tokens, seed)


def epochs(net: fnn.Layer, tokens: np.ndarray, seed: int) -> Callable[[], float]:
    """The program that `fit` runs for an epoch of these batches."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    split = Split(rows[:, :-1], rows[:, 1:], rows[:1, :-1], rows[:1, 1:])
    recipe = Recipe(net, fnn.cross_entropy, optax.adam(language.LEARNING_RATE))
    spec = ProgramSpec(recipe, language.BATCH, as_precision("float32"), data=shapes_of(split))
    compiled, _ = compiled_programs(spec)
    programs = Programs(compiled)
    inputs, labels = jax.device_put((split.train_x, split.train_labels), compiled.sharding)
    train_state = programs.start(jax.random.key(seed))
    number = 0

    def train_round() -> float:
        nonlocal train_state, number
        train_state, loss = programs.epoch(train_state, inputs, labels, jnp.int32(number))
        number += 1
        return loss

    return train_round
