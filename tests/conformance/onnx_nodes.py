"""The operator tests that the package ``onnx`` ships, and the comparison with what they expect."""

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


TOLERANCES = {"float32": (1e-5, 5e-6), "float16": (2e-3, 1e-3), "bfloat16": (2e-2, 1e-2)}
"""Relative and absolute. Half precision is rounded at other places."""


def check(node: Node, found: dict[str, Any]) -> None:
    """Each output that we have agrees with the expected one, in the tolerance of its type."""
    assert found.keys() & node.outputs.keys()
    for name in found.keys() & node.outputs.keys():
        relative, absolute = TOLERANCES[str(node.outputs[name].dtype)]
        ours, theirs = (np.asarray(value).astype(np.float64) for value in (found[name], node.outputs[name]))
        np.testing.assert_allclose(ours, theirs, rtol=relative, atol=absolute, err_msg=f"{node.name}: {name}")
