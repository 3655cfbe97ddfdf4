"""Causes of slowness that the traced program shows: pooling, constants, types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util

from functional_nn.bench.diagnose.findings import Finding
from functional_nn.bench.measure.memory import in_bytes
from functional_nn.bench.measure.peaks import PRODUCTS
from functional_nn.jaxprs.bytes_moved import VIEWS, size_of
from functional_nn.jaxprs.inner_programs import array_type, inner_programs
from functional_nn.jaxprs.walk import equations, flattened, layer_of, within
from functional_nn.training.optimizers.precision import x64_enabled

LARGE_CONSTANT = 2**20
"""Bytes of a constant from which on compiling takes noticeably longer."""
SIXTEEN_BITS = frozenset(("bfloat16", "float16"))
WIDE = frozenset(("float64", "complex128"))
PASSED_ON = VIEWS | {"broadcast_in_dim", "slice", "pad", "concatenate", "rev", "copy"}


def place(scope: str) -> str:
    """The layer of a scope, and its direction, as findings name it."""
    layer, backward = layer_of(scope)
    return f"{layer} (backward)" if layer and backward else layer


def line_of(equation: Any) -> str:
    """The user's line that an equation comes from: ``model.py:12``; empty where it is not known."""
    where = source_info_util.summarize(equation.source_info).split(" ")[0]
    return "" if where.startswith("unknown") else ":".join(Path(where).name.split(":")[:2])


def scatters_of_pooling(program: Any) -> Iterator[Finding]:
    """``reduce_window``'s maximum, differentiated: the gradient is put into place element by element."""
    for scope, equation, *_ in equations(program):
        if equation.primitive.name in ("select_and_scatter_add", "select_and_gather_add"):
            yield Finding(
                "scatter of a pooling gradient",
                place(scope),
                f"the gradient of reduce_window over {equation.params['window_dimensions']} is a scatter, which takes "
                "many times as long as the pooling.",
                "Use functional_nn.max_pool, which reshapes or slices.",
            )


def captured_constants(program: Any, scope: str = "") -> Iterator[Finding]:
    """Arrays that a function closes over: they are compiled into the program."""
    jaxpr = getattr(program, "jaxpr", program)
    for variable, value in zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True):
        if size_of(variable.aval) >= LARGE_CONSTANT:
            users = [equation for equation in jaxpr.eqns if variable in equation.invars]
            at = f", used at {line_of(users[0])}" if users and line_of(users[0]) else ""
            yield Finding(
                "captured constant",
                place(within(scope, users[0]) if users else scope),
                f"an array {np.dtype(value.dtype).name}{list(value.shape)} of {in_bytes(size_of(variable.aval))} is "
                f"a constant of the program{at}, which lengthens every compilation.",
                "Pass it as an argument.",
            )
    for equation in jaxpr.eqns:
        for inner in inner_programs(equation):
            yield from captured_constants(inner, within(scope, equation))


def wide_numbers(program: Any, arguments: Sequence[Any]) -> Iterator[Finding]:
    """64-bit numbers that no argument has; and arguments that are converted in every call."""
    leaves = jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]
    for path, leaf in leaves:
        if isinstance(leaf, np.ndarray) and leaf.dtype.name in WIDE and not x64_enabled():
            yield Finding(
                "conversion",
                "",
                f"argument {argument_name(path)} is a NumPy array in {leaf.dtype.name}, which is converted in each "
                "call.",
                "Convert it once: jax.numpy.asarray(argument).",
            )
    if any(jnp.result_type(leaf).name in WIDE for _, leaf in leaves if not isinstance(leaf, float | complex | int)):
        return
    for scope, equation, *_ in equations(program):
        if any(str(getattr(out.aval, "dtype", "")) in WIDE for out in equation.outvars):
            at = f" at {line_of(equation)}" if line_of(equation) else ""
            yield Finding(
                "float64",
                place(scope),
                f"{equation.primitive.name} gives {array_type(equation.outvars[0]).dtype.name}{at}, and no argument "
                "does.",
                "Give constants the type of the arrays: jax.numpy.asarray(constant, x.dtype), or Python's numbers.",
            )
            return


def widened_products(program: Any) -> Iterator[Finding]:
    """Products in 32 bits of what had 16: a promotion that took the speed of the narrow type away."""
    flat = flattened(program)
    narrow: dict[Any, str] = {}
    for step in flat.steps:
        name = step.equation.primitive.name
        operand = step.inputs[0] if step.inputs else None
        known = isinstance(operand, int)
        if name == "convert_element_type" and known and flat.shapes[operand].dtype.name in SIXTEEN_BITS:
            if flat.shapes[step.outputs[0]].dtype in (jnp.float32, jnp.float64):
                narrow[step.outputs[0]] = flat.shapes[operand].dtype.name
        elif name in PASSED_ON and known and operand in narrow:
            narrow[step.outputs[0]] = narrow[operand]
        elif name in PRODUCTS:
            types: list[str] = [array_type(variable).dtype.name for variable in step.equation.invars]
            operands = zip(step.inputs, types, strict=True)
            came = {narrow.get(place, own) if isinstance(place, int) else own for place, own in operands}
            if came & SIXTEEN_BITS and (came != {*types} or len(came) > 1):
                wide, own = array_type(step.equation.outvars[0]).dtype.name, min(came & SIXTEEN_BITS)
                at = f" at {line_of(step.equation)}" if line_of(step.equation) else ""
                yield Finding(
                    "conversion",
                    place(step.scope),
                    f"a product{at} is computed in {wide}, though an operand comes in {own} and is converted.",
                    f"Give both operands the type {own}, or keep the array in {wide} from the start.",
                )


def argument_name(path: Any) -> str:
    """A leaf among the arguments: ``0['weight']``."""
    number, *rest = path
    return f"{number.idx}{jax.tree_util.keystr(tuple(rest))}"
