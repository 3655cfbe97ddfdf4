"""Exercises of chapter 8, MNIST. The check: python -m pytest examples/exercises -k chapter_08"""

import numpy as np


def accuracy(probabilities, labels):
    """The share of right answers, a number between 0 and 1. The answer is the class with the largest probability.

    probabilities has the shape (examples, classes), and labels (examples,).
    """
    raise NotImplementedError


def confusion_matrix(labels, answers, classes):
    """How often each class (row) got each answer (column): an array of the shape (classes, classes).

    labels and answers have the shape (examples,), and classes is a number.
    For labels = [0, 0, 1], answers = [0, 1, 1] and classes = 2 it is [[1, 1], [0, 1]].
    """
    raise NotImplementedError


def standard_deviation(accuracy, count):
    """The standard deviation of an accuracy that was measured on this number (count) of test images."""
    raise NotImplementedError
