"""The errors of values, gradients and second derivatives in the tails: functional_nn, ``jax.grad`` and PyTorch."""
