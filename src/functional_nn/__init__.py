"""A JAX functional neural network toolkit."""
