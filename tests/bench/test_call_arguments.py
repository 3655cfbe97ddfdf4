"""Pytrees with functions and texts as leaves are arguments of ``benchmark`` and ``explain``."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

import functional_nn as fnn
from functional_nn.bench.call_arguments import hide_static_leaves, show_static_leaves
from functional_nn.core.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """As an Equinox module: a function, a text and None are leaves or no leaves, and one field is static."""

    weight: jax.Array
    activation: Callable
    name: str
    bias: jax.Array | None = None
    factor: int = dataclasses.field(default=2, metadata={"static": True})

    def __call__(self, x):
        return self.factor * self.activation(x @ self.weight)


def update(module, x):
    """A step that returns the changed module, with its function and its name."""
    gradient = jax.grad(lambda weight: dataclasses.replace(module, weight=weight)(x).sum())(module.weight)
    return dataclasses.replace(module, weight=module.weight - 0.1 * gradient)


MODULE = Module(jnp.ones((200, 200)), jax.nn.relu, "first")
X = jnp.ones((3, 200))


def test_a_module_is_measured():
    result = fnn.benchmark(update, MODULE, X, seconds=0.01, donate=0, layers=True)
    assert result.name == "update"
    assert result.flops >= 2 * 2 * 3 * 200 * 200
    assert MODULE.weight.shape == (200, 200)
    assert not MODULE.weight.is_deleted()


def test_a_module_is_explained():
    assert fnn.explain(update, MODULE, X).kinds == {"donation"}
    assert not fnn.explain(update, MODULE, X, donate=0).findings


def test_hiding_is_undone():
    tree = {"f": jnp.sin, "x": jnp.ones(2), "name": "a", "none": None, "more": [1.5, (jax.nn.relu,)]}
    hidden = hide_static_leaves(tree)
    assert [float(jnp.sum(leaf)) for leaf in jax.tree.leaves(hidden)] == [1.5, 2.0]
    shown = show_static_leaves(hidden)
    assert shown["f"] is jnp.sin
    assert shown["more"][1] == (jax.nn.relu,)
    assert jax.tree.structure(shown) == jax.tree.structure(tree)


@pytest.mark.parametrize("argument", ["text", jnp.sin, {"a": object}])
def test_what_is_no_pytree_of_arrays_is_refused_still(argument):
    if isinstance(argument, dict):
        argument = {"a": object()}
    with pytest.raises(InputError, match="argument 0"):
        fnn.benchmark(jnp.sin, argument, seconds=0.01)


def test_an_equinox_module_is_measured():
    equinox = pytest.importorskip("equinox")
    net = equinox.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    assert fnn.benchmark(lambda net, x: jax.vmap(net)(x), net, jnp.ones((3, 4)), seconds=0.01).flops >= 2 * 3 * 48
    assert not fnn.explain(lambda net, x: jax.vmap(net)(x), net, jnp.ones((3, 4))).findings
