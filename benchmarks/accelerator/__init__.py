"""`python -m benchmarks accelerator`: what a GPU or a TPU does with this package, as a page and raw results.

Each part of the page is measured in a process of its own, so that a part that fails, runs out of memory or takes too
long does not lose the others. `parts.py` lists the parts, `compare.py` runs them, and `page.py` writes the page.
"""
