"""Every layer that PyTorch has too agrees with it in float64, forward and backward, by the hand-derived formula."""

import jax
import jax.numpy as jnp
import pytest
from tests.conformance.comparison import deviations
from tests.conformance.pytorch_cases import CASES

import functional_nn as fnn

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),
]
TOLERANCE = 1e-12


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_layer_agrees_with_pytorch(case):
    found = deviations(case)
    assert max(found.values()) < TOLERANCE, found


def one(start):
    return next(case for case in CASES if case.name.startswith(start))


@pytest.mark.parametrize("start", ["dense", "conv2d", "batch_norm", "lstm_cell", "gru-", "attention", "mlp"])
def test_a_wrong_gradient_is_seen(start):
    """Every cotangent that the formula gives, in turn, a millionth too large."""
    case = one(start)
    assert max(deviations(case).values()) < TOLERANCE
    for part in (0, 1):

        def backward(residuals, y_bar, part=part):
            bars = list(case.ours.backward(residuals, y_bar))
            bars[part] = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), bars[part])
            return tuple(bars)

        found = deviations(case._replace(ours=case.ours._replace(backward=backward)))
        assert found["y"] < TOLERANCE
        assert found[("params_bar", "x_bar")[part]] > TOLERANCE


@pytest.mark.parametrize("start", ["lstm_cell", "gru_cell"])
def test_a_wrong_order_of_gates_is_seen(start):
    case = one(start)

    def turned(theirs):
        return jax.tree.map(lambda leaf: jnp.roll(leaf, 3, axis=-1), case.weights(theirs))

    assert deviations(case._replace(weights=turned))["y"] > 1e-3


def test_a_map_that_leaves_parameters_out_is_refused():
    case = one("dense")
    with pytest.raises(AssertionError):
        deviations(case._replace(weights=lambda theirs: {"weight": theirs["weight"].T}))


def test_the_activations_are_compared():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert all(any(name.startswith(f"{activation}-") for name in names) for activation in fnn.activations.ACTIVATIONS)
