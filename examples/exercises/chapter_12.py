"""Exercises of chapter 12, many models. The check: python -m pytest examples/exercises -k chapter_12"""

import numpy as np


def program_count(rates, batch_sizes, activations, seeds):
    """How many programs a sweep compiles. The arguments say how many values of each kind its grid has."""
    raise NotImplementedError


def best_setting(accuracies):
    """The number of the best setting, counted from 0: the one with the largest mean over its seeds.

    accuracies has the shape (settings, seeds).
    For [[0.9, 0.1], [0.6, 0.6]] it is 1.
    """
    raise NotImplementedError


def many_networks(x, weight, bias):
    """The outputs x W + b of many layers at once, without a loop. All get the same inputs.

    x has the shape (examples, inputs), weight (networks, inputs, outputs), and bias (networks, outputs). The result
    has the shape (networks, examples, outputs).
    """
    raise NotImplementedError
