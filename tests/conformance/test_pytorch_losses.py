"""Every loss that PyTorch has too agrees with it in float64, in value and in hand-derived gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.conformance.comparison import torch, worst
from tests.conformance.pytorch_cases.losses import CASES, channels_last
from tests.conformance.weight_maps import channels_first

from functional_nn.jaxprs.xla_options import quick_jit

pytestmark = pytest.mark.usefixtures("float64")
TOLERANCE = 1e-12


def theirs(case, reduction, v):
    """PyTorch's value and gradient; values that are not reduced are brought to one each example, with weights v."""
    y = torch.tensor(case.y, requires_grad=True)
    value = case.theirs(y, torch.from_numpy(case.labels), reduction=case.mean if reduction == "mean" else reduction)
    if reduction == "none":
        value = value.reshape(*v.shape, case.elements).mean(dim=-1)
        (value * torch.from_numpy(v)).sum().backward()
    else:
        value.backward()
    return value.detach().numpy(), y.grad.numpy()


def ours(case, y, labels, v):
    """Our values and gradients for the three reductions: a sum is the mean times what it was divided by."""
    loss, weight = case.ours, case.ours.totals(y, labels)[1]
    weighted = loss.gradient(y, labels, v) * loss.totals(y, labels, v)[1]
    return {
        "mean": (loss(y, labels), loss.gradient(y, labels)),
        "sum": (loss.totals(y, labels)[0] * case.elements, loss.gradient(y, labels) * weight * case.elements),
        "none": (loss.per_example(y, labels), weighted),
    }


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_loss_agrees_with_pytorch(case):
    y, labels = jnp.asarray(case.y), jnp.asarray(case.labels)
    y, labels = case.layout(y), case.layout(labels) if labels.ndim == y.ndim else labels
    per_example = jax.eval_shape(case.ours.per_example, y, labels).shape
    v = np.random.default_rng(1).uniform(0.5, 2, per_example)
    back = channels_first if case.layout is channels_last else case.layout
    for reduction, (value, gradient) in quick_jit(lambda y, v: ours(case, y, labels, v))(y, v).items():
        expected = theirs(case, reduction, v)
        assert worst((value, back(gradient)), expected) < TOLERANCE, reduction
