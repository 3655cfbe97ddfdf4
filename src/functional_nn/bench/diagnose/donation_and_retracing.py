"""Causes of slowness in how a program is called: arguments that are not donated, and calls that are traced again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from jax.core import AbstractValue
from jax.extend.core import ClosedJaxpr

from functional_nn.bench.diagnose.findings import Finding
from functional_nn.bench.diagnose.jaxpr import argument_name
from functional_nn.bench.units import in_bytes
from functional_nn.jaxprs.bytes_moved import VIEWS, size_of
from functional_nn.jaxprs.flops import ELEMENTWISE
from functional_nn.jaxprs.inner_programs import scan_parts
from functional_nn.jaxprs.walk import Flat, Place, Step, flattened

WORTH_DONATING = 2**16
"""The smallest size in bytes of an argument that is worth donating."""
UPDATES = ELEMENTWISE | VIEWS | {"select_n", "convert_element_type", "copy"}
"""Operations that change an array element by element."""


class LeafType(NamedTuple):
    """Shape and type of a leaf, and whether it is a Python number. If one changes, JAX traces the call again."""

    shape: tuple[int, ...]
    dtype: str
    weak: bool

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}{' (weak, as of a Python number)' if self.weak else ''}"


class _TypedTree(NamedTuple):
    """The structure of a pytree, which can be compared, and the types of its leaves."""

    structure: object
    types: list[LeafType]


def donations(program: ClosedJaxpr, arguments: Sequence[object], donated: Sequence[int]) -> Iterator[Finding]:
    """Warns of arguments that could be donated: the result is the changed argument and could use its memory."""
    updated = _updated_inputs(flattened(program))
    leaves = jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]
    kept_by_caller = set(range(len(leaves))) - _donated_inside(program)
    for number in range(len(arguments)):
        inputs = [i for i in kept_by_caller if leaves[i][0][0].idx == number]
        sizes = {i: size_of(program.jaxpr.invars[i].aval) for i in inputs}
        changed_bytes = sum(sizes[i] for i in inputs if i in updated)
        # A donated argument is lost as a whole, so most of it has to come back changed.
        mostly_changed = 2 * changed_bytes >= sum(sizes.values())
        if number not in donated and changed_bytes >= WORTH_DONATING and mostly_changed:
            yield Finding(
                "donation",
                "",
                f"argument {number} is returned with new values, in {in_bytes(changed_bytes)} of new memory per call.",
                f"Donate it if it is not used again: jax.jit(function, donate_argnums={number}).",
            )


def _donated_inside(program: ClosedJaxpr) -> set[int]:
    """The inputs of the program that are donated by a jitted function inside it."""
    given = set()
    for equation in program.jaxpr.eqns:
        donated = equation.params.get("donated_invars", ())
        given |= {operand for operand, away in zip(equation.invars, donated, strict=False) if away}
    return {number for number, variable in enumerate(program.jaxpr.invars) if variable in given}


def _updated_inputs(flat: Flat) -> set[int]:
    """The inputs from which an output is made, element by element or as the carry of a loop.

    The search starts at each output and goes back through the steps, along arrays of the output's shape and type.
    """
    makers = {out: step for step in flat.steps for out in step.outputs}
    inputs = {place: number for number, place in enumerate(flat.inputs)}
    updated: set[int] = set()
    for output in flat.outputs:
        if not isinstance(output, int):  # a literal
            continue
        waiting: list[Place] = [output]
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


def _updated_by(step: Step, output: int) -> Sequence[Place]:
    """The inputs of a step (as places) that it may have changed to this output."""
    name = step.equation.primitive.name
    if name in UPDATES:
        return step.inputs
    if name == "scan":
        _, carry, _ = scan_parts(step.equation).split_operands(step.inputs)
        position = step.outputs.index(output)
        return carry[position : position + 1]  # empty for an output after the carry: it is stacked
    return ()


def _same_type(flat: Flat, place: int, output: int) -> bool:
    one, other = flat.shapes[place], flat.shapes[output]
    return getattr(one, "shape", None) == getattr(other, "shape", ()) and one.dtype == other.dtype


def carried_types(program: ClosedJaxpr, arguments: Sequence[object], results: object) -> Iterator[Finding]:
    """Warns of results with the structure of an argument but other types. A next call with them is traced again."""
    several = results if isinstance(results, tuple) and not hasattr(results, "_fields") else (results,)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]]
    given = _typed_trees(program.in_avals, arguments)
    made = _typed_trees(program.out_avals, several)
    start = 0
    for argument, before in zip(arguments, given, strict=True):
        own_paths = paths[start : start + len(before.types)]
        start += len(before.types)
        if not before.types or not isinstance(argument, dict | list | tuple):
            continue
        # A result with the same structure and shapes is assumed to be the argument of the next call: one of the same
        # types, or else the first one.
        alike = [tree for tree in made if _is_alike(before, tree)]
        after = before if before in alike or not alike else alike[0]
        for path, type_before, type_after in zip(own_paths, before.types, after.types, strict=True):
            if type_before != type_after:
                yield _type_change(argument_name(path), type_before, type_after, "comes back as")


def _is_alike(one: _TypedTree, other: _TypedTree) -> bool:
    same_shapes = [leaf.shape for leaf in one.types] == [leaf.shape for leaf in other.types]
    return one.structure == other.structure and same_shapes


def _typed_trees(avals: Sequence[AbstractValue], trees: Sequence[object]) -> list[_TypedTree]:
    """The structure of each tree and the types of its leaves. ``avals`` has the leaves of all trees in order."""
    typed, start = [], 0
    for tree in trees:
        structure = jax.tree.structure(tree)
        end = start + structure.num_leaves
        typed.append(_TypedTree(structure, [_type_of(aval) for aval in avals[start:end]]))
        start = end
    return typed


def _type_of(aval: AbstractValue) -> LeafType:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return LeafType(shape, str(dtype), bool(getattr(aval, "weak_type", False)))


def retraced(function: Callable[..., object], calls: Sequence[Sequence[object]]) -> Iterator[Finding]:
    """Warns of calls after the first that are traced again, and names the argument that causes it."""
    traces = 0

    def counted(*arguments):
        nonlocal traces
        traces += 1
        return function(*arguments)

    jitted = jax.jit(counted)
    last: tuple[Sequence[object], list[LeafType]] | None = None
    for arguments in calls:
        before = traces
        # The call is traced and not run. JAX caches traces, so the counter shows whether this one was new.
        types = [_type_of(aval) for aval in jitted.trace(*arguments).jaxpr.in_avals]
        if traces > before:
            if last is not None:
                yield _difference(arguments, types, *last)
            last = arguments, types


def _difference(
    arguments: Sequence[object], types: list[LeafType], earlier: Sequence[object], earlier_types: list[LeafType]
) -> Finding:
    if jax.tree.structure(tuple(arguments)) != jax.tree.structure(tuple(earlier)):
        for number, (new, old) in enumerate(zip(arguments, earlier, strict=False)):
            if jax.tree.structure(new) != jax.tree.structure(old):
                return _retracing(f"argument {number} has another structure than in an earlier call")
        return _retracing(f"there are {len(arguments)} arguments, after {len(earlier)}")
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]]
    for path, new, old in zip(paths, types, earlier_types, strict=True):
        if new != old:
            return _type_change(argument_name(path), old, new, "is now")
    return _retracing("its arguments have the same types, so a setting has changed, or the device they are on")


def _type_change(argument: str, before: LeafType, after: LeafType, how: str) -> Finding:
    remedy = f"Start with that type: jax.numpy.asarray(value, jax.numpy.{after.dtype})."
    if before.shape != after.shape:
        remedy = "Keep shapes the same: pad the last batch, or leave it out."
    return _retracing(f"argument {argument} was {before} and {how} {after}", remedy)


def _retracing(change: str, remedy: str = "Call it with arguments of one structure, shape and type.") -> Finding:
    return Finding("retracing", "", f"{change}: such a call is traced and compiled again.", remedy)
