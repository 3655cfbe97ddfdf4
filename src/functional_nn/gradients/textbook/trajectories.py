"""Trajectories of an optimizer: by Optax in one compiled scan, and by a textbook rule with any kind of number."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax

from functional_nn.core.trees import PyTree
from functional_nn.gradients.textbook import TextbookRule
from functional_nn.gradients.textbook.rule import Array

DIGITS = 50


class Scenario(NamedTuple):
    """The start of a run and its gradients: at step t, ``gradients[t - 1] + curvature * parameters``.

    With curvature 0 the gradients are fixed in advance. Otherwise they are the gradients of a quadratic function, and
    ``gradients`` sets its center.

    Args:
        parameters: a tree of NumPy arrays of one floating type.
        gradients: the same tree, of arrays of shape (steps, *shape of the parameter).
        curvature: a number of that type, as an array without axes.
    """

    parameters: PyTree
    gradients: PyTree
    curvature: np.ndarray


def scenarios(parameters: PyTree, steps: int) -> dict[str, Scenario]:
    """Makes scenarios of four kinds from the same parameters, by the name of their regime.

    - ``normal``: gradients from a normal distribution;
    - ``zeros``: all gradients are 0 for five steps; after that, nine in ten are 0. The gradient of every third
      element is always 0;
    - ``scales``: signs alternate, and sizes go from 1e-8 to 1e8;
    - ``quadratic``: gradients depend on the parameters, and lead towards a center far away.
    """
    random = np.random.default_rng(steps)

    def recorded(draw: Callable[[tuple[int, ...]], np.ndarray], curvature: float = 0.0) -> Scenario:
        gradients = jax.tree.map(lambda w: draw((steps, *w.shape)).astype(w.dtype), parameters)
        (dtype,) = {leaf.dtype for leaf in jax.tree.leaves(parameters)}
        return Scenario(parameters, gradients, np.asarray(curvature, dtype))

    def zeros(shape):
        drawn = random.normal(size=shape) * (random.random(shape) < 0.1)
        drawn[:5] = 0
        drawn.reshape(steps, -1)[:, ::3] = 0  # the reshaped array is a view, so this changes ``drawn``
        return drawn

    def scales(shape):
        signs = np.resize([1.0, -1.0], steps).reshape(-1, *(1 for _ in shape[1:]))
        return signs * 10.0 ** random.uniform(-8, 8, size=shape)

    def slope(shape):
        return np.broadcast_to(random.choice([-10.0, 10.0], size=shape[1:]) * random.uniform(1, 2, shape[1:]), shape)

    return {
        "normal": recorded(lambda shape: random.normal(size=shape)),
        "zeros": recorded(zeros),
        "scales": recorded(scales),
        "quadratic": recorded(slope, curvature=0.5),
    }


def optax_trajectories(transformation: optax.GradientTransformation, runs: Sequence[Scenario]) -> list[PyTree]:
    """Runs Optax on several scenarios at once. For each, it returns the parameters by step, (steps, *shape)."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        visited = jax.tree.map(np.asarray, _run(transformation, stacked))
    return [jax.tree.map(lambda leaf, number=number: leaf[number], visited) for number in range(len(runs))]


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0))
def _run(transformation: optax.GradientTransformation, scenario: Scenario) -> PyTree:
    def step(carry, recorded):
        parameters, state = carry
        gradients = jax.tree.map(lambda g, w: g + scenario.curvature * w, recorded, parameters)
        updates, state = transformation.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return (parameters, state), parameters

    start = (scenario.parameters, transformation.init(scenario.parameters))
    return jax.lax.scan(step, start, scenario.gradients)[1]


def exact_trajectory(rule: TextbookRule, scenario: Scenario, *, digits: int = DIGITS) -> list[np.ndarray]:
    """Runs the textbook rule in decimal numbers, from the exact binary values. The result is rounded at the very end.

    The numbers are the standard library's ``Decimal``, in C: seven times as fast as mpmath's, with the same result.
    """
    with decimal.localcontext(decimal.Context(prec=digits, traps=[])):
        exact = np.vectorize(Decimal, otypes=[object])
        return _follow(rule.in_arithmetic(Decimal), scenario, lambda array: exact(array.astype(np.float64)))


def rounded_trajectory(rule: TextbookRule, scenario: Scenario) -> list[np.ndarray]:
    """Runs the textbook rule in the scenario's own type, to show how far rounding alone leads from the exact run."""
    dtype = scenario.curvature.dtype
    with np.errstate(all="ignore"):
        return _follow(rule.in_arithmetic(dtype.type), scenario, lambda array: array)


def _follow(rule: TextbookRule, scenario: Scenario, convert: Callable[[np.ndarray], Array]) -> list[np.ndarray]:
    """The parameters after every step of a rule, with numbers of the type that ``convert`` gives."""
    parameters = [convert(leaf) for leaf in jax.tree.leaves(scenario.parameters)]
    recorded = [convert(leaf) for leaf in jax.tree.leaves(scenario.gradients)]
    curvature = convert(scenario.curvature)
    state, visited = rule.start(parameters), []
    for index in range(len(recorded[0])):
        gradients = [g[index] + curvature * w for g, w in zip(recorded, parameters, strict=True)]
        parameters, state = rule.update(parameters, gradients, state, index + 1)
        visited.append(parameters)
    return [np.stack(leaf).astype(np.float64) for leaf in zip(*visited, strict=True)]
