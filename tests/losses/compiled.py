"""A loss and its gradients in one program: each operation alone would be a program that takes as long to compile."""

import functools

import jax

from functional_nn.jaxprs.xla_options import quick_jit


@functools.cache
def _program(loss):
    return quick_jit(lambda *given: (loss(*given), loss.gradient(*given), jax.grad(loss)(*given)))


def value_and_gradients(loss, *given):
    """The value, and the gradient by hand and by automatic differentiation."""
    return _program(loss)(*given)


def gradients(loss, *given):
    """The gradient by hand, and by automatic differentiation."""
    return _program(loss)(*given)[1:]
