"""ONNX's RNN, LSTM and GRU by our recurrent layers: how its gates, biases and axes are ordered.

ONNX: X (time, batch, in), W (directions, gates · hidden, in), R (directions, gates · hidden, hidden) and B (directions,
2 · gates · hidden), the biases of W before those of R; the gates of an LSTM are i, o, f, c, those of a GRU z, r, h.
Ours: (batch, time, in), one set of parameters for each direction, gates i, f, g, o and r, z, n. ONNX's c is g, its h is
n. ``linear_before_reset`` is ``reset_after``.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

import functional_nn as fnn
from functional_nn.jaxprs.xla_options import quick_jit

GATES = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""Which of ONNX's gates stands first, second … here."""

STATES = {"RNN": ("initial_h",), "LSTM": ("initial_h", "initial_c"), "GRU": ("initial_h",)}


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
