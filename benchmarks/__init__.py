"""Benchmarks of functional_nn against other libraries: see `python -m benchmarks --help`, and README.md here."""
