"""Augmentation: where the places go, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    y, _ = fnn.random_shift(2).apply({}, {}, x, train=True, key=KEY)
    candidates = {moved(image, (a, b)).tobytes(): (a, b) for a in range(-2, 3) for b in range(-2, 3)}
    drawn = [candidates[np.asarray(example).tobytes()] for example in y]
    counts = {shift: drawn.count(shift) for shift in candidates.values()}
    assert len(counts) == 25
    assert min(counts.values()) > 5
    assert max(counts.values()) < 60


def test_evaluation_is_the_identity_and_needs_no_key():
    x = jnp.ones((2, 3, 1))
    assert fnn.random_shift(1).apply({}, {}, x, train=False)[0] is x


def test_a_cotangent_goes_back_where_its_value_came_from():
    x = jnp.arange(1.0, 61.0).reshape(4, 5, 3, 1)
    y, _, pullback = fnn.random_shift(1).vjp({}, {}, x, train=True, key=KEY)
    _, x_bar = pullback(y)
    assert bool(jnp.all((x_bar == x) | (x_bar == 0)))
    assert float(x_bar.sum()) == float(y.sum())


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "1"])
def test_only_a_whole_number_of_places(most):
    with pytest.raises(fnn.InputError, match="most: expected a positive integer"):
        fnn.random_shift(most)


def test_fault_02_needs_a_spatial_axis():
    with pytest.raises(
        fnn.InputError, match=r"x: expected \(batch, …, channels\) with a spatial axis, got shape \(3, 4\)"
    ):
        fnn.random_shift(1).apply({}, {}, jnp.ones((3, 4)), train=True, key=KEY)
