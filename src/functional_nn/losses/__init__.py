"""Losses, each with its hand-derived gradient beside it. No loss broadcasts.

A loss is the weighted mean L = Σᵢ wᵢ ℓᵢ / Σᵢ wᵢ aᵢ of one value ℓᵢ per example (per label, where an example has
several; per real step, where the outputs are ``Masked`` sequences). aᵢ is 1, but 0 for a label that is ignored, and the
weight of the label's class where classes have weights; ℓᵢ has that factor in it. The gradient with respect to the
network's output y is therefore ∂L/∂yᵢ = (wᵢ / Σ w a) ∂ℓᵢ/∂yᵢ. Where nothing has weight (Σ w a = 0) both are 0.

What can be checked without running the numbers (shapes and dtypes) is checked always; values (labels, probabilities,
weights) are checked where they are concrete. Under ``jit`` they cannot raise: there a bad label, probability or weight
makes the value and the gradient NaN, which training reports, and never a plausible number.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
