"""Tables, plots and pages about networks, runs, sweeps, benchmarks and gradients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
