"""Outputs of a trained network, batch by batch."""

import numpy as np
import pytest

import functional_nn as fnn

SUM = fnn.Layer(
    "sum", lambda key, in_shape: ({}, {}), lambda params, state, x, *, train, key=None: (x[0] + x[1], state, ())
)


@pytest.mark.parametrize("function", [fnn.training.predict, fnn.training.predict_probabilities])
def test_arrays_with_different_numbers_of_examples_are_refused(function):
    x = np.ones((5, 3), np.float32), np.ones((9, 3), np.float32)
    with pytest.raises(fnn.InputError, match=r"x: expected arrays with the same .* got shapes \(5, 3\), \(9, 3\)"):
        function(SUM, {}, {}, x, batch_size=5)
    assert function(SUM, {}, {}, (x[0], x[0]), batch_size=2).shape == (5, 3)


def test_a_convolution_whose_windows_do_not_fit_in_memory_is_refused(monkeypatch):
    """Its arrays would fit. XLA would end the process."""
    net = fnn.conv(16, 3, lowering="native", bias=False)
    params, x = {"weight": np.zeros((3, 3, 16, 16), np.float32)}, np.ones((1, 32, 32, 16), np.float32)
    assert fnn.training.predict(net, params, {}, x).shape == x.shape
    monkeypatch.setattr("functional_nn.training.devices.available_bytes", lambda: 4 * x.nbytes)
    with pytest.raises(fnn.InputError, match=r"x: expected a network that fits in 0\.0 GiB"):
        fnn.training.predict(net, params, {}, x)
    fnn.training.predict(net, params, {}, x[:, :4])
