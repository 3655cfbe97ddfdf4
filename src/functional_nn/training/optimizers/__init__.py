"""Optimizers by name, and Optax transformations: clipping, constraints, precision and loss scaling."""
