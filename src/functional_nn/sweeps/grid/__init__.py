"""Grids of hyper-parameters."""
