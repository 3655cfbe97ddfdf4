"""Named models, and the blocks that they are built from."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

FASTER_BY_FORMULA = ("cnn", "lenet", "deep_cnn", "resnet", "rnn", "lstm", "gru")
"""Names of models that train faster with their hand-derived backward pass than with ``jax.grad``. They were chosen by
measurement; see docs/decisions/0002-two-gradients.md."""
