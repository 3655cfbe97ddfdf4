"""Exercises of chapter 1, a neuron. The check: python -m pytest examples/exercises -k chapter_01"""

import numpy as np


def and_neuron(x):
    """A neuron that computes AND: the result is 1 if both inputs are 1, otherwise 0.

    Choose two weights and a bias. Return 1 where the weighted sum x₁ w₁ + x₂ w₂ + b is positive, otherwise 0. x has
    the shape (examples, 2), and the result (examples,).
    For x = [[1, 1], [0, 1]] it is [1, 0].
    """
    raise NotImplementedError


def neuron(x, weight, bias):
    """The output of a neuron with a sigmoid, y = σ(x₁ w₁ + x₂ w₂ + … + b), for each example.

    x has the shape (examples, inputs), weight (inputs,), bias (), and the result (examples,).
    For x = [[2, 1]], weight = [1.5, -1] and bias = -1 it is [0.731].
    """
    raise NotImplementedError


def mean_loss(y, labels):
    """The binary cross-entropy, −t log y − (1 − t) log(1 − y), as the mean over all examples.

    y and the labels t have the shape (examples,). The result is one number.
    For y = [0.5, 0.5] and labels = [0, 1] it is 0.693.
    """
    raise NotImplementedError
