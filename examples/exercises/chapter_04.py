"""Exercises of chapter 4, backpropagation. The check: python -m pytest examples/exercises -k chapter_04"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def unit_backward(x, weight, bias, y_bar):
    """The backward pass of one unit, y = σ(a) with a = x₁ w₁ + x₂ w₂ + b.

    y_bar is the gradient of the loss with respect to y, a number. x and weight have the shape (2,), and bias is a
    number.
    Return x_bar, weight_bar, bias_bar: the gradients of the loss with respect to x, weight and bias.
    """
    raise NotImplementedError


def dense_backward(x, weight, bias, y_bar):
    """The backward pass of a dense layer for a batch, y = σ(a) with a = x W + b.

    x has the shape (examples, inputs), weight (inputs, units), bias (units,), and y_bar (examples, units).
    Return x_bar, weight_bar, bias_bar. They have the shapes of x, weight and bias.
    """
    raise NotImplementedError


def network_gradient(x, target, weight_1, bias_1, weight_2, bias_2):
    """The gradient of a network's loss: h = σ(x W₁ + b₁), y = σ(h W₂ + b₂), L = the mean of ½ (y − target)².

    The mean is taken over the examples. x has the shape (examples, 2), target (examples, 1), weight_1 (2, 2),
    bias_1 (2,), weight_2 (2, 1) and bias_2 (1,).
    Return x_bar, weight_1_bar, bias_1_bar, weight_2_bar, bias_2_bar. You may use dense_backward.
    """
    raise NotImplementedError
