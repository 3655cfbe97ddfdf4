"""Exercises of chapter 9, convolution. The check: python -m pytest examples/exercises -k chapter_09"""

import numpy as np


def convolve(x, kernel):
    """The output of a convolution, y_ij = Σ_a Σ_b W_ab x_{i+a, j+b}. The kernel is W.

    x has the shape (height, width). The result is smaller: (5, 5) and a kernel of (3, 3) give (3, 3).
    """
    raise NotImplementedError


def convolve_backward(x, kernel, y_bar):
    """The backward pass of the convolution. Return x_bar and kernel_bar, of the shapes of x and kernel.

    y_bar has the shape of convolve(x, kernel). You may use convolve.
    """
    raise NotImplementedError


def max_pool_backward(x, y_bar):
    """The backward pass of max pooling with windows of 2 × 2 that do not overlap. Return x_bar, of the shape of x.

    x has the shape (height, width), both even, and y_bar has the shape (height / 2, width / 2). If two numbers of a
    window are equally large, share the gradient among them as you like.
    """
    raise NotImplementedError
