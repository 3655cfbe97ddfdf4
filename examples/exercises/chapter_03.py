"""Exercises of chapter 3, forward propagation. The check: python -m pytest examples/exercises -k chapter_03"""

import numpy as np


def product(x, weight):
    """The product of two matrices, x @ weight, computed with loops and without @.

    x has the shape (examples, inputs), weight (inputs, outputs), and the result (examples, outputs).
    """
    raise NotImplementedError


def network(x, weight_1, bias_1, weight_2, bias_2):
    """The output of a network: a layer x W + b with ReLU, then a layer without an activation.

    x has the shape (examples, inputs), weight_1 (inputs, units), bias_1 (units,), weight_2 (units, outputs), bias_2
    (outputs,), and the result (examples, outputs). The XOR network of the chapter gives [[1]] for x = [[0.5, 0.5]].
    """
    raise NotImplementedError


def parameter_count(sizes):
    """How many weights and biases a network of dense layers has.

    sizes is a list: the number of inputs, the units of each hidden layer, the number of outputs.
    For [2, 2, 1], the XOR network, it is 9.
    """
    raise NotImplementedError
