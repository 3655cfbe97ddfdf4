"""Losses, each with its hand-derived gradient beside it. No loss broadcasts.

A loss is the weighted mean L = Σᵢ wᵢ ℓᵢ / Σᵢ wᵢ aᵢ of one value ℓᵢ per example (per label, where an example has
several; per real step, where the outputs are ``Masked`` sequences). aᵢ is 1, but 0 for a label that is ignored, and the
weight of the label's class where classes have weights; ℓᵢ has that factor in it. The gradient with respect to the
network's output y is therefore ∂L/∂yᵢ = (wᵢ / Σ w a) ∂ℓᵢ/∂yᵢ. Where nothing has weight (Σ w a = 0) both are 0.

What can be checked without running the numbers (shapes and dtypes) is checked always; values (labels, probabilities,
weights) are checked where they are concrete. Under ``jit`` they cannot raise: there a bad label, probability or weight
makes the value and the gradient NaN, which training reports, and never a plausible number.
"""

from functional_nn.loss import Loss
from functional_nn.losses.log_probabilities import kl_divergence, negative_log_likelihood
from functional_nn.losses.many_classes import cross_entropy, multiclass_hinge
from functional_nn.losses.regression import cosine_distance, huber, mean_absolute_error, mean_squared_error
from functional_nn.losses.two_classes import binary_cross_entropy, binary_cross_entropy_from_probabilities, hinge

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        mean_squared_error, mean_absolute_error, huber, cosine_distance,
        binary_cross_entropy, binary_cross_entropy_from_probabilities, hinge,
        cross_entropy, multiclass_hinge, negative_log_likelihood, kl_divergence,
    )
}  # fmt: skip
"""Every loss under its name."""
