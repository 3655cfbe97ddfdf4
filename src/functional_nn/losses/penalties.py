"""Penalties on parameters (L1, L2) and their hand-derived gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from functional_nn.core import trees
from functional_nn.core.layer import Params
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import check_number, check_trees, tree_in_native_order


@dataclass(frozen=True, eq=False)
class Penalty:
    """A penalty: rate · Σ f(w) over chosen parameters, which is added to the loss.

    Args:
        name: used in error messages and tables.
        rate: the factor, not below 0. May be a traced array.
        paths: the chosen parameters, see ``trees.select``; by default the weights, not biases or scales.
        function: f, on one array.
        derivative: f', derived by hand.
    """

    name: str
    rate: float | jax.Array
    paths: trees.Paths
    function: Callable[[jax.Array], jax.Array]
    derivative: Callable[[jax.Array], jax.Array]

    def __post_init__(self):
        check_number("rate", self.rate, "a number not below 0", lambda rate: 0 <= rate < math.inf)
        trees.check_paths(self.paths)

    def __call__(self, params: Params) -> jax.Array:
        """Computes rate · Σ f(w) over the chosen parameters."""
        check_trees(params, {})
        leaves = trees.flatten(tree_in_native_order(params))
        chosen = [jnp.asarray(leaves[path]) for path in trees.select(params, self.paths)]
        terms = [jnp.sum(self.function(leaf.astype(wide_type(leaf.dtype)))) for leaf in chosen]
        return self.rate * jnp.sum(jnp.stack(terms))

    def gradient(self, params: Params) -> Params:
        """Computes rate · f'(w) for the chosen parameters and 0 for the others, in the structure of ``params``."""
        check_trees(params, {})
        params = tree_in_native_order(params)
        chosen = set(trees.select(params, self.paths))

        def of_leaf(path: str, leaf: jax.Array) -> jax.Array:
            if path not in chosen:
                return jnp.zeros_like(leaf)
            leaf = jnp.asarray(leaf)
            # In float16 a rate of 1e-8 is 0, so the product is rounded only once, at the end.
            product = self.rate * self.derivative(leaf.astype(wide_type(leaf.dtype)))
            return product.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else product

        return trees.map_with_path(of_leaf, params)


def l1(rate: float | jax.Array, paths: trees.Paths = "*weight") -> Penalty:
    """The L1 penalty rate · Σ |w|, which drives weights to 0. Its gradient is rate · sign(w), and 0 at the kink 0.

    |w| is computed as w sign(w): the derivative that ``jax.grad`` gives ``jnp.abs`` at 0 is 1, which would move weights
    that are 0.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> params = {"dense_0": {"weight": jnp.array([-2.0, 1.0]), "bias": jnp.array([5.0])}}
    >>> print(fnn.l1(0.5)(params), fnn.l1(0.5).gradient(params)["dense_0"]["weight"])
    1.5 [-0.5  0.5]

    References:
        Tibshirani 1996, "Regression shrinkage and selection via the lasso".
    """
    return Penalty("l1", rate, paths, lambda w: w * jnp.sign(w), jnp.sign)


def l2(rate: float | jax.Array, paths: trees.Paths = "*weight") -> Penalty:
    """The L2 penalty rate/2 · Σ w², which keeps weights small. With plain gradient descent it is weight decay.

    Its gradient is rate · w.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> params = {"dense_0": {"weight": jnp.array([-2.0, 1.0]), "bias": jnp.array([5.0])}}
    >>> print(fnn.l2(0.1)(params), fnn.l2(0.1).gradient(params)["dense_0"]["weight"])
    0.25 [-0.2  0.1]

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", section 7.1.1.
    """
    return Penalty("l2", rate, paths, lambda w: jnp.square(w) / 2, lambda w: w)
