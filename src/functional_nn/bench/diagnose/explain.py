"""``explain(function, *arguments)``: causes of slowness in a traced and compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled

from functional_nn.bench.call_arguments import (
    check_call,
    check_later_calls,
    has_static_leaves,
    hide_static_leaves,
    taking_hidden,
)
from functional_nn.bench.diagnose.donation_and_retracing import carried_types, donations, retraced
from functional_nn.bench.diagnose.findings import Explanation
from functional_nn.bench.diagnose.hlo import looped_convolutions, slow_products
from functional_nn.bench.diagnose.jaxpr import captured_constants, scatters_of_pooling, wide_numbers, widened_products
from functional_nn.jaxprs.hlo_text import operations
from functional_nn.jaxprs.walk import fresh, live


def explain(
    function: Callable[..., object],
    *arguments: object,
    donate: int | Sequence[int] = (),
    then: Sequence[Sequence[object]] = (),
) -> Explanation:
    """Finds what makes a function slow as a compiled program. The function is compiled and not run.

    It looks for:

    - a convolution in a loop for which XLA has no fast routine;
    - a pooling gradient that is a scatter;
    - large arrays that the function closes over;
    - 64-bit numbers where no argument has 64 bits, and conversions that make products of a narrow type slow;
    - an argument that could be donated, because a result is the changed argument;
    - calls that are traced again, and the argument that causes it;
    - products for which the platform has no fast routine.

    Args:
        function: a function of pytrees of arrays.
        *arguments: the arguments of its call. A pytree may also have functions and texts as leaves, as an Equinox
            module has.
        donate: the numbers of the arguments that are already donated.
        then: the arguments of later calls, to check whether these are traced again.

    Raises:
        InputError: if ``function`` is not a function, if an argument is not an array, or if ``donate`` has a number
            without an argument.

    >>> import jax.numpy as jnp
    >>> w = jnp.ones((600, 600))
    >>> print(explain(lambda x: x @ w, jnp.ones((2, 600))).findings[0].remedy)
    Pass it as an argument.
    """
    donate = check_call(function, arguments, donate)
    later_calls = check_later_calls(function, then)
    if has_static_leaves((arguments, later_calls)):
        function, arguments = taking_hidden(function), tuple(map(hide_static_leaves, arguments))
        later_calls = [tuple(map(hide_static_leaves, call)) for call in later_calls]
    traced = jax.jit(fresh(function), donate_argnums=donate).trace(*arguments)
    found = find_causes(traced.jaxpr, traced.lower().compile(), arguments, donate, jax.default_backend())
    again = retraced(function, (arguments, *later_calls)) if later_calls else ()
    return Explanation(tuple(dict.fromkeys((*found.findings, *again))))


def find_causes(
    jaxpr: ClosedJaxpr, compiled: Compiled, arguments: Sequence[object], donate: Sequence[int], platform: str
) -> Explanation:
    """Finds the causes of slowness in a program that is already traced, and compiled for a platform."""
    program = live(jaxpr)
    found = list(operations(compiled.as_text() or ""))
    results = jax.tree.unflatten(compiled.out_tree, jaxpr.out_avals)
    findings = (
        *looped_convolutions(found, platform),
        *scatters_of_pooling(program),
        *captured_constants(program),
        *wide_numbers(program, arguments),
        *widened_products(program),
        *donations(program, arguments, donate),
        *carried_types(jaxpr, arguments, results),
        *slow_products(program, found, platform),
    )
    return Explanation(tuple(dict.fromkeys(findings)))
