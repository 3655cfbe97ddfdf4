"""Functions in which the results of ``stop_gradient`` are constants, for straight-through estimators."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.compare.problem import Function, Leaves
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, evaluate


def with_stopped_as_constants(function: Function, leaves: Leaves) -> Function:
    """The function whose derivative at a point is the one that ``stop_gradient`` defines there.

    Every result of ``jax.lax.stop_gradient`` is replaced by its value at the point. It no longer changes with the
    input: x + stop_gradient(round(x) - x) becomes x + constant, with derivative 1.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.

    Raises:
        InputError: ``stop_gradient`` is used inside a loop or a branch, where it has several values.

    >>> with jax.enable_x64(True):
    ...     rounded = lambda leaves: [leaves[0] + jax.lax.stop_gradient(jnp.round(leaves[0]) - leaves[0])]
    ...     frozen = with_stopped_as_constants(rounded, [jnp.array(2.75)])
    ...     print(frozen([jnp.array(2.75)])[0], frozen([jnp.array(2.875)])[0])
    3.0 3.125
    """
    program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
    stopped: dict[EquationPath, list[Value]] = {}

    def record(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
        results = compute(operands)
        if equation.primitive.name == "stop_gradient":
            if isinstance(results[0], Tracer):
                remedy = "Write the step as a function of its own and check that."
                raise InputError("stop_gradient_as_constant", "stop_gradient outside of loops", "one in a loop", remedy)
            stopped[path] = results
        return results

    def replay(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
        return stopped[path] if path in stopped else compute(operands)

    evaluate(program, [jnp.asarray(leaf) for leaf in leaves], record)
    return lambda leaves: evaluate(program, list(leaves), replay)
