"""``explain(function, *arguments)``: reads the traced and the compiled program, and says what makes it slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from functional_nn.bench.argument_checks import check_call, check_calls
from functional_nn.bench.diagnose.calls import carried_types, donations, retraced
from functional_nn.bench.diagnose.findings import Explanation
from functional_nn.bench.diagnose.hlo import looped_convolutions, slow_products
from functional_nn.bench.diagnose.jaxpr import captured_constants, scatters_of_pooling, wide_numbers, widened_products
from functional_nn.jaxprs.hlo_text import operations
from functional_nn.jaxprs.walk import fresh, live


def explain(
    function: Callable[..., Any], *arguments: Any, donate: int | Sequence[int] = (), then: Sequence[Sequence[Any]] = ()
) -> Explanation:
    """Looks for what makes a function slow as a compiled program; it is compiled, and not run.

    Looked for are: a convolution in a loop that XLA has no quick routine for there; a pooling gradient that is a
    scatter; large arrays that the function closes over; 64-bit numbers that no argument has, and conversions that take
    a narrow type's speed away; an argument that comes back changed and could be given away; calls that are traced
    again, and by which argument; products that the platform has no quick routine for.

    Args:
        function: of pytrees of arrays.
        *arguments: what it is called with.
        donate: numbers of the arguments that are given away already.
        then: the arguments of later calls, to see whether they are traced again.

    Raises:
        InputError: for what is no function, arguments that are no arrays, and numbers that are no argument's.

    >>> import jax.numpy as jnp
    >>> w = jnp.ones((600, 600))
    >>> print(explain(lambda x: x @ w, jnp.ones((2, 600))).findings[0].remedy)
    Pass it as an argument.
    """
    donate, then = check_call(function, arguments, donate), check_calls(function, then)
    traced = jax.jit(fresh(function), donate_argnums=donate).trace(*arguments)
    return explained(function, traced, traced.lower().compile(), arguments, donate, then)


def explained(
    function: Callable[..., Any],
    traced: Any,
    compiled: Any,
    arguments: Sequence[Any],
    donate: Sequence[int] = (),
    then: Sequence[Sequence[Any]] = (),
) -> Explanation:
    """The same of a function that is traced and compiled already."""
    program, platform = live(traced.jaxpr), jax.default_backend()
    found = list(operations(compiled.as_text() or ""))
    findings = [
        *looped_convolutions(found, platform),
        *scatters_of_pooling(program),
        *captured_constants(program),
        *wide_numbers(program, arguments),
        *widened_products(program),
        *donations(program, arguments, donate),
        *carried_types(traced.jaxpr, arguments, traced.out_info),
        *retraced(function, (arguments, *then) if then else ()),
        *slow_products(program, found, platform),
    ]
    return Explanation(tuple(dict.fromkeys(findings)))
