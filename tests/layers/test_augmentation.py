"""Augmentation: where the places go, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted

import functional_nn as fnn

KEY = jax.random.key(0)


def moved(image: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """By a formula of its own: place by place."""
    out = np.zeros_like(image)
    for place in np.ndindex(image.shape[:2]):
        source = tuple(i + s for i, s in zip(place, shift, strict=True))
        if all(0 <= i < size for i, size in zip(source, image.shape[:2], strict=True)):
            out[place] = image[source]
    return out


def test_each_example_moves_by_itself_and_every_shift_occurs():
    image = np.arange(1.0, 13.0, dtype=np.float32).reshape(3, 4, 1)
    x = jnp.asarray(np.broadcast_to(image, (600, 3, 4, 1)))
    y, _ = jitted(fnn.random_shift(2)).apply({}, {}, x, train=True, key=KEY)
    candidates = {moved(image, (a, b)).tobytes(): (a, b) for a in range(-2, 3) for b in range(-2, 3)}
    drawn = [candidates[np.asarray(example).tobytes()] for example in y]
    counts = {shift: drawn.count(shift) for shift in candidates.values()}
    assert len(counts) == 25
    assert min(counts.values()) > 5
    assert max(counts.values()) < 60


def test_a_shift_beyond_the_image_is_an_error():
    with pytest.raises(fnn.InputError, match="most: expected at most 4, the size of x, got 2147483647"):
        fnn.random_shift(2**31 - 1).apply({}, {}, jnp.ones((1, 3, 4, 1)), train=True, key=KEY)


def interpolated(line: np.ndarray, place: float) -> float:
    """By a formula of its own: between the two places around it, with zeros outside."""
    below = math.floor(place)
    values = [line[i] if 0 <= i < len(line) else 0.0 for i in (below, below + 1)]
    return values[0] + (values[1] - values[0]) * (place - below)


def test_a_deformation_place_by_place():
    """Each image has a matrix of its own; the first axis is done first, and the second reads what it gave."""
    most, shape = 0.4, (50, 4, 5, 1)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    y, _ = jitted(fnn.random_deformation(most)).apply({}, {}, jnp.asarray(x), train=True, key=KEY)
    matrices = most * np.asarray(jax.random.uniform(KEY, (50, 2, 2), minval=-1, maxval=1), np.float64)
    assert np.abs(matrices).max() > 0.35
    for image, found, matrix in zip(x[..., 0], y[..., 0], matrices, strict=True):
        for axis in (0, 1):
            before = image.copy()
            for i in np.ndindex(image.shape):
                place = i[axis] + matrix[axis] @ (np.array(i) - (1.5, 2))
                image[i] = interpolated(before[:, i[1]] if axis == 0 else before[i[0]], place)
        np.testing.assert_allclose(found, image, atol=1e-5)
