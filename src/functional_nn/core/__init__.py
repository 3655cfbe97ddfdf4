"""The base of the package: layers, masked sequences, shapes, parameter trees, errors, validation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
