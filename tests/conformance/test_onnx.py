"""Our layers give what ONNX's operators give, on the operator tests that ONNX ships."""

import numpy as np
import pytest
from tests.conformance.onnx_adapters import ADAPTERS
from tests.conformance.onnx_nodes import REASONS, nodes, why_not

TOLERANCES = {"float32": (1e-5, 5e-6), "float16": (2e-3, 1e-3), "bfloat16": (2e-2, 1e-2)}
"""Relative and absolute. Half precision is rounded at other places."""

RUN = {
    **{"RNN": 6, "LSTM": 5, "GRU": 6, "Conv": 6, "ConvTranspose": 11, "MaxPool": 12, "AveragePool": 12},
    **{"GlobalAveragePool": 2, "GlobalMaxPool": 2, "BatchNormalization": 4, "LayerNormalization": 19},
    **{"RMSNormalization": 19, "GroupNormalization": 2, "InstanceNormalization": 2, "Attention": 93},
    **{"Softmax": 7, "LogSoftmax": 7, "SoftmaxCrossEntropyLoss": 34, "NegativeLogLikelihoodLoss": 0, "Gemm": 6},
    **{"PRelu": 1, "Flatten": 3, "Dropout": 8, "Identity": 1, "Sigmoid": 2, "Tanh": 2, "Relu": 1, "LeakyRelu": 3},
    **{"Elu": 3, "Selu": 1, "Softplus": 2, "Softsign": 2, "Mish": 1, "HardSwish": 1, "Swish": 1, "HardSigmoid": 0},
    **{"Gelu": 4},
}
"""How many tests of each operator run; a newer ONNX may have more."""


def within(ours, theirs):
    """Whether all numbers agree in the tolerance of their type."""
    relative, absolute = TOLERANCES[str(theirs.dtype)]
    ours, theirs = (np.asarray(value).astype(np.float64) for value in (ours, theirs))
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=relative, atol=absolute)


@pytest.mark.parametrize("operator", ADAPTERS)
def test_operator_agrees(operator):
    """All of its tests run, but those that have a reason not to."""
    run = [node for node in nodes()[operator] if not why_not(node)]
    assert len(run) >= RUN[operator]
    for node in run:
        found = ADAPTERS[operator](node.attributes, node.inputs)
        first, *_ = node.outputs
        assert first in found or "Y_h" in found, node.name
        for name in found.keys() & node.outputs.keys():
            assert within(found[name], node.outputs[name]), (node.name, name)


def test_nothing_is_left_out_in_silence():
    """Every operator has its number, and every reason to skip a test is the reason for one."""
    assert list(RUN) == list(ADAPTERS)
    for operator, reasons in REASONS.items():
        given = {why_not(node) for node in nodes()[operator]}
        assert given - {None} == {reason for reason, _ in reasons}, operator


def test_a_wrong_layout_is_seen():
    """The comparison tells images whose axes are exchanged from those that are not."""
    (node,) = (node for node in nodes()["AveragePool"] if node.name == "test_averagepool_2d_default")
    y = ADAPTERS["AveragePool"](node.attributes, node.inputs)["Y"]
    assert within(y, node.outputs["Y"])
    assert not within(np.swapaxes(y, 2, 3), node.outputs["Y"])
