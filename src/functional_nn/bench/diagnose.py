"""Causes of slowness in a function: its calls, its traced program and its compiled program."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import AbstractValue
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.stages import Compiled

from functional_nn.bench.compiled_program import argument_name, check_call
from functional_nn.bench.units import in_bytes
from functional_nn.core.display import html_text
from functional_nn.jaxprs import walk
from functional_nn.jaxprs.counts import ELEMENTWISE, VIEWS, size_of
from functional_nn.training.precision import x64_enabled


class Finding(NamedTuple):
    """A cause of slowness.

    Args:
        kind: "convolution in a loop", "scatter of a pooling gradient", "captured constant", "float64", "conversion",
            "donation", "retracing" or "slow product".
        layer: the path of the layer, and the direction; empty outside of layers.
        message: what was found, in a sentence.
        remedy: what to do, in a sentence.
    """

    kind: str
    layer: str
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f" in {self.layer}" if self.layer else ""
        return f"{self.kind}{where}: {self.message} {self.remedy}"


class Explanation(NamedTuple):
    """All findings. It prints one line for each finding, or says that there are none.

    >>> import functional_nn as fnn
    >>> print(fnn.bench.Explanation(()))
    nothing to warn of
    """

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing to warn of"

    _repr_html_ = html_text

    @property
    def kinds(self) -> set[str]:
        """The kinds of the findings."""
        return {finding.kind for finding in self.findings}

    def to_list(self) -> list[dict[str, str]]:
        """The findings, ready for JSON."""
        return [finding._asdict() for finding in self.findings]


def explain(function: Callable[..., object], *arguments: object, donate: int | Sequence[int] = ()) -> Explanation:
    """Finds what makes a function slow as a compiled program. The function is compiled and not run.

    It looks for:

    - a convolution in a loop for which XLA has no fast routine;
    - a pooling gradient that is a scatter;
    - large arrays that the function closes over;
    - 64-bit numbers where no argument has 64 bits, and arguments that every call converts to 32 bits;
    - an argument that could be donated, because a result is the changed argument;
    - a result that is the argument of the next call but has another type, so that this call is traced again;
    - products for which XLA has no fast routine on a CPU.

    Args:
        function: a function of pytrees of arrays.
        *arguments: the arguments of its call.
        donate: the numbers of the arguments that are already donated.

    Raises:
        InputError: if ``function`` is not a function, if an argument is not an array, or if ``donate`` has a number
            without an argument.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> w = jnp.ones((600, 600))
    >>> print(fnn.explain(lambda x: x @ w, jnp.ones((2, 600))).findings[0].remedy)
    Pass it as an argument.
    """
    donate = check_call(function, arguments, donate)
    traced = jax.jit(walk.fresh(function), donate_argnums=donate).trace(*arguments)
    return find_causes(traced.jaxpr, traced.lower().compile(), arguments, donate)


def find_causes(
    jaxpr: ClosedJaxpr, compiled: Compiled, arguments: Sequence[object], donate: Sequence[int]
) -> Explanation:
    """Finds the causes of slowness in a program that is already traced and compiled."""
    program = walk.live(jaxpr)
    results = jax.tree.unflatten(compiled.out_tree, jaxpr.out_avals)
    findings = (
        *scatters_of_pooling(program),
        *captured_constants(program),
        *wide_numbers(program, arguments),
        *donations(program, arguments, donate),
        *carried_types(jaxpr, arguments, results),
        *slow_products(compiled.as_text() or ""),
    )
    return Explanation(tuple(dict.fromkeys(findings)))


LARGE_CONSTANT = 2**20
"""The smallest size in bytes of a constant that makes compiling noticeably slower."""
WIDE = frozenset(("float64", "complex128"))


def place(scope: str) -> str:
    """The name that findings use for the layer of a scope and its direction."""
    layer, backward = walk.layer_of(scope)
    return f"{layer} (backward)" if layer and backward else layer


def _at_line(equation: JaxprEqn) -> str:
    """The user's line that an equation comes from, such as " at model.py:12"; empty if it is unknown."""
    where = source_info_util.summarize(equation.source_info).split(" ")[0]
    return "" if where.startswith("unknown") else f" at {':'.join(Path(where).name.split(':')[:2])}"


def scatters_of_pooling(program: ClosedJaxpr) -> Iterator[Finding]:
    """Warns if the gradient of a ``reduce_window`` maximum is scattered element by element."""
    for scope, equation, *_ in walk.equations(program):
        if equation.primitive.name in ("select_and_scatter_add", "select_and_gather_add"):
            message = f"the gradient of reduce_window over {equation.params['window_dimensions']} is a scatter"
            message += ", which takes many times as long as the pooling."
            remedy = "Use functional_nn.max_pool, which reshapes or slices."
            yield Finding("scatter of a pooling gradient", place(scope), message, remedy)


def captured_constants(program: ClosedJaxpr | Jaxpr, scope: str = "") -> Iterator[Finding]:
    """Warns of large arrays that a function closes over: they are compiled into the program."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    constants = program.consts if isinstance(program, ClosedJaxpr) else ()
    for variable, value in zip(jaxpr.constvars, constants, strict=True):
        size = size_of(variable.aval)
        if size >= LARGE_CONSTANT:
            user = next((equation for equation in jaxpr.eqns if variable in equation.invars), None)
            line = "" if user is None else _at_line(user)
            used = f", used{line}" if line else ""
            layer = place(scope if user is None else walk.within(scope, user))
            message = (
                f"an array {np.dtype(value.dtype).name}{list(value.shape)} of {in_bytes(size)} is a constant of the "
            )
            message += f"program{used}, which lengthens every compilation."
            yield Finding("captured constant", layer, message, "Pass it as an argument.")
    for equation in jaxpr.eqns:
        for inner in walk.inner_programs(equation):
            yield from captured_constants(inner, walk.within(scope, equation))


def wide_numbers(program: ClosedJaxpr, arguments: Sequence[object]) -> Iterator[Finding]:
    """Warns of 64-bit numbers where no argument has 64 bits, and of arguments that every call converts."""
    leaves = jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]
    for path, leaf in leaves:
        if isinstance(leaf, np.ndarray) and leaf.dtype.name in WIDE and not x64_enabled():
            message = (
                f"argument {argument_name(path)} is a NumPy array in {leaf.dtype.name}, which every call converts."
            )
            yield Finding("conversion", "", message, "Convert it once: jax.numpy.asarray(argument).")
    # Python numbers adapt to the type of the arrays, so they do not ask for 64 bits.
    arrays = [leaf for _, leaf in leaves if not isinstance(leaf, float | complex | int)]
    if any(jnp.result_type(array).name in WIDE for array in arrays):
        return
    for scope, equation, *_ in walk.equations(program):
        if any(str(getattr(out.aval, "dtype", "")) in WIDE for out in equation.outvars):
            given = f"{walk.array_type(equation.outvars[0]).dtype.name}{_at_line(equation)}"
            message = f"{equation.primitive.name} gives {given}, but no argument has this type."
            remedy = "Give constants the type of the arrays: jax.numpy.asarray(constant, x.dtype), or Python's numbers."
            yield Finding("float64", place(scope), message, remedy)
            return  # all later operations of this type follow from the first


WORTH_DONATING = 2**16
"""The smallest size in bytes of an argument that is worth donating."""
UPDATES = ELEMENTWISE | VIEWS | {"select_n", "convert_element_type", "copy"}
"""Operations that change an array element by element."""


def donations(program: ClosedJaxpr, arguments: Sequence[object], donated: Sequence[int]) -> Iterator[Finding]:
    """Warns of arguments that could be donated: the result is the changed argument and could use its memory."""
    updated = _updated_inputs(walk.flattened(program))
    leaves = jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]
    kept_by_caller = set(range(len(leaves))) - _donated_inside(program)
    for number in range(len(arguments)):
        inputs = [i for i in kept_by_caller if leaves[i][0][0].idx == number]
        sizes = {i: size_of(program.jaxpr.invars[i].aval) for i in inputs}
        changed_bytes = sum(sizes[i] for i in inputs if i in updated)
        # A donated argument is lost as a whole, so most of it has to come back changed.
        mostly_changed = 2 * changed_bytes >= sum(sizes.values())
        if number not in donated and changed_bytes >= WORTH_DONATING and mostly_changed:
            memory = f"{in_bytes(changed_bytes)} of new memory per call"
            remedy = f"Donate it if it is not used again: jax.jit(function, donate_argnums={number})."
            yield Finding("donation", "", f"argument {number} is returned with new values, in {memory}.", remedy)


def _donated_inside(program: ClosedJaxpr) -> set[int]:
    """The inputs of the program that are donated by a jitted function inside it."""
    calls = [(equation.invars, equation.params.get("donated_invars", ())) for equation in program.jaxpr.eqns]
    given = {operand for operands, away in calls for operand, is_away in zip(operands, away, strict=False) if is_away}
    return {number for number, variable in enumerate(program.jaxpr.invars) if variable in given}


def _updated_inputs(flat: walk.Flat) -> set[int]:
    """The inputs from which an output is made, element by element or as the carry of a loop.

    The search starts at each output and goes back through the steps, along arrays of the output's shape and type.
    """
    makers = {out: step for step in flat.steps for out in step.outputs}
    inputs = {place: number for number, place in enumerate(flat.inputs)}
    updated: set[int] = set()
    for output in flat.outputs:
        if not isinstance(output, int):  # a literal
            continue
        waiting: list[walk.Place] = [output]
        seen = set()
        while waiting:
            place = waiting.pop()
            # An array of another shape or type cannot leave its memory to the output.
            if not isinstance(place, int) or place in seen or not _same_type(flat, place, output):
                continue
            seen.add(place)
            if place in inputs:
                updated.add(inputs[place])
            elif place in makers:
                waiting += _updated_by(makers[place], place)
    return updated


def _updated_by(step: walk.Step, output: int) -> Sequence[walk.Place]:
    """The inputs of a step (as places) that it may have changed to this output."""
    name = step.equation.primitive.name
    if name in UPDATES:
        return step.inputs
    if name == "scan":
        _, carry, _ = walk.scan_parts(step.equation).split_operands(step.inputs)
        position = step.outputs.index(output)
        return carry[position : position + 1]  # empty for an output after the carry: it is stacked
    return ()


def _same_type(flat: walk.Flat, place: int, output: int) -> bool:
    one, other = flat.shapes[place], flat.shapes[output]
    return getattr(one, "shape", None) == getattr(other, "shape", ()) and one.dtype == other.dtype


def carried_types(program: ClosedJaxpr, arguments: Sequence[object], results: object) -> Iterator[Finding]:
    """Warns of results with the structure of an argument but other types. A next call with them is traced again."""
    several = results if isinstance(results, tuple) and not hasattr(results, "_fields") else (results,)
    avals = iter(program.in_avals)
    for number, argument in enumerate(arguments):
        leaves, structure = jax.tree_util.tree_flatten_with_path(argument)
        before = list(itertools.islice(avals, len(leaves)))
        if not isinstance(argument, dict | list | tuple):
            continue
        # A result with the same structure and shapes is assumed to be the argument of the next call: one of the same
        # types, or else the first one.
        made = [jax.tree.leaves(result) for result in several if jax.tree.structure(result) == structure]
        alike = [after for after in made if all(map(_same_shape, before, after))]
        types = list(map(_type_of, before))
        if not alike or any(list(map(_type_of, after)) == types for after in alike):
            continue
        for (path, _), type_before, after in zip(leaves, types, alike[0], strict=True):
            if type_before != _type_of(after):
                changed = f"{number}{jax.tree_util.keystr(path)} was {type_before} and comes back as {_type_of(after)}"
                remedy = f"Start with that type: jax.numpy.asarray(value, jax.numpy.{after.dtype})."
                yield Finding("retracing", "", f"argument {changed}: such a call is traced and compiled again.", remedy)


def _same_shape(one: AbstractValue, other: AbstractValue) -> bool:
    return getattr(one, "shape", ()) == getattr(other, "shape", ())


def _type_of(aval: AbstractValue) -> str:
    """The type and shape of a leaf, and whether it is a Python number. If one changes, JAX traces the call again."""
    weak = " (weak, as of a Python number)" if getattr(aval, "weak_type", False) else ""
    return f"{getattr(aval, 'dtype', None)}{list(getattr(aval, 'shape', ()))}{weak}"


USUAL_AXES = re.compile(r"dim_labels=b(\d*)f_\1io->b\1f\b")
"""The axes of a convolution in the order NHWC, HWIO, for any number of spatial axes."""
GROUPS = re.compile(r"(?:feature|batch)_group_count=(\d+)")


PRODUCT = re.compile(r"= (?P<type>\w+)\[\S* (?P<kind>dot|convolution)\((?P<rest>.*)$", re.MULTILINE)
"""A product in the text of a compiled program, with the type of its elements, such as ``f32``."""
OP_NAME = re.compile(r'op_name="([^"]*)/[^"/]*"')
"""The names of the scopes in which JAX traced an operation, such as ``jit(step)/jvp(dense_0)``."""
LOOP_BODY = "while/body"
"""The scope of what a loop repeats."""


def slow_products(text: str) -> Iterator[Finding]:
    """Warns of products for which XLA's CPU compiler has only a slow routine."""
    for found in PRODUCT.finditer(text) if jax.default_backend() == "cpu" else ():
        kind, rest = found["kind"], found["rest"]
        name, groups = OP_NAME.search(rest), GROUPS.search(rest)
        scope = name[1] if name else ""
        if kind == "convolution" and LOOP_BODY in scope and not USUAL_AXES.search(rest):
            message = "a convolution whose axes are not in the order NHWC, HWIO takes about 20 times as long in a loop "
            message += "on a CPU; JAX makes such convolutions for gradients."
            remedy = 'Use functional_nn.conv with lowering="auto" or with_hand_vjp, or take it out of the loop.'
            yield Finding("convolution in a loop", place(scope), message, remedy)
        if re.match(r"[su]\d|pred", found["type"]):
            message = f"a {kind} of integers ({found['type']}) runs in plain loops on a CPU."
            remedy = "Convert to float32 before the product; if the product selects rows, use indexing."
            yield Finding("slow product", place(scope), message, remedy)
        if kind == "convolution" and groups and int(groups[1]) > 1:
            message = f"a convolution in {groups[1]} groups has no fast routine on a CPU"
            message += "; vmap over weights makes such convolutions."
            remedy = 'Use functional_nn.conv with lowering="product", or lax.map over the members.'
            yield Finding("slow product", place(scope), message, remedy)
