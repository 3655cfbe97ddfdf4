"""ONNX's recurrent operators on random weights: those of its own tests are constant, so that gates look alike."""

import itertools

import numpy as np
import pytest
from tests.conformance import onnx_recurrent
from tests.conformance.onnx_nodes import nodes, onnx, why_not

reference = pytest.importorskip("onnx.reference", reason="the extra 'conformance' is not installed")

pytestmark = pytest.mark.usefixtures("float64")
TOLERANCE = 1e-12
OPERATORS = ("RNN", "LSTM", "GRU")
TIME, BATCH, IN, HIDDEN = 5, 3, 2, 4


def evaluated(operator, attributes, inputs):
    """What the reference evaluator of ONNX makes of one operator."""
    names = [parameter.name for parameter in onnx.defs.get_schema(operator).inputs]
    used = [name if name in inputs else "" for name in names]
    outputs = [parameter.name for parameter in onnx.defs.get_schema(operator).outputs]
    node = onnx.helper.make_node(operator, used, outputs, **attributes)
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in inputs]
    results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in outputs]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], operator, infos, results))
    return reference.ReferenceEvaluator(model).run(None, inputs)


def random_inputs(operator, *, directions, layout, states=True):
    random = np.random.default_rng(0)
    width = HIDDEN * len(onnx_recurrent.GATES[operator])
    shapes = {
        "X": (BATCH, TIME, IN) if layout else (TIME, BATCH, IN),
        "W": (directions, width, IN),
        "R": (directions, width, HIDDEN),
        "B": (directions, 2 * width),
    }
    state = (BATCH, directions, HIDDEN) if layout else (directions, BATCH, HIDDEN)
    shapes |= dict.fromkeys(onnx_recurrent.STATES[operator], state) if states else {}
    return {name: random.normal(size=shape) for name, shape in shapes.items()}


def worst(ours, theirs):
    assert [part.shape for part in ours] == [part.shape for part in theirs]
    return max(float(np.max(np.abs(a - b))) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("layout", [0, 1], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("operator", "options"),
    [("RNN", {}), ("LSTM", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1})],
    ids=["RNN", "LSTM", "GRU-reset-before", "GRU-reset-after"],
)
def test_operator_agrees_on_random_weights(operator, options, direction, layout):
    inputs = random_inputs(operator, directions=2 if direction == "bidirectional" else 1, layout=layout)
    attributes = {"hidden_size": HIDDEN, "direction": direction, "layout": layout, **options}
    theirs = evaluated(operator, attributes, inputs)
    ours = onnx_recurrent.run(operator, attributes | {"direction": direction.encode()}, inputs)
    assert worst(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("operator", OPERATORS)
def test_graphs_of_the_operator_tests_agree_on_random_weights(operator):
    """The graphs that ONNX ships, with unsymmetric numbers in place of their constants."""
    random = np.random.default_rng(0)
    for node in nodes()[operator]:
        if why_not(node):
            continue
        inputs = {name: random.normal(size=value.shape) for name, value in node.inputs.items()}
        names = [info.name for info in node.model.graph.input]
        evaluator = reference.ReferenceEvaluator(node.model)
        theirs = dict(
            zip(node.outputs, evaluator.run(None, dict(zip(names, inputs.values(), strict=True))), strict=True)
        )
        ours = dict(zip(("Y", "Y_h", "Y_c"), onnx_recurrent.run(operator, node.attributes, inputs), strict=False))
        for name, expected in theirs.items():
            assert np.max(np.abs(ours[name] - expected)) < TOLERANCE, (node.name, name)


@pytest.mark.parametrize(
    ("operator", "options"),
    [("LSTM", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1})],
    ids=["LSTM", "GRU-reset-before", "GRU-reset-after"],
)
def test_every_wrong_order_of_gates_is_seen_on_random_weights(operator, options):
    inputs = random_inputs(operator, directions=1, layout=0, states=False)
    theirs = evaluated(operator, {"hidden_size": HIDDEN, **options}, inputs)
    right = onnx_recurrent.GATES[operator]
    for order in itertools.permutations(right):
        ours = onnx_recurrent.run(operator, options, inputs, gates=order)
        assert (worst(ours, theirs) < 1e-2) == (order == right), order


def test_the_constant_weights_of_the_operator_tests_see_no_order_of_gates():
    """Why this file is needed: every order of an LSTM's gates passes ONNX's own test without biases."""
    (node,) = (node for node in nodes()["LSTM"] if node.name == "test_lstm_defaults")
    for order in itertools.permutations(range(4)):
        _, last, _ = onnx_recurrent.run("LSTM", node.attributes, node.inputs, gates=order)
        assert np.max(np.abs(last - node.outputs["Y_h"])) < 1e-6
