"""Loss lookup by name."""

from functional_nn.losses.classification import (
    binary_cross_entropy,
    binary_cross_entropy_from_probabilities,
    cross_entropy,
    hinge,
    kl_divergence,
    multiclass_hinge,
    negative_log_likelihood,
)
from functional_nn.losses.loss import Loss
from functional_nn.losses.regression import cosine_distance, huber, mean_absolute_error, mean_squared_error

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        mean_squared_error, mean_absolute_error, huber, cosine_distance,
        binary_cross_entropy, binary_cross_entropy_from_probabilities, hinge,
        cross_entropy, multiclass_hinge, negative_log_likelihood, kl_divergence,
    )
}  # fmt: skip
"""Every loss by its name."""
