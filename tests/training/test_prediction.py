"""Outputs of a trained network, batch by batch."""

import numpy as np
import pytest

import functional_nn as fnn

SUM = fnn.Layer(
    "sum",
    lambda key, in_shape: ({}, {}),
    lambda params, state, x, *, train, key=None: (x[0] + x[1], state, ()),
)


@pytest.mark.parametrize("function", [fnn.training.predict, fnn.training.predict_probabilities])
def test_arrays_with_different_numbers_of_examples_are_refused(function):
    x = np.ones((5, 3), np.float32), np.ones((9, 3), np.float32)
    with pytest.raises(fnn.InputError, match=r"x: expected arrays with the same .* got shapes \(5, 3\), \(9, 3\)"):
        function(SUM, {}, {}, x, batch_size=5)
    assert function(SUM, {}, {}, (x[0], x[0]), batch_size=2).shape == (5, 3)
