"""The operator tests that the package ``onnx`` ships, and why some of them are not for us."""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra 'conformance' is not installed")


class Node(NamedTuple):
    """One operator test: the operator, its attributes, and its inputs and expected outputs by name."""

    name: str
    operator: str
    attributes: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    model: Any


@functools.cache
def nodes() -> dict[str, list[Node]]:
    """All tests of one node, by operator. Those of a function's body (``…_expanded``) have the same data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the making of the expected outputs overflows in places
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases()
    found: dict[str, list[Node]] = {}
    for case in cases:
        if case.name.endswith("_expanded") or "_expanded_ver" in case.name:
            continue
        (node,) = case.model.graph.node
        given, expected = case.data_sets[0]
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        inputs, outputs = _by_name(schema.inputs, node.input, given), _by_name(schema.outputs, node.output, expected)
        found.setdefault(node.op_type, []).append(
            Node(case.name, node.op_type, attributes, inputs, outputs, case.model)
        )
    return found


def _by_name(parameters, used, values):
    """Values under the names that the operator's definition gives them; an empty name is one left out."""
    there = [parameter.name for parameter, name in zip(parameters, used, strict=False) if name]
    return dict(zip(there, values, strict=False))


def _is(attribute, *values):
    return lambda node: node.attributes.get(attribute, values[0]) not in values


def _has(name):
    return lambda node: name in node.inputs


def _dilated(node):
    return any(d != 1 for d in node.attributes.get("dilations", ()))


def _first_axis(node):
    return node.attributes.get("axis", -1) % node.inputs["X"].ndim == 0


REASONS = {
    "LSTM": [("no peepholes", _has("P"))],
    "MaxPool": [
        ("no ceil_mode", _is("ceil_mode", 0)),
        ("no dilation in pooling", _dilated),
        ("integers are not pooled", lambda node: node.inputs["X"].dtype == np.uint8),
    ],
    "AveragePool": [("no ceil_mode", _is("ceil_mode", 0)), ("no dilation in pooling", _dilated)],
    "NegativeLogLikelihoodLoss": [("its inputs are no log-probabilities, which ours demands", lambda node: True)],
    "Selu": [("α and λ are fixed", lambda node: bool(node.attributes))],
    "HardSigmoid": [("PyTorch's slope of 1/6, not 1/5", lambda node: True)],
    "PRelu": [("a slope for each channel only", lambda node: node.inputs["slope"].ndim > 1)],
    "Gemm": [
        ("no factors", lambda node: any(node.attributes.get(factor, 1.0) != 1.0 for factor in ("alpha", "beta"))),
        ("x is not transposed", _is("transA", 0)),
        (
            "a bias for each output only",
            lambda node: "C" in node.inputs and node.inputs["C"].shape[:-1] not in ((), (1,)),
        ),
    ],
    "Flatten": [("all axes but the batch's only", lambda node: node.attributes.get("axis", 1) not in (1, -3))],
    "Dropout": [
        (
            "other random numbers",
            lambda node: bool(node.inputs.get("training_mode", False)) and node.inputs["ratio"] != 0,
        ),
    ],
    "Identity": [("arrays only", lambda node: not isinstance(node.inputs["input"], np.ndarray))],
}
"""Why a test of an operator is skipped: the first reason that holds."""


def why_not(node: Node) -> str | None:
    """The reason to skip a test, None for one that we run."""
    return next((reason for reason, holds in REASONS.get(node.operator, ()) if holds(node)), None)
