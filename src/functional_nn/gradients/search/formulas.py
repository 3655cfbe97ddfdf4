"""The search for the worst inputs of the formulas in this package: activations, and losses of one example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.activations.table import ACTIVATIONS
from functional_nn.core.errors import InputError
from functional_nn.core.suggestions import suggest
from functional_nn.gradients.cases import LOSSES, LossCase
from functional_nn.gradients.search.computed import HandVJP
from functional_nn.gradients.search.exact import VectorFunction
from functional_nn.gradients.search.worst import TYPES, VECTOR_SIZE, Worst, worst


class Searched(NamedTuple):
    """The function that belongs to a name. The fields are arguments of ``worst``."""

    function: VectorFunction
    hand_vjp: HandVJP
    size: int | None


def search_formulas(names: Sequence[str], *, seconds: float, dtype: str | None = None) -> Iterator[Worst]:
    """Searches the formulas with these names, one after the other.

    Args:
        names: activations and losses; none for all activations.
        seconds: how long all searches may take together, without compiling.
        dtype: the only type; None for float64 and float32.

    Raises:
        InputError: a name that is not known.
    """
    known = _known()
    for name in names:
        if name not in known:
            raise InputError("names", "activations or losses, for a search", repr(name), suggest(name, known))
    chosen = list(dict.fromkeys(names)) or list(ACTIVATIONS)
    for name in chosen:
        function, hand_vjp, size = known[name]
        found = worst(
            function,
            hand_vjp=hand_vjp,
            size=size,
            dtypes=TYPES if dtype is None else [dtype],
            seconds=seconds / len(chosen),
        )
        yield Worst(name, found.rows, found.evaluations, found.seconds, found.refused)


def _known() -> dict[str, Searched]:
    activations = {name: _activation(activation) for name, activation in ACTIVATIONS.items()}
    return activations | {case.name: _loss(case) for case in LOSSES if np.ndim(case.y) == 2}


def _activation(activation: Activation | VectorActivation) -> Searched:
    size = VECTOR_SIZE if isinstance(activation, VectorActivation) else None
    return Searched(activation, activation.pullback, size)


def _loss(case: LossCase) -> Searched:
    """The loss of one example as a function of its output vector, with the labels of the case's first example."""
    labels = jax.tree.map(lambda leaf: leaf[:1], case.labels)
    return Searched(partial(_value, case, labels), partial(_hand_vjp, case, labels), np.shape(case.y)[1])


def _in_type_of(y: jax.Array, labels: np.ndarray) -> jax.Array:
    is_floating = np.issubdtype(labels.dtype, np.floating)
    return jnp.asarray(labels, y.dtype if is_floating else None)


def _value(case: LossCase, labels: np.ndarray, y: jax.Array) -> jax.Array:
    return case.loss(y[None], _in_type_of(y, labels))


def _hand_vjp(case: LossCase, labels: np.ndarray, y: jax.Array, bar: jax.Array) -> jax.Array:
    return bar * case.loss.gradient(y[None], _in_type_of(y, labels))[0]
