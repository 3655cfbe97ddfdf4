"""Exercises of chapter 11, attention. The check: python -m pytest examples/exercises -k chapter_11"""

import numpy as np


def causal_weights(q, k):
    """The weights of attention with a causal mask: no token looks at those after it.

    q and k have the shape (tokens, size). The result has the shape (tokens, tokens), and each row has the sum 1.
    The first row is [1, 0, 0, …].
    """
    raise NotImplementedError


def softmax_backward(s, p_bar):
    """The backward pass of p = softmax of each row of s. Return s_bar. All arrays have the shape (tokens, tokens)."""
    raise NotImplementedError


def attend_backward(q, k, v, c_bar):
    """The backward pass of c = softmax(q kᵀ / √d) v. Return q_bar, k_bar, v_bar.

    q and k have the shape (tokens, d), v and c_bar (tokens, values). You may use softmax_backward.
    """
    raise NotImplementedError
