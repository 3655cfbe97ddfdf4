"""Which cases are networks of several layers: slow to compile, and made of layers that are cases of their own."""

from collections.abc import Iterable
from typing import Any

import pytest

LARGE = frozenset(
    (
        *("transformer", "transformer_block", "lenet", "cnn", "deep_cnn", "resnet"),
        *("language_model", "recurrent_stacked_masked", "gru_model", "lstm_model", "rnn_model"),
    )
)


def large_are_slow(cases: Iterable[Any]) -> dict[str, Any]:
    """The arguments of ``pytest.mark.parametrize``, with readable names; large networks run with ``-m slow``.

    Smaller networks, such as ``mlp_with_all`` and ``residual_block``, are in every run.
    """
    parameters = [
        pytest.param(case, id=case.name, marks=pytest.mark.slow if case.name in LARGE else ()) for case in cases
    ]
    return {"argvalues": parameters}


def named_cases(cases: Iterable[Any]) -> dict[str, Any]:
    """The arguments of ``pytest.mark.parametrize``, with the names of the cases as identifiers."""
    return {"argvalues": cases, "ids": [case.name for case in cases]}
