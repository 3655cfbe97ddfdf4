"""Automatic mutants of a hand-derived backward pass: a comparison that accepts the formula has to reject each of them.

A mutant is the formula with one error that a person could have made: a sign, a dropped term, a factor, a missing
1/N, a transpose, exchanged gates, a stale mask, a time step off by one. Mutants are made from the formula's traced
program, so any function that JAX traces can be mutated, including the functions it calls and the values it closes over.
No source code is parsed.

All mutants of a formula are in one program (mutant schemata): at an equation with alternatives, the number of the
active mutant chooses. So one compiled program, vmapped over the numbers, evaluates the whole population.

References: DeMillo, Lipton, Sayward, Hints on test data selection (1978); Untch, Offutt, Harrold, Mutation analysis
using mutant schemata (1993).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_count, check_function
from functional_nn.gradients.mutation.alternatives import Alternative, Arrays
from functional_nn.gradients.mutation.cotangent_operators import cotangent_alternatives
from functional_nn.gradients.mutation.equation_operators import alternatives
from functional_nn.gradients.mutation.sites import Body, is_floating, sites
from functional_nn.jaxprs.evaluate import Compute, EquationPath, evaluate
from functional_nn.jaxprs.xla_options import quick_jit

AT_ONCE = 64
"""How many mutants are evaluated at the same time, which bounds the memory."""

OUTPUTS: EquationPath = ()
"""The path for alternatives of the bars, which belong to no equation."""

Number: TypeAlias = int | jax.Array
"""The number of the active mutant, perhaps traced."""


@dataclass(frozen=True)
class Mutant:
    """The formula with one error. It is called as the formula is.

    Args:
        number: which one of its population.
        description: what is wrong with it.
        place: the file and line of the equation, or the path of the bar.
        family: ``"bar"`` if a result of the formula is changed, ``"equation"`` if one of its equations is.
    """

    number: int
    description: str
    place: str
    family: str
    population: Mutants = field(repr=False, compare=False)

    def __call__(self, *arguments: Any) -> Any:
        return self.population.alone(self.number, *arguments)

    def __str__(self) -> str:
        return f"{self.place}: {self.description}"


class Entry(NamedTuple):
    """One mutant while the population is made: its alternative, and the equation that has it.

    Args:
        path: of the equation; ``OUTPUTS`` for an alternative of a bar.
        alternative: the error.
        place, description, family: as in ``Mutant``.
    """

    path: EquationPath
    alternative: Alternative
    place: str
    description: str
    family: str


def mutate(hand_vjp: Callable[..., Any], *arguments: Any, limit: int | None = None, seed: int = 0) -> Mutants:
    """Makes the mutants of a hand-derived backward pass.

    Args:
        hand_vjp: ``hand_vjp(*arguments) -> bars``, any pytree; of a layer ``layer.backward``.
        arguments: examples of its arguments, pytrees of arrays, the cotangent of the output last. Later calls may have
            other numbers, masks and integers of the same shapes and types.
        limit: how many mutants of the equations to keep, drawn at random. Those of the bars are always kept.
        seed: of the draw.

    >>> mutants = mutate(lambda x, y_bar: 2 * x * y_bar, jnp.ones(3), jnp.ones(3))
    >>> [mutant.description for mutant in mutants][-2:]
    ['mul: second factor dropped', 'mul: factor 2']
    >>> mutants.evaluate(jnp.ones(3), jnp.ones(3)).shape == (len(mutants), 3)
    True
    """
    check_function("hand_vjp", hand_vjp, "a function of the arguments and a cotangent")
    if limit is not None:
        check_count("limit", limit, least=0)
    check_count("seed", seed, least=0)
    program, shape = jax.make_jaxpr(hand_vjp, return_shape=True)(*arguments)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(shape)]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") or "bar" for path in paths]
    bars = [
        Entry(OUTPUTS, alternative, names[number], alternative.text, "bar")
        for number, alternative in cotangent_alternatives(jax.tree.leaves(shape), batch_size(arguments))
    ]
    equations = [
        Entry(site.path, alternative, site.place, f"{site.equation.primitive.name}: {alternative.text}", "equation")
        for site in sites(Body(program), [is_floating(variable) for variable in program.jaxpr.outvars])
        for alternative in alternatives(site)
    ]
    if limit is not None and limit < len(equations):
        kept = random.Random(seed).sample(range(len(equations)), limit)
        equations = [equations[number] for number in sorted(kept)]
    return Mutants(program, arguments, jax.tree.structure(shape), [*bars, *equations])


def batch_size(arguments: Sequence[Any]) -> int | None:
    """The size of the leading axis of the last argument, the output's cotangent; None if there is only one example."""
    leaves = jax.tree.leaves(arguments[-1:])
    size = jnp.shape(leaves[0])[0] if leaves and jnp.ndim(leaves[0]) else 1
    return size if size > 1 else None


class Mutants:
    """All mutants of one formula: a sequence of ``Mutant``, evaluated as one population. Made by ``mutate``."""

    def __init__(
        self,
        program: ClosedJaxpr,
        arguments: Sequence[Any],
        structure: Any,
        entries: Sequence[Entry],
    ):
        self._program, self._structure = program, structure
        self._expected = signature(arguments)
        self._alternatives: dict[EquationPath, list[tuple[int, Alternative]]] = {}
        for number, entry in enumerate(entries):
            self._alternatives.setdefault(entry.path, []).append((number, entry.alternative))
        self._mutants = [
            Mutant(number, entry.description, entry.place, entry.family, self) for number, entry in enumerate(entries)
        ]
        self._population = quick_jit(self._all)

    def __len__(self) -> int:
        return len(self._mutants)

    def __iter__(self) -> Iterator[Mutant]:
        return iter(self._mutants)

    def __getitem__(self, number: int) -> Mutant:
        return self._mutants[number]

    def __repr__(self) -> str:
        return f"Mutants({len(self)})"

    def evaluate(self, *arguments: Any) -> Any:
        """The bars that every mutant gives, with a leading axis over the mutants; one compiled program."""
        return self._population(self._leaves(arguments))

    def alone(self, number: int, *arguments: Any) -> Any:
        """The bars that one mutant gives; it can be traced, so it passes through ``jit`` and ``vmap``."""
        return self._one(number, self._leaves(arguments))

    def _leaves(self, arguments: Sequence[Any]) -> list[jax.Array]:
        given = signature(arguments)
        if given != self._expected:
            expected = f"those that the mutants were made for, {self._expected}"
            raise InputError("arguments", expected, given, "Call mutate again with such arguments.")
        return [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]

    def _all(self, leaves: list[jax.Array]) -> Any:
        """The bars of every mutant, computed for some of them at a time."""
        groups = -(-len(self) // AT_ONCE)
        size = -(-len(self) // groups)
        together = jax.vmap(partial(self._one, leaves=leaves))
        bars = lax.map(together, jnp.arange(groups * size).reshape(groups, size))
        return jax.tree.map(lambda bar: bar.reshape(-1, *bar.shape[2:])[: len(self)], bars)

    def _one(self, active: Number, leaves: list[jax.Array]) -> Any:
        """The bars that the mutant of this number gives."""

        def hook(path: EquationPath, equation: JaxprEqn, operands: Arrays, compute: Compute) -> Arrays:
            here = self._alternatives.get(path, [])
            operands = changed_operands(here, active, operands)
            return changed_results(here, active, operands, compute(operands))

        bars = evaluate(self._program, leaves, hook)
        bars = changed_results(self._alternatives.get(OUTPUTS, []), active, [], bars)
        return jax.tree.unflatten(self._structure, bars)


def signature(arguments: Sequence[Any]) -> str:
    """The structure, shapes and types of arguments."""
    return str(jax.tree.map(lambda leaf: jax.typeof(leaf).str_short(short_dtypes=True), tuple(arguments)))


def changed_operands(
    alternatives: Sequence[tuple[int, Alternative]], active: Number, operands: Sequence[jax.Array]
) -> Arrays:
    """The operands that an equation gets in the active mutant."""
    values = list(operands)
    for number, alternative in alternatives:
        if alternative.before and may_be(active, number):
            values = pick(active, number, operands, values, alternative.before(list(operands)))
    return values


def changed_results(
    alternatives: Sequence[tuple[int, Alternative]],
    active: Number,
    operands: Sequence[jax.Array],
    results: Sequence[jax.Array],
) -> Arrays:
    """The results that an equation has in the active mutant."""
    values = list(results)
    for number, alternative in alternatives:
        if alternative.after and may_be(active, number):
            values = pick(active, number, results, values, alternative.after(list(operands), list(results)))
    return values


def may_be(active: Number, number: int) -> bool:
    """Whether this mutant can be the active one, which a traced number does not tell."""
    return not isinstance(active, int) or active == number


def pick(
    active: Number,
    number: int,
    originals: Sequence[jax.Array],
    values: Sequence[jax.Array],
    others: Sequence[jax.Array],
) -> Arrays:
    """``others`` in the mutant of this number, else ``values``, which earlier mutants have changed."""
    picked = []
    for original, value, other in zip(originals, values, others, strict=True):
        if other is original:
            picked.append(value)  # this array is not changed, so there is nothing to choose
        else:
            picked.append(other if isinstance(active, int) else lax.select_n(active == number, value, other))
    return picked
