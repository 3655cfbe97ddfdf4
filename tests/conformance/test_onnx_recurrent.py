"""ONNX's RNN, LSTM and GRU by our recurrent layers: how its gates, biases and axes are ordered.

ONNX: X (time, batch, in), W (directions, gates · hidden, in), R (directions, gates · hidden, hidden) and B (directions,
2 · gates · hidden), the biases of W before those of R; the gates of an LSTM are i, o, f, c, those of a GRU z, r, h.
Ours: (batch, time, in), one set of parameters for each direction, gates i, f, g, o and r, z, n. ONNX's c is g, its h is
n. ``linear_before_reset`` is ``reset_after``.

The weights of ONNX's own tests are constant, so that gates look alike. Its graphs therefore run on random weights, too.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tests.conformance.onnx_nodes import check, nodes, onnx

import functional_nn as fnn
from functional_nn.jaxprs.xla_options import quick_jit

reference = pytest.importorskip("onnx.reference", reason="the extra 'conformance' is not installed")

pytestmark = pytest.mark.usefixtures("float64")
TOLERANCE = 1e-12
OPERATORS = ("RNN", "LSTM", "GRU")
TIME, BATCH, IN, HIDDEN = 5, 3, 2, 4
OUTPUTS = ("Y", "Y_h", "Y_c")

GATES = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""Which of ONNX's gates stands first, second … here."""

STATES = {"RNN": ("initial_h",), "LSTM": ("initial_h", "initial_c"), "GRU": ("initial_h",)}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_agrees(operator):
    """On the tests that ONNX ships, whose weights are constant, in the types that they have."""
    run_here = [node for node in nodes()[operator] if "P" not in node.inputs]  # no peepholes here
    assert len(run_here) >= 5
    for node in run_here:
        check(node, dict(zip(OUTPUTS, run(operator, node.attributes, node.inputs), strict=False)))


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
    ours = run(operator, attributes | {"direction": direction.encode()}, inputs)
    assert worst(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("operator", OPERATORS)
def test_graphs_of_the_operator_tests_agree_on_random_weights(operator):
    """The graphs that ONNX ships, with unsymmetric numbers in place of their constants."""
    random = np.random.default_rng(0)
    for node in nodes()[operator]:
        if "P" in node.inputs:  # no peepholes here
            continue
        inputs = {name: random.normal(size=value.shape) for name, value in node.inputs.items()}
        names = [info.name for info in node.model.graph.input]
        evaluator = reference.ReferenceEvaluator(node.model)
        theirs = dict(
            zip(node.outputs, evaluator.run(None, dict(zip(names, inputs.values(), strict=True))), strict=True)
        )
        ours = dict(zip(OUTPUTS, run(operator, node.attributes, inputs), strict=False))
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
    right = GATES[operator]
    for order in itertools.permutations(right):
        ours = run(operator, options, inputs, gates=order)
        assert (worst(ours, theirs) < 1e-2) == (order == right), order


def test_the_constant_weights_of_the_operator_tests_see_no_order_of_gates():
    """Why this file is needed: every order of an LSTM's gates passes ONNX's own test without biases."""
    (node,) = (node for node in nodes()["LSTM"] if node.name == "test_lstm_defaults")
    for order in itertools.permutations(range(4)):
        _, last, _ = run("LSTM", node.attributes, node.inputs, gates=order)
        assert np.max(np.abs(last - node.outputs["Y_h"])) < 1e-6


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
    width = HIDDEN * len(GATES[operator])
    shapes = {
        "X": (BATCH, TIME, IN) if layout else (TIME, BATCH, IN),
        "W": (directions, width, IN),
        "R": (directions, width, HIDDEN),
        "B": (directions, 2 * width),
    }
    state = (BATCH, directions, HIDDEN) if layout else (directions, BATCH, HIDDEN)
    shapes |= dict.fromkeys(STATES[operator], state) if states else {}
    return {name: random.normal(size=shape) for name, shape in shapes.items()}


def worst(ours, theirs):
    assert [part.shape for part in ours] == [part.shape for part in theirs]
    return max(float(np.max(np.abs(a - b))) for a, b in zip(ours, theirs, strict=True))


def run(operator: str, attributes: dict[str, Any], inputs: dict[str, Any], gates: tuple[int, ...] | None = None):
    """Y, Y_h and, of an LSTM, Y_c; ``gates`` is another order to try."""
    order = GATES[operator] if gates is None else gates
    reset_after = bool(attributes.get("linear_before_reset", 0))
    batch_first = bool(attributes.get("layout", 0))
    x = inputs["X"] if batch_first else np.swapaxes(inputs["X"], 0, 1)
    hidden = inputs["R"].shape[-1]
    direction = attributes.get("direction", b"forward").decode()
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    outputs = []
    for number, backwards in enumerate(ways):
        params = parameters(operator, inputs, number, order, reset_after)
        starts = [_state(inputs.get(name), number, x, hidden, batch_first) for name in STATES[operator]]
        outputs.append(_one_direction(operator, params, x, starts, backwards, reset_after, hidden))
    y, *last = (np.stack(parts, axis=1) for parts in zip(*outputs, strict=True))  # directions after the batch
    if batch_first:
        return [np.swapaxes(y, 1, 2), *last]
    return [np.transpose(y, (2, 1, 0, 3)), *(np.swapaxes(part, 0, 1) for part in last)]


def parameters(operator, inputs, number, order, reset_after):
    """The parameters of one direction."""
    w, r = (_reordered(inputs[name][number], order) for name in ("W", "R"))
    biases = inputs.get("B")
    biases = np.zeros((2, len(w)), w.dtype) if biases is None else biases[number].reshape(2, -1)
    of_w, of_r = (_reordered(bias, order) for bias in biases)
    params = {"input_weight": w.T, "hidden_weight": r.T, "bias": of_w + of_r}
    if operator == "GRU" and reset_after:
        gates = len(of_r) // 3 * 2
        params |= {"bias": of_w + np.where(np.arange(len(of_r)) < gates, of_r, 0), "hidden_bias": of_r[gates:]}
    return {name: jnp.asarray(leaf) for name, leaf in params.items()}


def _reordered(rows, order):
    parts = np.split(rows, len(order))
    return np.concatenate([parts[gate] for gate in order])


def _state(given, number, x, hidden, batch_first):
    if given is None:
        return jnp.zeros((len(x), hidden), x.dtype)
    return jnp.asarray(given[:, number] if batch_first else given[number])


def _one_direction(operator, params, x, starts, backwards, reset_after, hidden):
    """Y (batch, time, hidden), Y_h and maybe Y_c (batch, hidden)."""
    y, *cells = _compiled(operator, hidden, reset_after)(params, np.flip(x, 1) if backwards else x, tuple(starts))
    y = np.asarray(y)
    return [np.flip(y, 1) if backwards else y, y[:, -1], *map(np.asarray, cells)]


@functools.cache
def _compiled(operator, hidden, reset_after):
    """Our layer over time and, for the cell's last state that it does not give, our cell step by step."""
    options = {"reset_after": reset_after} if operator == "GRU" else {}
    layer = getattr(fnn, operator.lower())(hidden, returns="sequence", initial_state="given", **options)

    def both(params, x, state):
        y, _ = layer.apply(params, {}, (x, state if operator == "LSTM" else state[0]), train=False)
        if operator != "LSTM":
            return (y,)
        for step in range(x.shape[1]):
            state, _ = fnn.lstm_cell(hidden).apply(params, {}, (x[:, step], state), train=False)
        return y, state[1]

    return quick_jit(both)
