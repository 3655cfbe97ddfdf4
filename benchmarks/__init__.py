"""functional_nn side by side with its peers: `python -m benchmarks --help`, and README.md beside this file."""
