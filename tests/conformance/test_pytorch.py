"""Every layer that PyTorch has too agrees with it in float64, forward and backward, by the hand-derived formula."""

import jax
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


@pytest.mark.parametrize("start", ["dense", "batch_norm", "lstm_cell", "attention"])
def test_a_wrong_gradient_is_seen(start):
    """Every cotangent that the formula gives, in turn, a millionth too large."""
    case = next(case for case in CASES if case.name.startswith(start))
    for part in (0, 1):

        def backward(residuals, y_bar, part=part):
            bars = list(case.ours.backward(residuals, y_bar))
            bars[part] = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), bars[part])
            return tuple(bars)

        found = deviations(case._replace(ours=case.ours._replace(backward=backward)))
        assert found["y"] < TOLERANCE
        assert found[("params_bar", "x_bar")[part]] > TOLERANCE


def test_the_activations_are_compared():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert all(any(name.startswith(f"{activation}-") for name in names) for activation in fnn.activations.ACTIVATIONS)
