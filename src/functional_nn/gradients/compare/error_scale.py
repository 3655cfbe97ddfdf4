"""The sum of the absolute values of the terms that a derivative is the sum of: what errors are measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from functional_nn.jaxprs.equations import bind, scan_sizes

CALLS = ("jaxpr", "call_jaxpr")


class Term(NamedTuple):
    """What is known of a variable.

    Args:
        value: its value; None where it depends on the argument of the linear function.
        bound: of what depends on the argument the sum of absolute terms, otherwise None.
    """

    value: Any
    bound: Any

    @property
    def is_linear(self) -> bool:
        return self.value is None


def absolute_terms(linear: Callable[[Any], Any], argument: Any) -> Any:
    """Evaluates a linear function with absolute coefficients, at the absolute argument.

    By the chain rule a derivative is a sum over paths through the program, each term a product of local derivatives:
    x̄ᵢ = Σ_p Π_p c · ȳ. This gives Σ_p Π_p |c| · |ȳ|. An error in x̄ᵢ that is small beside this sum may be rounding;
    beside x̄ᵢ itself rounding may be large, where terms cancel.

    Args:
        linear: a pullback of ``jax.vjp``, or a push-forward of ``jax.jvp`` at a fixed point, traced with it.
        argument: the cotangents or tangents.

    >>> pullback = lambda y_bar: 3.0 * y_bar - 2.0 * y_bar
    >>> print(absolute_terms(pullback, jnp.array(-1.0)))
    5.0
    """
    program, shape = jax.make_jaxpr(linear, return_shape=True)(argument)
    arguments = [Term(None, jnp.abs(leaf)) for leaf in jax.tree.leaves(argument)]
    results = _evaluate(program.jaxpr, list(map(_constant, program.consts)), arguments)
    return jax.tree.unflatten(jax.tree.structure(shape), [_bound(term) for term in results])


def _constant(value: Any) -> Term:
    return Term(value, None)


def _is_floating(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _evaluate(jaxpr: Any, constants: Sequence[Term], arguments: Sequence[Term]) -> list[Term]:
    known: dict[Any, Term] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Term:
        if isinstance(variable, Literal):
            return _constant(jnp.asarray(variable.val, jnp.result_type(variable.aval)))
        return known[variable]

    for equation in jaxpr.eqns:
        known.update(zip(equation.outvars, _equation(equation, list(map(read, equation.invars))), strict=True))
    return list(map(read, jaxpr.outvars))


def _equation(equation: Any, terms: list[Term]) -> list[Term]:
    name = equation.primitive.name
    if name == "scan":
        return _scan(equation, terms)
    if name == "cond":
        return _cond(equation, terms)
    inner = [equation.params[parameter] for parameter in CALLS if parameter in equation.params]
    if inner and name != "while":
        jaxpr, constants = (inner[0].jaxpr, inner[0].consts) if hasattr(inner[0], "consts") else (inner[0], [])
        return _evaluate(jaxpr, list(map(_constant, constants)), terms)
    if any(term.is_linear for term in terms):
        return [Term(None, bound) for bound in _linear(equation, terms)]
    return list(map(_constant, bind(equation, [term.value for term in terms])))


def _linear(equation: Any, terms: list[Term]) -> list[Any]:
    """The bounds of what depends on the argument: differences are added, coefficients lose their signs."""
    name, positive = equation.primitive.name, list(map(_positive, terms))
    if name == "neg":
        return positive
    if name == "sub":
        return [positive[0] + positive[1]]
    return bind(equation, positive)


def _positive(term: Term) -> Any:
    """A bound, or a coefficient without its sign; integers and masks as they are."""
    return _bound(term) if term.is_linear or _is_floating(term.value) else term.value


def _bound(term: Term) -> Any:
    return term.bound if term.is_linear else jnp.abs(term.value)


def _cond(equation: Any, terms: list[Term]) -> list[Term]:
    index, *operands = terms
    branches = equation.params["branches"]
    linear = [any(flags) for flags in zip(*(_flags(b, [t.is_linear for t in operands]) for b in branches), strict=True)]

    def branch(closed: Any) -> Callable[..., Any]:
        return lambda given: _packed(
            _evaluate(closed.jaxpr, list(map(_constant, closed.consts)), _unpacked(given, operands)), linear
        )

    results = lax.switch(index.value, [branch(closed) for closed in branches], [tuple(term) for term in operands])
    return [Term(*result) for result in results]


def _unpacked(given: Sequence[tuple[Any, Any]], like: Sequence[Term]) -> list[Term]:
    return [Term(None if old.is_linear else value, bound) for (value, bound), old in zip(given, like, strict=True)]


def _packed(results: Sequence[Term], linear: Sequence[bool]) -> list[tuple[Any, Any]]:
    """Results as pytrees; what depends on the argument in another branch, or in a later step, has no value here."""
    return [(None, _bound(term)) if flag else (term.value, None) for term, flag in zip(results, linear, strict=True)]


def _scan(equation: Any, terms: list[Term]) -> list[Term]:
    """A loop; its carry may depend on the argument from the start or from some step on."""
    closed = equation.params["jaxpr"]
    outside, carried = scan_sizes(equation.params)
    flags = _reached(closed, outside, carried, [term.is_linear for term in terms])
    outputs = _flags(closed, flags)
    given = _packed(terms, flags)

    def step(carry: Any, x: Any) -> Any:
        arguments = [Term(*pair) for pair in (*given[:outside], *carry, *x)]
        results = _packed(_evaluate(closed.jaxpr, list(map(_constant, closed.consts)), arguments), outputs)
        return results[:carried], results[carried:]

    first, xs = given[outside : outside + carried], given[outside + carried :]
    extra = {name: equation.params[name] for name in ("length", "reverse")}
    carry, ys = lax.scan(step, first, xs, **extra)
    return [Term(*pair) for pair in (*carry, *ys)]


def _reached(closed: Any, outside: int, carried: int, linear: Sequence[bool]) -> list[bool]:
    """Which inputs of a loop's body depend on the argument, once every dependence has gone around."""
    flags = list(linear)
    while True:
        outputs = _flags(closed, flags)
        grown = [a or b for a, b in zip(flags[outside : outside + carried], outputs[:carried], strict=True)]
        if grown == flags[outside : outside + carried]:
            return flags
        flags[outside : outside + carried] = grown


def _flags(closed: Any, linear: Sequence[bool]) -> list[bool]:
    """Which outputs of a program depend on the argument, when these inputs do."""
    jaxpr = getattr(closed, "jaxpr", closed)
    known = dict.fromkeys(jaxpr.constvars, False)
    known.update(zip(jaxpr.invars, linear, strict=True))
    is_linear = lambda variable: not isinstance(variable, Literal) and known[variable]  # noqa: E731
    for equation in jaxpr.eqns:
        known.update(zip(equation.outvars, _flags_of(equation, list(map(is_linear, equation.invars))), strict=True))
    return list(map(is_linear, jaxpr.outvars))


def _flags_of(equation: Any, linear: list[bool]) -> list[bool]:
    name, parameters = equation.primitive.name, equation.params
    if name == "scan":
        outside, carried = scan_sizes(parameters)
        return _flags(parameters["jaxpr"], _reached(parameters["jaxpr"], outside, carried, linear))
    if name == "cond":
        return [any(flags) for flags in zip(*(_flags(b, linear[1:]) for b in parameters["branches"]), strict=True)]
    for parameter in CALLS:
        if parameter in parameters and name != "while":
            return _flags(parameters[parameter], linear)
    return [any(linear)] * len(equation.outvars)
