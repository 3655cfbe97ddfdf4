"""Cases of recurrent cells and layers: masked, bidirectional, stacked, with every kind of initial state."""

import numpy as np

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked

SEQUENCE, HIDDEN = (11, 5), 3
MASKED = masked(SEQUENCE)


def with_state(parts, make_sequence=None):
    """Makes a sequence and an initial state of this many parts."""

    def make(random: np.random.Generator, batch: int):
        sequence = make_sequence(random, batch) if make_sequence else random.normal(size=(batch, *SEQUENCE))
        state = tuple(random.normal(size=(batch, HIDDEN)) for _ in range(parts))
        return sequence, state if parts > 1 else state[0]

    return make


def one_step(parts):
    """Makes the input of one step and a state of this many parts."""

    def make(random: np.random.Generator, batch: int):
        sequence, state = with_state(parts)(random, batch)
        return sequence[:, 0], state

    return make


CELL_SHAPES = ((5,), (HIDDEN,))
"""Shapes of the input of one step and of the state."""
GIVEN_SHAPES = (SEQUENCE, (HIDDEN,))
"""Shapes of a sequence and of the initial state."""
stacked = fnn.chain(
    fnn.bidirectional(fnn.gru(3, returns="sequence"), fnn.lstm(2, returns="sequence")),
    fnn.dense(5),
    fnn.bidirectional(fnn.lstm(2)),
)

LAYERS = [
    LayerCase("rnn_cell", fnn.rnn_cell(HIDDEN), CELL_SHAPES, make_x=one_step(1)),
    LayerCase("lstm_cell", fnn.lstm_cell(HIDDEN), ((5,), ((HIDDEN,), (HIDDEN,))), make_x=one_step(2)),
    LayerCase("gru_cell", fnn.gru_cell(HIDDEN), CELL_SHAPES, make_x=one_step(1)),
    LayerCase("gru_cell_reset_before", fnn.gru_cell(HIDDEN, reset_after=False), CELL_SHAPES, make_x=one_step(1)),
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
        GIVEN_SHAPES,
        make_x=with_state(1),
    ),
    LayerCase("recurrent_stacked_masked", stacked, SEQUENCE, make_x=MASKED),
]
