"""Recurrent layers: cells and layers over time, masked, with every kind of initial state, from both ends, stacked."""

import numpy as np

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked

SEQUENCE, HIDDEN = (11, 5), 3
MASKED = masked(SEQUENCE)


def with_state(parts, make_sequence=None):
    """Makes a sequence and a state of that many parts."""

    def make(random: np.random.Generator, batch: int):
        sequence = make_sequence(random, batch) if make_sequence else random.normal(size=(batch, *SEQUENCE))
        state = tuple(random.normal(size=(batch, HIDDEN)) for _ in range(parts))
        return sequence, state if parts > 1 else state[0]

    return make


def at_once(parts):
    """Makes the input of one step and a state of that many parts."""

    def make(random: np.random.Generator, batch: int):
        sequence, state = with_state(parts)(random, batch)
        return sequence[:, 0], state

    return make


cell, given = ((5,), (HIDDEN,)), (SEQUENCE, (HIDDEN,))
stacked = fnn.chain(
    fnn.bidirectional(fnn.gru(3, returns="sequence"), fnn.lstm(2, returns="sequence")),
    fnn.dense(5),
    fnn.bidirectional(fnn.lstm(2)),
)

LAYERS = [
    LayerCase("rnn_cell", fnn.rnn_cell(HIDDEN), cell, make_x=at_once(1)),
    LayerCase("lstm_cell", fnn.lstm_cell(HIDDEN), ((5,), ((HIDDEN,), (HIDDEN,))), make_x=at_once(2)),
    LayerCase("gru_cell", fnn.gru_cell(HIDDEN), cell, make_x=at_once(1)),
    LayerCase("gru_cell_reset_before", fnn.gru_cell(HIDDEN, reset_after=False), cell, make_x=at_once(1)),
    LayerCase("rnn_relu_sequence", fnn.rnn(HIDDEN, activation=fnn.relu, returns="sequence"), SEQUENCE),
    LayerCase("rnn_learned_masked", fnn.rnn(HIDDEN, initial_state="learned"), SEQUENCE, make_x=MASKED),
    LayerCase("lstm", fnn.lstm(HIDDEN), SEQUENCE),
    LayerCase("lstm_learned", fnn.lstm(HIDDEN, initial_state="learned", initializer="pytorch"), SEQUENCE),
    LayerCase(
        "lstm_given_masked_sequence",
        fnn.lstm(HIDDEN, initial_state="given", returns="sequence"),
        (SEQUENCE, ((HIDDEN,), (HIDDEN,))),
        make_x=with_state(2, MASKED),
    ),
    LayerCase("gru_masked_sequence", fnn.gru(HIDDEN, returns="sequence"), SEQUENCE, make_x=MASKED),
    LayerCase(
        "gru_given_reset_before",
        fnn.gru(HIDDEN, reset_after=False, initial_state="given"),
        given,
        make_x=with_state(1),
    ),
    LayerCase("recurrent_stacked_masked", stacked, SEQUENCE, make_x=MASKED),
]
