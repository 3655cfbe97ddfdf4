"""Named models that train faster with their hand-derived backward pass than with ``jax.grad``."""

from __future__ import annotations

FASTER_BY_FORMULA = ("cnn", "lenet", "deep_cnn", "resnet", "rnn", "lstm", "gru")
"""Names in ``MODELS``. They were chosen by measurement; see docs/decisions/0002-two-gradients.md."""
