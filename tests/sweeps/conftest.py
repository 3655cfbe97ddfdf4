"""Data that a sweep trains on in a moment."""

import numpy as np
import pytest

import functional_nn as fnn


@pytest.fixture(scope="session")
def blobs() -> fnn.data.Split:
    """Three classes of points that a small network can tell apart: 50 to train on, 30 to test."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(3, 5)) * 3
    labels = random.integers(0, 3, 80).astype(np.int32)
    x = (centers[labels] + random.normal(size=(80, 5))).astype(np.float32)
    return fnn.data.Split(x[:50], labels[:50], x[50:], labels[50:])
