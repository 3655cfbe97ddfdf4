"""Traced programs as another platform computes them, although this machine does not have it."""

from __future__ import annotations

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

from functional_nn.core.products import bilinear_p, traced_for
from functional_nn.jaxprs.inner_programs import array_type


def for_platform(program: ClosedJaxpr, platform: str) -> ClosedJaxpr:
    """The same program, with the operations that a platform uses in place of functions with one program for each.

    A traced program is the same for all platforms, and JAX chooses when it lowers the program. Functions that read
    traced programs, such as ``equations``, would choose for the platform of this machine.

    Args:
        program: the traced program.
        platform: JAX's name of the platform, such as ``tpu``.
    """
    return program.replace(jaxpr=_chosen(program.jaxpr, platform))


def _chosen(jaxpr: Jaxpr, platform: str) -> Jaxpr:
    return jaxpr.replace(eqns=[_chosen_equation(equation, platform) for equation in jaxpr.eqns])


def _chosen_equation(equation: JaxprEqn, platform: str) -> JaxprEqn:
    if equation.primitive is bilinear_p:
        call = jax.jit(jaxpr_as_fun(traced_for(equation, platform)))
        types = [array_type(variable) for variable in equation.invars]
        (called,) = jax.make_jaxpr(call)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in types)).eqns
        return called.replace(invars=equation.invars, outvars=equation.outvars, source_info=equation.source_info)
    return equation.replace(params={name: _chosen_value(value, platform) for name, value in equation.params.items()})


def _chosen_value(value: object, platform: str) -> object:
    """The value of an equation's parameter, which may be a program, or several of them."""
    if isinstance(value, ClosedJaxpr):
        return for_platform(value, platform)
    if isinstance(value, Jaxpr):
        return _chosen(value, platform)
    if isinstance(value, tuple | list) and any(isinstance(one, ClosedJaxpr | Jaxpr) for one in value):
        return type(value)(_chosen_value(one, platform) for one in value)
    return value
