"""Exercises of chapter 7, regularization. The check: python -m pytest examples/exercises -k chapter_07"""

import numpy as np


def l2_gradient(weight, gradient, factor):
    """The gradient of the loss with an L2 penalty, L + λ/2 Σ w².

    weight is an array, gradient is the gradient of L alone, of the same shape, and factor is λ.
    """
    raise NotImplementedError


def dropout(x, kept, rate):
    """The output of dropout in training.

    kept is an array of the shape of x: 1 where a value stays, 0 where it becomes 0. rate is the probability of 0.
    On average, the output must be as large as x.
    """
    raise NotImplementedError


def batch_norm(x, scale, bias):
    """The output of batch norm in training, with ε = 1e-5.

    x has the shape (examples, units), and scale and bias have the shape (units,). The mean μ and the variance σ²
    are those of each unit over the examples.
    For x = [[1], [3]], scale = [1] and bias = [0] it is [[-1], [1]], up to ε.
    """
    raise NotImplementedError
