"""Recurrent layers and cells: stacked, from both ends, of packed sequences, from given states."""

from functools import partial

import numpy as np
from tests.conformance.comparison import BATCH, Case, Wrapped, torch
from tests.conformance.weight_maps import gru, recurrent, stacked

import functional_nn as fnn

nn = torch.nn
TIME, IN, HIDDEN = 5, 2, 3
LENGTHS = (5, 1, 3)
MASK = np.arange(TIME) < np.array(LENGTHS)[:, None]

KINDS = {
    "rnn": (fnn.rnn, nn.RNN, recurrent),
    "rnn_relu": (partial(fnn.rnn, activation=fnn.relu), partial(nn.RNN, nonlinearity="relu"), recurrent),
    "lstm": (fnn.lstm, nn.LSTM, recurrent),
    "gru": (fnn.gru, nn.GRU, gru),
}
CELLS = {
    "rnn_cell": (fnn.rnn_cell, nn.RNNCell, recurrent),
    "lstm_cell": (fnn.lstm_cell, nn.LSTMCell, recurrent),
    "gru_cell": (fnn.gru_cell, nn.GRUCell, gru),
}


class Run(Wrapped):
    """PyTorch's module on padded sequences of different lengths, and which of its outputs is compared."""

    def __init__(self, module, *, packed, returns):
        super().__init__(module)
        self.packed, self.returns = packed, returns

    def forward(self, x, *states):
        lengths = torch.tensor(LENGTHS)
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        start = [state[None] for state in states]
        outputs, last = self.module(x, *([] if not start else start if len(start) == 1 else [tuple(start)]))
        if self.packed:
            outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=TIME)
        if self.returns == "sequence":
            return outputs
        last = last[0] if isinstance(last, tuple) else last
        directions = 2 if self.module.bidirectional else 1
        return torch.cat(list(last[-directions:]), dim=-1)


def masked(x):
    return fnn.Masked(x, MASK)


def over_time(kind, *, layers=1, bidirectional=False, packed=False, returns="sequence"):
    make, theirs, one = KINDS[kind]
    plain = kind.partition("_")[0]
    each = ["sequence"] * (layers - 1) + [returns]
    members = [make(HIDDEN, returns=what) for what in each]
    members = [fnn.bidirectional(member) for member in members] if bidirectional else members
    module = theirs(IN, HIDDEN, num_layers=layers, bidirectional=bidirectional, batch_first=True)
    return Case(
        f"{kind}-layers={layers}-bidirectional={bidirectional}-packed={packed}-{returns}",
        fnn.chain(*members),
        Run(module, packed=packed, returns=returns),
        ((BATCH, TIME, IN),),
        stacked(one, plain, layers, bidirectional=bidirectional),
        complete=masked if packed else lambda x: x,
        y=lambda y: y.values if isinstance(y, fnn.Masked) else y,
    )


def from_state(kind, *, packed, returns="sequence"):
    make, theirs, one = KINDS[kind]
    states = 2 if kind == "lstm" else 1
    return Case(
        f"{kind}-given-packed={packed}-{returns}",
        make(HIDDEN, returns=returns, initial_state="given"),
        Run(theirs(IN, HIDDEN, batch_first=True), packed=packed, returns=returns),
        ((BATCH, TIME, IN), *[(BATCH, HIDDEN)] * states),
        lambda tensors: one(tensors, "_l0"),
        x=lambda x, *state: (x, state if states > 1 else state[0]),
        complete=lambda x: (masked(x[0]) if packed else x[0], x[1]),
        y=lambda y: y.values if isinstance(y, fnn.Masked) else y,
    )


def one_step(kind):
    make, theirs, one = CELLS[kind]
    states = 2 if kind == "lstm_cell" else 1

    class Cell(Wrapped):
        def forward(self, x, *state):
            return self.module(x, state if states > 1 else state[0])

    return Case(
        kind,
        make(HIDDEN),
        Cell(theirs(IN, HIDDEN)),
        ((BATCH, IN), *[(BATCH, HIDDEN)] * states),
        one,
        x=lambda x, *state: (x, state if states > 1 else state[0]),
    )


CASES = [
    *(
        over_time(kind, layers=layers, bidirectional=bidirectional, packed=packed, returns=returns)
        for kind in KINDS
        for layers, bidirectional in ((1, False), (2, False), (1, True), (2, True))
        for packed in (False, True)
        for returns in ("sequence", "last")
        if kind != "rnn_relu" or (layers, returns) == (1, "sequence")
    ),
    *(from_state(kind, packed=packed) for kind in ("rnn", "lstm", "gru") for packed in (False, True)),
    *(from_state(kind, packed=True, returns="last") for kind in ("rnn", "lstm", "gru")),
    *(one_step(kind) for kind in CELLS),
]
