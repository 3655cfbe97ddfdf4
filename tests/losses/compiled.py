"""A loss and its gradients in one program: each operation alone would be a program that takes as long to compile."""

import jax

from functional_nn.jaxprs.xla_options import quick_jit


def gradients(loss, *given):
    """The gradient by hand, and by automatic differentiation."""
    return quick_jit(lambda *given: (loss.gradient(*given), jax.grad(loss)(*given)))(*given)


def value_and_gradients(loss, *given):
    """The value, and both gradients."""
    return quick_jit(lambda *given: (loss(*given), loss.gradient(*given), jax.grad(loss)(*given)))(*given)
