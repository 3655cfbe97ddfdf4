"""Cases of losses and penalties."""

import numpy as np

import functional_nn as fnn
from functional_nn.gradients.cases.case import BATCH, LossCase

_random = np.random.default_rng(0)
_logits = _random.normal(size=(BATCH, 5)) * 3
_integers = _random.integers(0, 5, BATCH)
_soft = _random.dirichlet(np.ones(5), BATCH)
_targets = _random.normal(size=(BATCH, 5))
_some_ignored = np.where(_integers == 2, -1, _integers)
_log_probabilities = np.log(_random.dirichlet(np.ones(5), BATCH))
_smoothed = fnn.losses.cross_entropy_with(label_smoothing=0.1, ignore_index=-1)
_weighted = fnn.losses.cross_entropy_with(label_smoothing=0.1, ignore_index=-1, class_weights=[0.3, 2.0, 1.0, 0.7, 0.0])

LOSSES = [
    LossCase("mean_squared_error", fnn.mean_squared_error, _logits, _targets),
    LossCase("mean_squared_error_of_vectors", fnn.mean_squared_error, _logits[:, 0], _targets[:, 0]),
    LossCase("mean_absolute_error", fnn.mean_absolute_error, _logits, _targets),
    LossCase("huber", fnn.huber, _logits, _targets),
    LossCase("huber_with", fnn.losses.huber_with(0.3), _logits, _targets),
    LossCase("cosine_distance", fnn.cosine_distance, _logits, _targets),
    LossCase("hinge", fnn.hinge, _logits, (_targets > 0).astype(int)),
    LossCase("binary_cross_entropy", fnn.binary_cross_entropy, _logits, (_targets > 0).astype(int)),
    LossCase("binary_cross_entropy_soft", fnn.binary_cross_entropy, _logits, _soft),
    LossCase(
        "binary_cross_entropy_from_probabilities",
        fnn.losses.binary_cross_entropy_from_probabilities,
        1 / (1 + np.exp(-_logits)),
        (_targets > 0).astype(int),
    ),
    LossCase("cross_entropy", fnn.cross_entropy, _logits, _integers),
    LossCase("cross_entropy_soft", fnn.cross_entropy, _logits, _soft),
    LossCase("cross_entropy_on_sequences", fnn.cross_entropy, _logits.reshape(1, BATCH, 5), _integers[None]),
    LossCase("cross_entropy_smoothed", fnn.losses.cross_entropy_with(label_smoothing=0.2), _logits, _integers),
    LossCase("cross_entropy_smoothed_ignoring", _smoothed, _logits, _some_ignored),
    LossCase("cross_entropy_smoothed_soft", _smoothed, _logits, _soft),
    LossCase(
        "cross_entropy_weighted",
        fnn.losses.cross_entropy_with(class_weights=[0.3, 2.0, 1.0, 0.7, 0.0]),
        _logits,
        _integers,
    ),
    LossCase("cross_entropy_weighted_smoothed_ignoring", _weighted, _logits, _some_ignored),
    LossCase("cross_entropy_weighted_smoothed_soft", _weighted, _logits, _soft),
    LossCase("multiclass_hinge", fnn.multiclass_hinge, _logits, _integers),
    LossCase("multiclass_hinge_on_sequences", fnn.multiclass_hinge, _logits.reshape(1, BATCH, 5), _integers[None]),
    LossCase("negative_log_likelihood", fnn.negative_log_likelihood, _log_probabilities, _integers),
    LossCase("kl_divergence", fnn.kl_divergence, _log_probabilities, _soft),
]

PENALTIES = [
    ("l1", fnn.l1(0.3)),
    ("l2", fnn.l2(0.7)),
    ("l1_by_path", fnn.l1(0.3, paths=["*bias", "dense_1/*"])),
    ("l2_by_function", fnn.l2(0.7, paths=lambda path: "dense_0" in path)),
]
