"""Which cases are in every run of the tests. The others run with ``-m slow``.

Networks of several layers are slow to compile, and made of layers that are cases of their own. A program that is
compiled for each of a hundred cases takes a minute, so every run has one case of each kind.
"""

from collections.abc import Iterable
from typing import Any

import pytest

import functional_nn as fnn

LARGE = frozenset(
    (
        *("transformer", "transformer_block", "lenet", "cnn", "deep_cnn", "resnet"),
        *("residual_block", "language_model", "recurrent_stacked_masked", "gru_model", "lstm_model", "rnn_model"),
    )
)


def large_are_slow(cases: Iterable[Any]) -> dict[str, Any]:
    """The arguments of ``pytest.mark.parametrize``, with readable names; large networks run with ``-m slow``.

    Smaller networks, such as ``mlp_with_all``, are in every run.
    """
    parameters = [
        pytest.param(case, id=case.name, marks=pytest.mark.slow if case.name in LARGE else ()) for case in cases
    ]
    return {"argvalues": parameters}


ACTIVATIONS = frozenset(("tanh", "softmax", "log_softmax"))
"""Layers of the other activations are made alike, and ``test_derivatives_are_those_of_jax`` has every activation."""
KINDS = frozenset(
    (
        *("dense", "conv", "max_pool", "batch_norm", "dropout", "embedding", "lstm", "attention"),
        *("random_shift", "chain", "compose", "remat", "with_hand_vjp"),
    )
)
"""Layers whose residuals, states or keys are of different kinds."""


def variants_are_slow(cases: Iterable[Any], *, kinds_alone: bool = False) -> dict[str, Any]:
    """As ``large_are_slow``, and further cases of the same layer run with ``-m slow``, too.

    In every run are the first case of each layer, its first one with a mask, and each case with the name of a function
    of the package, such as ``remat``. With ``kinds_alone``, only ``KINDS`` are.
    """
    first: dict[tuple[str, bool], str] = {}
    for case in cases:
        first.setdefault((case.layer.name, "masked" in case.name), case.name)
    every_run = {*first.values(), *dir(fnn)} - LARGE - (fnn.activations.ACTIVATIONS.keys() - ACTIVATIONS)
    if kinds_alone:
        every_run = KINDS
    return {
        "argvalues": [
            pytest.param(case, id=case.name, marks=() if case.name in every_run else pytest.mark.slow) for case in cases
        ]
    }


def others_are_slow(values: Iterable[Any], every_run: Iterable[Any]) -> dict[str, Any]:
    """The arguments of ``pytest.mark.parametrize``: values. All but those of every run are run by ``-m slow``."""
    values, every_run = list(values), list(every_run)
    unknown = [value for value in every_run if value not in values]
    assert not unknown, unknown
    return {"argvalues": [pytest.param(one, marks=() if one in every_run else pytest.mark.slow) for one in values]}


def named_cases(cases: Iterable[Any]) -> dict[str, Any]:
    """The arguments of ``pytest.mark.parametrize``, with the names of the cases as identifiers."""
    return {"argvalues": cases, "ids": [case.name for case in cases]}
