"""Every loss that PyTorch has too agrees with it in float64, in value and in hand-derived gradient.

Compared with reductions, weights of classes, smoothing, ignored and soft labels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.conformance.comparison import same, torch, worst
from tests.conformance.weight_maps import channels_first, channels_last

import functional_nn as fnn
from functional_nn.jaxprs.xla_options import quick_jit

pytestmark = pytest.mark.usefixtures("float64")
functional = torch.nn.functional
BATCH, CLASSES = 7, 5


class LossCase(NamedTuple):
    """A loss and PyTorch's.

    Args:
        name: what the tests call it.
        ours: the loss.
        theirs: ``theirs(y, labels, reduction=…)``.
        y: outputs in PyTorch's layout.
        labels: labels in PyTorch's layout.
        layout: from PyTorch's layout to ours, of outputs and of labels in their shape.
        elements: how many of PyTorch's values make one of ours, which is their mean.
        mean: what PyTorch calls the reduction that is our mean.
    """

    name: str
    ours: fnn.Loss
    theirs: Callable[..., Any]
    y: np.ndarray
    labels: np.ndarray
    layout: Callable[[Any], Any] = same
    elements: int = 1
    mean: str = "mean"


random = np.random.default_rng(0)
SHAPES = {"rows": (BATCH, CLASSES), "sequences": (3, CLASSES, 4), "images": (2, CLASSES, 3, 2)}
NUMBERS = {"vector": (BATCH,), "rows": (BATCH, CLASSES), "images": (3, 2, 5)}
CLASS_WEIGHTS = random.uniform(0.1, 2, CLASSES)


def of_numbers():
    """Losses of every element; ours is the mean over an example's."""
    kinds = {
        "mean_squared_error": (fnn.mean_squared_error, functional.mse_loss),
        "mean_absolute_error": (fnn.mean_absolute_error, functional.l1_loss),
        "huber": (fnn.huber, functional.huber_loss),
        "smooth_l1(0.7)": (
            fnn.losses.huber_with(0.7),
            lambda y, t, reduction: 0.7 * functional.smooth_l1_loss(y, t, reduction=reduction, beta=0.7),
        ),
    }
    for (name, (ours, theirs)), (form, shape) in ((k, s) for k in kinds.items() for s in NUMBERS.items()):
        y, labels = random.normal(size=(2, *shape)) * 2
        yield LossCase(f"{name}-{form}", ours, theirs, y, labels, elements=y[0].size)


def of_two_classes():
    logits = random.normal(size=(BATCH, CLASSES)) * 3
    soft = random.uniform(size=logits.shape)
    hard = (soft > 0.5).astype(float)
    kinds = {
        "binary_cross_entropy": (fnn.binary_cross_entropy, functional.binary_cross_entropy_with_logits, logits),
        "binary_cross_entropy_from_probabilities": (
            fnn.losses.binary_cross_entropy_from_probabilities,
            functional.binary_cross_entropy,
            1 / (1 + np.exp(-logits)),
        ),
    }
    for name, (ours, theirs, y) in kinds.items():
        for kind, labels in (("hard", hard), ("soft", soft)):
            yield LossCase(f"{name}-{kind}", ours, theirs, y, labels, elements=CLASSES)

    def hinge(y, labels, reduction):
        """PyTorch has it as a ranking against 0."""
        zeros = torch.zeros_like(y)
        return functional.margin_ranking_loss(y, zeros, 2 * labels - 1, margin=1.0, reduction=reduction)

    yield LossCase("hinge", fnn.hinge, hinge, logits, hard, elements=CLASSES)


def of_many_classes():
    options = {
        "plain": {},
        "smoothed": {"label_smoothing": 0.2},
        "ignoring": {"ignore_index": 2},
        "weighted": {"class_weights": CLASS_WEIGHTS},
        "ignoring-smoothed": {"ignore_index": -1, "label_smoothing": 0.1},
        "weighted-ignoring-smoothed": {"class_weights": CLASS_WEIGHTS, "ignore_index": 1, "label_smoothing": 0.1},
    }
    for (name, settings), (form, shape) in ((o, s) for o in options.items() for s in SHAPES.items()):
        y = random.normal(size=shape) * 2
        labels = random.integers(0, CLASSES, (shape[0], *shape[2:]))
        labels[0] = settings.get("ignore_index", labels[0])
        yield cross_entropy(f"cross_entropy-{name}-{form}", settings, y, labels)
        if "ignore_index" not in settings:
            soft = np.moveaxis(random.dirichlet(np.ones(CLASSES), labels.shape), -1, 1)
            yield cross_entropy(f"cross_entropy-{name}-soft-{form}", settings, y, soft)


def cross_entropy(name, settings, y, labels):
    theirs = partial(functional.cross_entropy, label_smoothing=settings.get("label_smoothing", 0.0))
    if "ignore_index" in settings:
        theirs = partial(theirs, ignore_index=settings["ignore_index"])
    if "class_weights" in settings:
        theirs = partial(theirs, weight=torch.from_numpy(CLASS_WEIGHTS))
    return LossCase(name, fnn.losses.cross_entropy_with(**settings), theirs, y, labels, channels_last)


def of_log_probabilities():
    for form, shape in SHAPES.items():
        y = random.normal(size=shape)
        y = y - np.log(np.sum(np.exp(y), axis=1, keepdims=True))
        labels = random.integers(0, CLASSES, (shape[0], *shape[2:]))
        likelihood = fnn.negative_log_likelihood, functional.nll_loss
        yield LossCase(f"negative_log_likelihood-{form}", *likelihood, y, labels, channels_last)
    y = random.normal(size=SHAPES["rows"])
    y, t = y - np.log(np.sum(np.exp(y), axis=1, keepdims=True)), random.dirichlet(np.ones(CLASSES), BATCH)

    def divergence(y, labels, reduction):
        values = functional.kl_div(y, labels, reduction=reduction)
        return values.sum(dim=1) if reduction == "none" else values

    yield LossCase("kl_divergence", fnn.kl_divergence, divergence, y, t, mean="batchmean")
    t[0] = np.eye(CLASSES)[2]
    yield LossCase("kl_divergence-with-zeros", fnn.kl_divergence, divergence, y, t, mean="batchmean")


def of_scores():
    y, t = random.normal(size=(2, *SHAPES["rows"])) * 2
    labels = random.integers(0, CLASSES, BATCH)
    yield LossCase("multiclass_hinge", fnn.multiclass_hinge, functional.multi_margin_loss, y, labels)

    def cosine(y, labels, reduction):
        return functional.cosine_embedding_loss(y, labels, torch.ones(len(y)), reduction=reduction)

    yield LossCase("cosine_distance", fnn.cosine_distance, cosine, y, t)


CASES = [*of_numbers(), *of_two_classes(), *of_many_classes(), *of_log_probabilities(), *of_scores()]
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


def test_all_losses_are_compared():
    assert set(fnn.losses.LOSSES) <= {case.ours.name for case in CASES}
