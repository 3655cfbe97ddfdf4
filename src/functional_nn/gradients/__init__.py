"""The comparison of hand-derived formulas with automatic differentiation and with an arbiter."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
