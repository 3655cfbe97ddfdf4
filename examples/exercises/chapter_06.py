"""Exercises of chapter 6, optimizers. The check: python -m pytest examples/exercises -k chapter_06"""

import numpy as np


def momentum_step(w, g, m, rate):
    """One step of gradient descent with momentum, β = 0.9.

    w are the parameters, g their gradient, and m the running sum, arrays of the same shape. rate is the learning
    rate η.
    Return the new w and the new m.
    """
    raise NotImplementedError


def adam_step(w, g, m, v, n, rate):
    """Step number n of Adam (n = 1 for the first step), β₁ = 0.9, β₂ = 0.999, ε = 1e-8.

    w are the parameters, g their gradient, m and v the moving averages of g and of g², arrays of the same shape.
    rate is the learning rate η. If m and v are 0 and n is 1, each element of w changes by about η.
    Return the new w, m and v.
    """
    raise NotImplementedError


def largest_rate(curvature):
    """The learning rate below which gradient descent converges on L = ½ k w². curvature is the number k."""
    raise NotImplementedError
