"""Mutants of a hand-derived backward pass, made automatically. A good comparison rejects each of them.

A mutant is the formula with one error that a person could make: a sign, a dropped term, a factor, a missing
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
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree, path_of
from functional_nn.core.validation import check_count, check_function
from functional_nn.gradients.mutation.operators import Alternative, Arrays, alternatives, cotangent_alternatives, sites
from functional_nn.jaxprs.evaluate import Compute, EquationPath, evaluate
from functional_nn.jaxprs.walk import array_type, live
from functional_nn.jaxprs.xla_options import quick_jit

AT_ONCE = 128
"""The number of mutants that are evaluated at the same time. It limits the memory."""

OUTPUTS: EquationPath = ()
"""The path of errors in the bars. They belong to no equation."""

Number: TypeAlias = int | jax.Array
"""The number of the active mutant: an integer, or a traced value."""


@dataclass(frozen=True)
class Mutant:
    """The formula with one error. Call it like the formula.

    Args:
        number: its index in its population.
        description: the error in words.
        place: the file and line of the equation, or the path of the bar.
        code: the text of this line; "" for an error in a bar.
        family: ``"bar"`` for an error in a result of the formula; ``"library"`` for one inside a function of JAX with
            a guard, such as the rule for infinity in ``jax.nn.softplus``; ``"equation"`` for one in another equation.
        path: the path of the equation; ``OUTPUTS`` for an error in a bar.
        alternative: the error.
        population: the mutants of the formula.
    """

    number: int
    description: str
    place: str
    code: str
    family: str
    path: EquationPath = field(repr=False)
    alternative: Alternative = field(repr=False, compare=False)
    population: Mutants = field(repr=False, compare=False)

    def __call__(self, *arguments: PyTree) -> PyTree:
        return self.population.alone(self.number, *arguments)

    def __str__(self) -> str:
        return f"{self.place}: {self.description}"


def mutate(hand_vjp: Callable[..., PyTree], *arguments: PyTree, limit: int | None = None, seed: int = 0) -> Mutants:
    """Makes the mutants of a hand-derived backward pass.

    Args:
        hand_vjp: ``hand_vjp(*arguments) -> bars``, any pytree. For a layer, this is ``layer.backward``.
        arguments: examples of its arguments, as pytrees of arrays. The cotangent of the output comes last. Later calls
            may have other values of the same shapes and types.
        limit: how many errors in equations to keep; they are chosen at random. Errors in bars are always kept.
        seed: the seed of this random choice.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> mutants = fnn.gradients.mutate(lambda x, y_bar: 2 * x * y_bar, jnp.ones(3), jnp.ones(3))
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
    program = live(program)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(shape)]
    names = [path_of(path) or "bar" for path in paths]
    bars = [
        (alternative.text, names[number], "", "bar", OUTPUTS, alternative)
        for number, alternative in cotangent_alternatives(jax.tree.leaves(shape), batch_size(arguments))
    ]
    equations = [
        (
            f"{called_name(site.equation)}: {alternative.text}",
            str(site.place or "?"),
            site.place.code if site.place else "",
            "library" if site.in_library else "equation",
            site.path,
            alternative,
        )
        for site in sites(program)
        if any(array_type(variable).size for variable in site.equation.outvars)
        for alternative in alternatives(site)
    ]
    if limit is not None and limit < len(equations):
        kept = random.Random(seed).sample(range(len(equations)), limit)
        equations = [equations[number] for number in sorted(kept)]
    return Mutants(program, arguments, jax.tree.structure(shape), [*bars, *equations])


def called_name(equation: JaxprEqn) -> str:
    """The name of the operation; of a call of a jitted function, the name of this function."""
    name = equation.primitive.name
    return equation.params["name"] if name == "jit" else name


def batch_size(arguments: Sequence[PyTree]) -> int | None:
    """The batch size, read from the last argument, the output's cotangent. None if there is only one example."""
    leaves = jax.tree.leaves(arguments[-1:])
    size = jnp.shape(leaves[0])[0] if leaves and jnp.ndim(leaves[0]) else 1
    return size if size > 1 else None


class Mutants:
    """All mutants of one formula, made by ``mutate``: a sequence of ``Mutant`` that one program evaluates together."""

    def __init__(
        self,
        program: ClosedJaxpr,
        arguments: Sequence[PyTree],
        structure: object,
        errors: Sequence[tuple[str, str, str, str, EquationPath, Alternative]],
    ):
        self._program, self._structure = program, structure
        self._expected = signature(arguments)
        self._mutants = [Mutant(number, *error, self) for number, error in enumerate(errors)]
        self._alternatives: dict[EquationPath, list[tuple[int, Alternative]]] = {}
        for mutant in self._mutants:
            self._alternatives.setdefault(mutant.path, []).append((mutant.number, mutant.alternative))
        self._population = quick_jit(self._all)

    def __len__(self) -> int:
        return len(self._mutants)

    def __iter__(self) -> Iterator[Mutant]:
        return iter(self._mutants)

    def __getitem__(self, number: int) -> Mutant:
        return self._mutants[number]

    def __repr__(self) -> str:
        return f"Mutants({len(self)})"

    def evaluate(self, *arguments: PyTree) -> PyTree:
        """Computes the bars of all mutants in one compiled program. The leading axis of each bar is the mutant."""
        return self.evaluate_beside_formula(*arguments)[0]

    def evaluate_beside_formula(self, *arguments: PyTree) -> tuple[PyTree, PyTree]:
        """Computes the bars of all mutants, and those of the formula by the same program, so that it rounds alike."""
        bars = jax.tree.map(np.asarray, self._population(self._leaves(arguments)))
        return jax.tree.map(lambda bar: bar[: len(self)], bars), jax.tree.map(lambda bar: bar[len(self)], bars)

    def alone(self, number: int, *arguments: PyTree) -> PyTree:
        """Computes the bars of one mutant. It can be traced, so it works under ``jit`` and ``vmap``."""
        return self._one(number, self._leaves(arguments))

    def _leaves(self, arguments: Sequence[PyTree]) -> list[jax.Array]:
        given = signature(arguments)
        if given != self._expected:
            expected = f"those that the mutants were made for, {self._expected}"
            raise InputError("arguments", expected, given, "Call mutate again with such arguments.")
        return [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]

    def _all(self, leaves: list[jax.Array]) -> PyTree:
        """Computes the bars of all mutants and of the formula, at most ``AT_ONCE`` of them at the same time."""
        groups = -(-(len(self) + 1) // AT_ONCE)
        size = -(-(len(self) + 1) // groups)
        # Numbers of no mutant give the formula itself. There is at least one.
        return lax.map(partial(self._one, leaves=leaves), jnp.arange(groups * size), batch_size=size)

    def _one(self, active: Number, leaves: list[jax.Array]) -> PyTree:
        """Computes the bars of the mutant with this number."""

        def changed(path: EquationPath, operands: Arrays, compute: Compute) -> Arrays:
            """The results of an equation, or of the whole formula, in the active mutant."""
            here = self._alternatives.get(path, [])
            if isinstance(active, int):
                here = [(number, alternative) for number, alternative in here if number == active]
            if here:
                operands = list(map(jnp.asarray, operands))  # constants of a program are not arrays of JAX
            others = [(number, one.before(list(operands))) for number, one in here if one.before]
            operands = _chosen(active, operands, others)
            results = compute(operands)
            others = [(number, one.after(list(operands), list(results))) for number, one in here if one.after]
            return _chosen(active, results, others)

        def hook(path: EquationPath, equation: JaxprEqn, operands: Arrays, compute: Compute) -> Arrays:
            return changed(path, operands, compute)

        bars = changed(OUTPUTS, [], lambda _: evaluate(self._program, leaves, hook))
        return jax.tree.unflatten(self._structure, bars)


def signature(arguments: Sequence[PyTree]) -> str:
    """The structure, shapes and types of the arguments as text."""
    return str(jax.tree.map(lambda leaf: jax.typeof(leaf).str_short(short_dtypes=True), tuple(arguments)))


def _chosen(active: Number, originals: Sequence[jax.Array], changes: Sequence[tuple[int, Arrays]]) -> Arrays:
    """Chooses the arrays that the active mutant makes in place of the originals. If its number is traced, it can be any
    of these mutants.
    """
    values = list(originals)
    for number, others in changes:
        for place, other in enumerate(others):
            if other is originals[place]:
                continue  # this mutant does not change the array
            if jnp.iscomplexobj(other) and not jnp.iscomplexobj(values[place]):
                other = jnp.real(other)  # as in |z| without the absolute value
            if not isinstance(active, int):
                other = lax.select_n(active == number, values[place], other)
            values[place] = other
    return values
