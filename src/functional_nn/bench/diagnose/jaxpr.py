"""Causes of slowness in the traced program: pooling gradients, captured constants, and types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.tree_util import KeyPath

from functional_nn.bench.diagnose.findings import Finding
from functional_nn.bench.units import in_bytes
from functional_nn.jaxprs.bytes_moved import VIEWS, size_of
from functional_nn.jaxprs.inner_programs import array_type, inner_programs
from functional_nn.jaxprs.matrix_products import PRODUCTS
from functional_nn.jaxprs.walk import Step, equations, flattened, layer_of, within
from functional_nn.training.precision import x64_enabled

LARGE_CONSTANT = 2**20
"""The smallest size in bytes of a constant that makes compiling noticeably slower."""
SIXTEEN_BITS = frozenset(("bfloat16", "float16"))
WIDE = frozenset(("float64", "complex128"))
PASSED_ON = VIEWS | {"broadcast_in_dim", "slice", "pad", "concatenate", "rev", "copy"}
"""Operations that move the numbers of their first operand and do not change them."""


def place(scope: str) -> str:
    """The name that findings use for the layer of a scope and its direction."""
    layer, backward = layer_of(scope)
    return f"{layer} (backward)" if layer and backward else layer


def line_of(equation: JaxprEqn) -> str:
    """The user's line that an equation comes from, such as ``model.py:12``; empty if it is unknown."""
    where = source_info_util.summarize(equation.source_info).split(" ")[0]
    if where.startswith("unknown"):
        return ""
    return ":".join(Path(where).name.split(":")[:2])


def _at_line(equation: JaxprEqn) -> str:
    line = line_of(equation)
    return f" at {line}" if line else ""


def scatters_of_pooling(program: ClosedJaxpr) -> Iterator[Finding]:
    """Warns if the gradient of a ``reduce_window`` maximum is scattered element by element."""
    for scope, equation, *_ in equations(program):
        if equation.primitive.name in ("select_and_scatter_add", "select_and_gather_add"):
            yield Finding(
                "scatter of a pooling gradient",
                place(scope),
                f"the gradient of reduce_window over {equation.params['window_dimensions']} is a scatter, which takes "
                "many times as long as the pooling.",
                "Use functional_nn.max_pool, which reshapes or slices.",
            )


def captured_constants(program: ClosedJaxpr | Jaxpr, scope: str = "") -> Iterator[Finding]:
    """Warns of large arrays that a function closes over: they are compiled into the program."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    constants = program.consts if isinstance(program, ClosedJaxpr) else ()
    for variable, value in zip(jaxpr.constvars, constants, strict=True):
        size = size_of(variable.aval)
        if size >= LARGE_CONSTANT:
            user = next((equation for equation in jaxpr.eqns if variable in equation.invars), None)
            line = "" if user is None else line_of(user)
            used = f", used at {line}" if line else ""
            yield Finding(
                "captured constant",
                place(scope if user is None else within(scope, user)),
                f"an array {np.dtype(value.dtype).name}{list(value.shape)} of {in_bytes(size)} is a constant of the "
                f"program{used}, which lengthens every compilation.",
                "Pass it as an argument.",
            )
    for equation in jaxpr.eqns:
        for inner in inner_programs(equation):
            yield from captured_constants(inner, within(scope, equation))


def wide_numbers(program: ClosedJaxpr, arguments: Sequence[object]) -> Iterator[Finding]:
    """Warns of 64-bit numbers where no argument has 64 bits, and of arguments that every call converts."""
    leaves = jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]
    for path, leaf in leaves:
        if isinstance(leaf, np.ndarray) and leaf.dtype.name in WIDE and not x64_enabled():
            yield Finding(
                "conversion",
                "",
                f"argument {argument_name(path)} is a NumPy array in {leaf.dtype.name}, which every call converts.",
                "Convert it once: jax.numpy.asarray(argument).",
            )
    # Python numbers adapt to the type of the arrays, so they do not ask for 64 bits.
    arrays = [leaf for _, leaf in leaves if not isinstance(leaf, float | complex | int)]
    if any(jnp.result_type(array).name in WIDE for array in arrays):
        return
    for scope, equation, *_ in equations(program):
        if any(str(getattr(out.aval, "dtype", "")) in WIDE for out in equation.outvars):
            yield Finding(
                "float64",
                place(scope),
                f"{equation.primitive.name} gives {array_type(equation.outvars[0]).dtype.name}{_at_line(equation)}, "
                "but no argument has this type.",
                "Give constants the type of the arrays: jax.numpy.asarray(constant, x.dtype), or Python's numbers.",
            )
            return  # all later operations of this type follow from the first


def widened_products(program: ClosedJaxpr) -> Iterator[Finding]:
    """Warns of 32-bit products with an operand that had 16 bits before: type promotion made the product slow."""
    flat = flattened(program)
    was_narrow: dict[int, str] = {}  # places of 32-bit arrays, with the 16-bit type that their numbers had before
    for step in flat.steps:
        name = step.equation.primitive.name
        operand = step.inputs[0] if step.inputs else None
        if name in PRODUCTS:
            yield from _widened_product(step, was_narrow)
        elif not isinstance(operand, int):
            continue
        elif name == "convert_element_type" and flat.shapes[operand].dtype.name in SIXTEEN_BITS:
            if flat.shapes[step.outputs[0]].dtype in (jnp.float32, jnp.float64):
                was_narrow[step.outputs[0]] = flat.shapes[operand].dtype.name
        elif name in PASSED_ON and operand in was_narrow:
            was_narrow[step.outputs[0]] = was_narrow[operand]


def _widened_product(step: Step, was_narrow: dict[int, str]) -> Iterator[Finding]:
    """A finding if an operand of this product had 16 bits and another operand has, or had, another type."""
    types: list[str] = [array_type(variable).dtype.name for variable in step.equation.invars]
    original_types = set()
    for operand, type_now in zip(step.inputs, types, strict=True):
        original_types.add(was_narrow.get(operand, type_now) if isinstance(operand, int) else type_now)
    # Nothing was widened if both operands still have one narrow type.
    narrow_types = original_types & SIXTEEN_BITS
    if narrow_types and (original_types != {*types} or len(original_types) > 1):
        narrow, wide = min(narrow_types), array_type(step.equation.outvars[0]).dtype.name
        yield Finding(
            "conversion",
            place(step.scope),
            f"a product{_at_line(step.equation)} is computed in {wide}, though an operand comes in {narrow} and is "
            "converted.",
            f"Give both operands the type {narrow}, or keep the array in {wide} from the start.",
        )


def argument_name(path: KeyPath) -> str:
    """The name of a leaf among the arguments, such as ``0['weight']``."""
    number, *rest = path
    return f"{getattr(number, 'idx', number)}{jax.tree_util.keystr(tuple(rest))}"
