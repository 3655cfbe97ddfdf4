"""Plots of runs, sweeps, benchmarks and gradient errors. They need matplotlib, the extra ``[plots]``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
