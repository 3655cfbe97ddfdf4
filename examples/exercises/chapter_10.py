"""Exercises of chapter 10, recurrent networks. The check: python -m pytest examples/exercises -k chapter_10"""

import numpy as np


def rnn_backward(x, w, u, b, h_bar):
    """The backward pass through time of h_t = tanh(w x_t + u h_{t−1} + b) with numbers, h_0 = 0.

    x has the shape (steps,), and w, u and b are numbers. The loss looks at the last state only. h_bar is the gradient
    with respect to this state, a number.
    Return x_bar, w_bar, u_bar, b_bar. They have the shapes of x, w, u and b.
    """
    raise NotImplementedError


def rnn_layer_backward(x, weight, hidden_weight, bias, y_bar):
    """The backward pass of a recurrent layer, h_t = tanh(x_t W + h_{t−1} U + b), h_0 = 0.

    The output y has the states of all steps. x has the shape (examples, steps, inputs), weight W (inputs, units),
    hidden_weight U (units, units), bias (units,), and y_bar (examples, steps, units). Each state gets a gradient
    from y_bar, and one from the next step.
    Return x_bar, weight_bar, hidden_weight_bar, bias_bar.
    """
    raise NotImplementedError


def cell_backward(c, f, i, g, o, new_c_bar, h_bar):
    """The backward pass of the cell of an LSTM: new_c = f c + i g, and h = o tanh(new_c), element by element.

    All arrays have the shape (examples, units). f, i and o are the forget, input and output gate, and g is the new
    content. new_c_bar is the gradient that the next step gives to new_c. h_bar is the gradient with respect to h.
    Return c_bar, f_bar, i_bar, g_bar, o_bar.
    """
    raise NotImplementedError
