"""The comparison of one problem: full Jacobians of three parties in float64, then other types and transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.arbiter import Opinion, arbitrate, arbitrate_along
from functional_nn.gradients.mutants import Mutants
from functional_nn.gradients.problem import Leaves, Problem
from functional_nn.gradients.report import Verdict, judge
from functional_nn.gradients.rounding import rounding
from functional_nn.gradients.terms import absolute_terms

TOLERANCES = {"float64": 1e-13, "float32": 1e-5, "float16": 0.05, "bfloat16": 0.2}
"""What an error may be as a share of the sum of absolute terms: in float64 some 450 units in the last place."""
SECOND_ORDER_TOLERANCE = 1e-10
TRANSFORMS = ("jit", "vmap", "scan")
MOST_ELEMENTS = 4_000_000
"""Elements of all Jacobians above which the outputs are compared in a few random sums of them."""
SUMS = 8
SAME = 1e-14
"""As a share of a value: what compiling the same formula twice may change."""
NOTHING = 1e-25
"""What 50 digits leave of a derivative that is 0."""

compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""``jax.jit`` that compiles in half the time: these programs run a few times, on a few numbers."""


class Parties(NamedTuple):
    """What two parties say of the derivative by each leaf, and the sums of absolute terms, as lists of arrays."""

    hand: Any
    automatic: Any
    terms: Any


class Comparison:
    """Compares the formula of a problem with its other derivatives; each of the methods gives verdicts.

    Args:
        subject: the name in the verdicts.
        problem_in: ``problem_in(dtype)`` gives the problem in that type; the same structure in all of them.
        seed: of the cotangents and directions that are drawn.
        kinks_as_automatic: whether the formula's values at kinks are declared to be those of ``jax.grad``. Otherwise
            a kink is inconclusive.
        exact: whether the arbiter computes in 50 digits, where it can.
        tolerances: what an error may be in each type.
    """

    def __init__(
        self,
        subject: str,
        problem_in: Callable[[str], Problem],
        *,
        seed: int = 0,
        kinks_as_automatic: bool = False,
        exact: bool = True,
        tolerances: dict[str, float] | None = None,
    ):
        self.subject, self._problem_in, self._exact = subject, problem_in, exact
        self._kinks_as_automatic = kinks_as_automatic
        self._tolerances = TOLERANCES | (tolerances or {})
        with jax.enable_x64(True):
            self.problem = _condensed(problem_in("float64"))
            self.y_bars, self.directions = self._drawn(seed)
            self._jacobians = compiled(partial(_jacobians, self.problem))
            self._pushed = compiled(partial(_pushed, self.problem))
            self._pulled = compiled(partial(_pulled, self.problem))
        self._formula_is_right = dict.fromkeys(self.problem.names, True)
        self._automatic_is_right = dict.fromkeys(self.problem.names, True)
        self._at_kink = False

    def _drawn(self, seed: int) -> tuple[Leaves, Leaves]:
        """A cotangent of the outputs and a direction for the leaves, exact in all types."""
        random = np.random.default_rng(seed)
        draw = lambda leaf: (np.round(random.normal(size=np.shape(leaf)) * 64) + 0.5) / 64  # noqa: E731
        outputs = jax.eval_shape(self.problem.function, self.problem.leaves)
        return [draw(leaf) for leaf in outputs], [draw(leaf) for leaf in self.problem.leaves]

    def first_order(
        self, leaves: Leaves | None = None, *, regime: str = "normal", jvp: bool = True
    ) -> Iterator[Verdict]:
        """In float64 every element of the Jacobian, and the product with a direction that ``jax.jvp`` gives."""
        with jax.enable_x64(True):
            leaves = self.problem.leaves if leaves is None else leaves
            parties = self._jacobians(leaves)
            forward = self._pushed(leaves, self.directions) if jvp else None
            parties = Parties(*(_rows(party, leaves) for party in parties))
            doubts = [np.max(_share(h - a, t), 0, initial=0) for h, a, t in zip(*parties, strict=True)]
            opinion = arbitrate(self.problem.function, leaves, doubts, exact=self._exact)
        for number, name in enumerate(self.problem.names):
            hand, automatic, terms = (party[number] for party in parties)
            arbiter, error = self._with_automatic(opinion, number, automatic)
            arguments: dict[str, Any] = {"reference": opinion.name, "regime": regime, "transform": "jit"}
            verdict = self._verdict(name, hand, automatic, arbiter, error, terms, **arguments)
            self._formula_is_right[name] = verdict.outcome == "pass"
            self._automatic_is_right[name] = verdict.automatic_outcome != "fail"
            yield verdict
            if forward is None:
                continue
            u = self.directions[number].reshape(-1)
            pushed = np.asarray(forward[number], np.float64).reshape(-1)
            values = (hand @ u, pushed, arbiter @ u, error @ np.abs(u), terms @ np.abs(u))
            yield self._verdict(name, *values, kind="jvp", **arguments)

    def _with_automatic(
        self, opinion: Opinion, number: int, automatic: np.ndarray, *, second_order: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The arbiter's values and errors, with those of automatic differentiation where it was not asked.

        So it is where values at kinks are declared to be automatic differentiation's. A direction that leads through
        a kink of one element makes second derivatives of all others infinite.
        """
        values, error = automatic.copy(), np.zeros_like(automatic)
        columns = opinion.columns[number]
        values[:, columns], error[:, columns] = opinion.values[number], opinion.error[number]
        if self._kinks_as_automatic:
            declared = np.isinf(error) | second_order & self._at_kink
            self._at_kink |= bool(declared.any())
            values[declared], error[declared] = automatic[declared], 0
        return values, error

    def second_order(self, *, regime: str = "normal") -> Iterator[Verdict]:
        """In float64 the derivative of the pulled-back cotangent along a direction: Hessian-vector products."""
        with jax.enable_x64(True):
            program = compiled(partial(_second_order, self.problem))
            parties = program(self.problem.leaves, self.y_bars, self.directions)
            parties = Parties(*(_rows(party, self.problem.leaves) for party in parties))
            doubts = [_share(h - a, t)[0] for h, a, t in zip(*parties, strict=True)]
            opinion = arbitrate_along(self.problem, self.y_bars, self.directions, doubts, exact=self._exact)
        for number, name in enumerate(self.problem.names):
            hand, automatic, terms = (party[number] for party in parties)
            values = (hand, automatic, *self._with_automatic(opinion, number, automatic, second_order=True), terms)
            known: dict[str, Any] = {
                "reference": opinion.name,
                "kind": "second order",
                "transform": "jit",
                "regime": regime,
            }
            yield self._verdict(name, *values, tolerance=SECOND_ORDER_TOLERANCE, **known)

    def in_type(self, dtype: str, *, regime: str = "normal") -> Iterator[Verdict]:
        """A pulled-back cotangent in a type, under ``jit``, ``vmap`` and ``scan``, against float64 at the same point.

        The truth in float64 is what the formula gives, if ``first_order`` has not found it wrong, else automatic
        differentiation. Where it passed, their difference counts as the reference's own error.
        """
        with jax.enable_x64(True):  # random bits are those of float64
            problem = _condensed(self._problem_in(dtype))
            outputs = jax.eval_shape(problem.function, problem.leaves)
            y_bars = [np.asarray(bar).astype(y.dtype) for bar, y in zip(self.y_bars, outputs, strict=True)]
            ways, automatic = compiled(partial(_in_ways, problem))(problem.leaves, y_bars)
        with jax.enable_x64(True):
            given = [np.asarray(leaf).astype(np.float64) for leaf in (*problem.leaves, *y_bars)]
            truth = self._pulled(given[: len(problem.leaves)], given[len(problem.leaves) :])
        for transform, bars in zip(TRANSFORMS, ways, strict=True):
            for number, name in enumerate(self.problem.names):
                ours, other, terms, found, theirs = (
                    np.asarray(party[number]).astype(np.float64).reshape(-1) for party in (*truth, bars, automatic)
                )
                right = self._formula_is_right[name]
                both = right and self._automatic_is_right[name]
                exact, error = ours if right else other, np.abs(ours - other) if both else np.zeros_like(other)
                exact, error, terms, found, theirs = (part[None] for part in (exact, error, terms, found, theirs))
                known: dict[str, Any] = {
                    "dtype": dtype,
                    "transform": transform,
                    "regime": regime,
                    "reference": "float64",
                }
                yield self._verdict(name, found, theirs, exact, error, terms, **known)

    def killed(self, mutants: Mutants, arguments: Sequence[Any], leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        """Which mutants give anything else than the truth at a point, and which differ from the formula at all.

        Args:
            mutants: of the formula.
            arguments: what they are called with there, the outputs' cotangents last.
            leaves: the point.
        """
        with jax.enable_x64(True):
            bars = jax.tree.leaves(mutants.evaluate(*arguments))
            truth = Parties(*self._pulled(leaves, arguments[-1]))
        dead, changed = np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)
        for name, found, hand, automatic, terms in zip(self.problem.names, bars, *truth, strict=True):
            rows = np.asarray(found).reshape(len(mutants), -1)
            ours, theirs, unit = (np.asarray(party).reshape(-1) for party in (hand, automatic, terms))
            right = theirs if self._automatic_is_right[name] else ours
            dead |= ~(np.max(_share(rows - right, unit), 1, initial=0) <= self._tolerances["float64"])
            changed |= ~np.all(np.abs(rows - ours) <= SAME * np.abs(ours), 1)
        return dead, changed

    def _verdict(
        self,
        leaf: str,
        hand: np.ndarray,
        automatic: np.ndarray,
        arbiter: np.ndarray,
        error: np.ndarray,
        terms: np.ndarray,
        *,
        tolerance: float | None = None,
        dtype: str = "float64",
        **known: Any,
    ) -> Verdict:
        """The verdict on the element where the formula is worst: a failure before what cannot be told before a pass."""
        tolerance = self._tolerances[dtype] if tolerance is None else tolerance
        ours, its = _share(hand - arbiter, terms), _share(error, terms)
        theirs = _share(automatic - arbiter, terms)
        if not ours.size:
            return Verdict(self.subject, leaf, "pass", 0.0, tolerance, dtype=dtype, note="It has no elements.", **known)
        with np.errstate(invalid="ignore"):
            certain = np.where(np.isinf(its), -np.inf, ours - its)
        certain = np.where(np.isnan(ours), np.inf, certain)
        doubtful = np.nan_to_num(ours + its, nan=np.inf)
        at = np.unravel_index(np.argmax(certain if np.max(certain) > tolerance else doubtful), ours.shape)
        return Verdict(
            self.subject,
            leaf,
            judge(float(ours[at]), float(its[at]), tolerance),
            float(ours[at]),
            tolerance,
            dtype=dtype,
            automatic_error=float(np.max(np.nan_to_num(theirs, nan=np.inf))),
            reference_error=float(its[at]),
            index=self._index(leaf, at),
            hand=float(hand[at]),
            automatic=float(automatic[at]),
            arbiter=float(arbiter[at]),
            **known,
        )

    def _index(self, leaf: str, at: Sequence[Any]) -> tuple[int, ...]:
        """The place in the leaf of a column of its Jacobian; of a product with a direction the output's number."""
        shape = np.shape(self.problem.leaves[self.problem.names.index(leaf)])
        return tuple(map(int, np.unravel_index(at[-1], shape) if len(at) > 1 else at))


def _condensed(problem: Problem) -> Problem:
    """The problem itself, or with a few random sums of the outputs, where all Jacobians would be too large."""
    shapes = jax.eval_shape(problem.function, problem.leaves)
    outputs = sum(shape.size for shape in shapes)
    if outputs * sum(np.size(leaf) for leaf in problem.leaves) <= MOST_ELEMENTS:
        return problem
    random = np.random.default_rng(0)
    weights = [random.normal(size=(SUMS, shape.size)) for shape in shapes]

    def function(leaves: Leaves) -> Leaves:
        y = problem.function(leaves)
        sums = (jnp.asarray(w, leaf.dtype) @ leaf.reshape(-1) for w, leaf in zip(weights, y, strict=True))
        return [sum(sums, jnp.zeros(SUMS, y[0].dtype))]

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        given = zip(weights, shapes, strict=True)
        bars = [(y_bars[0] @ jnp.asarray(w, y_bars[0].dtype)).reshape(shape.shape) for w, shape in given]
        return problem.pullback(leaves, bars)

    return Problem(problem.names, problem.leaves, function, pullback)


def _jacobians(problem: Problem, leaves: Leaves) -> Parties:
    """Both Jacobians and their terms."""
    y, automatic = jax.vjp(problem.function, leaves)
    basis = _basis(y)
    return Parties(
        jax.vmap(partial(problem.pullback, leaves))(basis),
        jax.vmap(lambda y_bars: automatic(y_bars)[0])(basis),
        jax.vmap(partial(_terms, problem, leaves))(basis),
    )


def _pushed(problem: Problem, leaves: Leaves, directions: Leaves) -> Leaves:
    """For each leaf what ``jax.jvp`` makes of its direction alone."""
    pushed = []
    for number, u in enumerate(directions):
        only = [jnp.asarray(u) if i == number else jnp.zeros_like(leaf) for i, leaf in enumerate(leaves)]
        _, tangents = jax.jvp(problem.function, (leaves,), (only,))
        pushed.append(jnp.concatenate([tangent.reshape(-1) for tangent in tangents]))
    return pushed


def _basis(y: Leaves) -> Leaves:
    """A cotangent for every element of the outputs, along a leading axis."""
    sizes = [leaf.size for leaf in y]
    parts = jnp.split(jnp.eye(sum(sizes)), np.cumsum(sizes)[:-1].tolist(), axis=1)
    return [part.reshape(sum(sizes), *leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, y, strict=True)]


def _pulled(problem: Problem, leaves: Leaves, y_bars: Leaves) -> Parties:
    """What both parties pull one cotangent back to, and the sums of its absolute terms."""
    pull = partial(_automatic, problem, leaves)
    y_bars = list(map(jnp.asarray, y_bars))
    return Parties(problem.pullback(leaves, y_bars), pull(y_bars), _terms(problem, leaves, y_bars))


def _automatic(problem: Problem, leaves: Leaves, y_bars: Leaves) -> Leaves:
    """What ``jax.vjp`` makes of a cotangent."""
    return jax.vjp(problem.function, leaves)[1](y_bars)[0]


def _terms(problem: Problem, leaves: Leaves, y_bars: Leaves) -> Leaves:
    """The sum of absolute terms, and what rounding makes of them."""
    own = absolute_terms(lambda bars: jax.vjp(problem.function, leaves)[1](bars)[0], y_bars)
    return [a + b for a, b in zip(own, rounding(partial(_automatic, problem), leaves, y_bars), strict=True)]


def _in_ways(problem: Problem, leaves: Leaves, y_bars: Leaves) -> tuple[list[Leaves], Leaves]:
    """The formula alone, as a member of a vmapped population, and in a loop; and automatic differentiation."""
    y_bars = list(map(jnp.asarray, y_bars))
    twice = [jnp.stack([jnp.asarray(leaf), jnp.asarray(leaf) / 2]) for leaf in leaves]
    first = lambda bars: [bar[0] for bar in bars]  # noqa: E731
    vmapped = jax.vmap(lambda leaves: problem.pullback(leaves, y_bars))(twice)
    _, scanned = jax.lax.scan(lambda carry, leaves: (carry, problem.pullback(leaves, y_bars)), 0, twice)
    _, automatic = jax.vjp(problem.function, leaves)
    return [problem.pullback(leaves, y_bars), first(vmapped), first(scanned)], automatic(y_bars)[0]


def _along(pullback: Callable[[Leaves, Leaves], Leaves], leaves: Leaves, y_bars: Leaves, u: Leaves, t: Leaves):
    """The pulled-back cotangent as a function of t, at leaves + t u."""
    return pullback([leaf + t[0] * step for leaf, step in zip(leaves, u, strict=True)], list(map(jnp.asarray, y_bars)))


def _second_order(problem: Problem, leaves: Leaves, y_bars: Leaves, directions: Leaves) -> Parties:
    """The derivative of the pulled-back cotangent along a direction, of both formulas, and the terms."""

    automatic = partial(_automatic, problem)

    def derivative(pullback: Callable[[Leaves, Leaves], Leaves], t_dot: jax.Array) -> Leaves:
        function = partial(_along, pullback, leaves, y_bars, directions)
        return jax.jvp(function, ([jnp.zeros(())],), ([t_dot],))[1]

    one = jnp.ones(())
    own = absolute_terms(partial(derivative, automatic), one)
    terms = [a + b for a, b in zip(own, rounding(partial(derivative, automatic), one), strict=True)]
    return Parties(derivative(problem.pullback, one), derivative(automatic, one), terms)


def _rows(arrays: Leaves, leaves: Leaves) -> list[np.ndarray]:
    wide = zip((np.asarray(array, np.float64) for array in arrays), leaves, strict=True)
    return [array.reshape(-1 if np.size(leaf) else len(array), np.size(leaf)) for array, leaf in wide]


def _share(difference: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """|difference| / terms; of what has no terms infinite, but for a difference of many digits' own rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.abs(difference) / terms
    return np.where((difference == 0) | ((terms == 0) & (np.abs(difference) < NOTHING)), 0.0, share)
