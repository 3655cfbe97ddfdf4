"""Textbook forms of optimizers, each written by hand from its paper; they work with any kind of number."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
