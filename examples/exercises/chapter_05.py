"""Exercises of chapter 5, losses. The check: python -m pytest examples/exercises -k chapter_05"""

import numpy as np


def cross_entropy(logits, labels):
    """The cross-entropy, −log p of the right class, as the mean over the examples. p is the softmax of the logits.

    logits has the shape (examples, classes), and labels (examples,), whole numbers. Logits can be as large as 1000,
    and e¹⁰⁰⁰ is infinite: use −log p = log Σ e^z − z of the right class, and subtract the largest logit of a row
    from all of its logits first. This does not change p. For ten equal logits the result is 2.303.
    """
    raise NotImplementedError


def cross_entropy_gradient(logits, labels):
    """The gradient of the mean cross-entropy with respect to the logits.

    The result has the shape of the logits, (examples, classes).
    For logits = [[0, 0]] and labels = [1] it is [[0.5, -0.5]].
    """
    raise NotImplementedError


def binary_cross_entropy_gradient(z, labels):
    """The gradient of the mean binary cross-entropy with respect to the logits z.

    L is the mean of −t log σ(z) − (1 − t) log(1 − σ(z)) over the examples. z and the labels t have the shape
    (examples,), and so does the result.
    For z = [0] and labels = [1] it is [-0.5].
    """
    raise NotImplementedError
