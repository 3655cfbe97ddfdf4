"""Training: state, step, epoch and whole run as pure functions, and the host's loop around them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
