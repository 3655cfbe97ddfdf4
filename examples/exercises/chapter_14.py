"""Exercises of chapter 14, benchmarking. The check: python -m pytest examples/exercises -k chapter_14"""

import numpy as np


def intensity(rows, columns, batch):
    """The FLOPs per byte of a matrix (rows, columns) times another one (columns, batch), all in float32.

    Count multiplications and additions, and move each of the three matrices once.
    """
    raise NotImplementedError


def roofline(intensity, peak, bandwidth):
    """The largest number of operations per second of a program with this intensity.

    intensity is an array. peak and bandwidth are numbers: operations and bytes per second.
    """
    raise NotImplementedError


def steady_seconds(seconds, warm_up):
    """The time of a call in the steady state: the median of all but the first calls.

    seconds are the times of all calls in order. warm_up is the number of calls that do not count.
    """
    raise NotImplementedError
