"""Benchmarks of compiled programs: compile time, run time, share of the device's peak, and causes of slowness."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
