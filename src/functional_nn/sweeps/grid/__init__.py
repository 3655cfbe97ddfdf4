"""Grids of hyper-parameters, from Python and from files, and folds for cross-validation."""
