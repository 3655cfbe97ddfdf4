"""Exercises of chapter 2, activation functions. The check: python -m pytest examples/exercises -k chapter_02"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def sigmoid_derivative(x):
    """The derivative of the sigmoid, σ'(x), for each element of x. At 0 it is 0.25."""
    raise NotImplementedError


def leaky_relu_derivative(x):
    """The derivative of leaky ReLU, which is x for x ≥ 0, otherwise 0.01 x. The result has the shape of x."""
    raise NotImplementedError


def tanh_by_sigmoid(x):
    """tanh(x) for each element of x, computed with the function sigmoid, and without np.tanh."""
    raise NotImplementedError
