"""Rules by which JAX differentiates hand-derived derivatives: second derivatives, and the derivative of softmax.

JAX differentiates a formula operation by operation, and can lose digits that the formula kept. For example, it computes
the derivative of σ(x) as σ(x) (1 - σ(x)), which is 0 for large x. So the second derivatives are derived by hand too.
These rules do not apply to layers, activations and losses themselves: JAX or their formula differentiates them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

Derivative: TypeAlias = Callable[..., jax.Array]


def with_second_derivative(second: Derivative) -> Callable[[Derivative], Derivative]:
    """Makes JAX use the hand-derived ``second`` where it differentiates a derivative f' of one number: (f')' = f''.

    Further arguments of f' are functions of x that were computed before, such as σ(x). f'' includes their change
    with x.
    """

    def decorate(derivative: Derivative) -> Derivative:
        function = jax.custom_jvp(derivative)

        def tangent(primals, tangents):
            return function(*primals), second(primals[0]) * tangents[0]

        function.defjvp(tangent)
        return function

    return decorate


@jax.custom_jvp
def softmax_of(x: jax.Array) -> jax.Array:
    """The softmax p over the last axis. JAX differentiates it by ``softmax_product``: ṗ = J ẋ."""
    return jax.nn.softmax(x)


def softmax_product(p: jax.Array, v: jax.Array) -> jax.Array:
    """J v with the Jacobian of a softmax p over the last axis, Jⱼₖ = pⱼ (δⱼₖ - pₖ): (J v)ⱼ = pⱼ Σₖ pₖ (vⱼ - vₖ).

    If one pₜ is above 1/2, the textbook's form pⱼ (vⱼ - Σₖ pₖ vₖ) loses digits for j = t. It is even 0 if pₜ rounds to
    1. So vₜ is subtracted from all elements first, uⱼ = vⱼ - vₜ, which does not change J v. As uₜ is 0 then, pₜ is no
    longer in the sum Σₖ pₖ uₖ, and (J v)ₜ is -pₜ times it. If no p is above 1/2, the textbook's form keeps its digits.
    """
    u = _from_top(p > 0.5, v)
    return p * (u - jnp.sum(p * u, axis=-1, keepdims=True))


def _from_top(is_top: jax.Array, v: jax.Array) -> jax.Array:
    """v minus its element where ``is_top`` is true; v itself if it is true nowhere."""
    return v - jnp.sum(jnp.where(is_top, v, 0), axis=-1, keepdims=True)


@softmax_of.defjvp
def _softmax_tangent(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    p = softmax_of(x)
    return p, softmax_product(p, x_dot)
