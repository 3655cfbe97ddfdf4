"""Losses and their hand-derived gradients. No loss broadcasts.

A loss is the weighted mean L = Σᵢ wᵢ ℓᵢ / Σᵢ wᵢ aᵢ of one value ℓᵢ per example. If an example has several labels, there
is one value per label. If the outputs are ``Masked`` sequences, there is one value per real step. aᵢ is usually 1. It
is 0 for an ignored label, and the weight of the label's class if classes have weights. ℓᵢ already contains this factor.
The gradient with respect to the network's output y is therefore ∂L/∂yᵢ = (wᵢ / Σ w a) ∂ℓᵢ/∂yᵢ. If the total weight
Σ w a is 0, loss and gradient are 0.

Shapes and dtypes are always checked. Values (labels, probabilities, weights) are checked if they are concrete. Under
``jit`` they are not known, so no error can be raised. There an invalid label, probability or weight makes the loss and
the gradient NaN, which training reports. It never gives a number that looks right.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
