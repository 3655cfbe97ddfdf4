"""Exercises of chapter 13, checking a gradient. The check: python -m pytest examples/exercises -k chapter_13"""

import numpy as np


def inverse_backward(x, centers, beta, y_bar):
    """The backward pass of y_nm = 1 / (1 + β r_nm) with r_nm = Σ_d (x_nd − c_md)².

    x has the shape (examples, size), centers (units, size), and y_bar (examples, units). beta is a number.
    Return x_bar, centers_bar, beta_bar.
    """
    raise NotImplementedError


def slopes(function, x, h):
    """The slopes of a function of a vector, by differences: (f(x + h) − f(x − h)) / 2h for each element of x.

    function takes x, of the shape (size,), and returns a number. In each difference only one element of x is
    changed.
    """
    raise NotImplementedError


def tanh_derivative(x):
    """The derivative of tanh, right in nearly all digits, also where tanh(x) is rounded to 1, as at x = 20."""
    raise NotImplementedError
