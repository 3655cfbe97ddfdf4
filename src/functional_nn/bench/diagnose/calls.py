"""Causes of slowness that lie in how a program is called: buffers that are not given away, and tracing again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

from functional_nn.bench.diagnose.findings import Finding
from functional_nn.bench.diagnose.jaxpr import argument_name
from functional_nn.bench.measure.memory import in_bytes
from functional_nn.jaxprs.bytes_moved import VIEWS, size_of
from functional_nn.jaxprs.flops import ELEMENTWISE
from functional_nn.jaxprs.inner_programs import scan_parts
from functional_nn.jaxprs.walk import Flat, Place, flattened

WORTH_DONATING = 2**16
"""Bytes of an argument from which on its place is worth keeping."""
UPDATES = ELEMENTWISE | VIEWS | {"select_n", "convert_element_type", "copy", "clamp"}


def donations(program: Any, arguments: Sequence[Any], donated: Sequence[int]) -> Iterator[Finding]:
    """Arguments that come back changed, and whose buffers could hold what comes back."""
    updated = _updated(flattened(program))
    leaves = jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]
    kept_by_caller = set(range(len(leaves))) - _given_away(program)
    for number in range(len(arguments)):
        own = [i for i in kept_by_caller if leaves[i][0][0].idx == number]
        sizes = {i: size_of(program.jaxpr.invars[i].aval) for i in own}
        kept = sum(sizes[i] for i in own if i in updated)
        if number not in donated and kept >= WORTH_DONATING and 2 * kept >= sum(sizes.values()):
            yield Finding(
                "donation",
                "",
                f"argument {number} comes back changed, and {in_bytes(kept)} are made anew in each call.",
                f"Give it away, where it is not used again: jax.jit(function, donate_argnums={number}).",
            )


def _given_away(program: Any) -> set[int]:
    """The inputs that a jitted function within the program is given for good."""
    calls = [(equation.invars, equation.params.get("donated_invars", ())) for equation in program.jaxpr.eqns]
    given = {operand for operands, donated in calls for operand, away in zip(operands, donated, strict=False) if away}
    return {number for number, variable in enumerate(program.jaxpr.invars) if variable in given}


def _updated(flat: Flat) -> dict[int, int]:
    """Of inputs, by number, the output that each is changed into: element by element, or carried through a loop."""
    makers = {out: step for step in flat.steps for out in step.outputs}
    inputs = {place: number for number, place in enumerate(flat.inputs)}
    updated: dict[int, int] = {}
    for number, output in enumerate(flat.outputs):
        if isinstance(output, Literal):
            continue
        waiting: list[Place] = [output]
        seen = set()
        while waiting:
            place = waiting.pop()
            if not isinstance(place, int) or place in seen or not _alike(flat, place, output):
                continue
            seen.add(place)
            if place in inputs:
                updated.setdefault(inputs[place], number)
            elif place in makers:
                step = makers[place]
                name = step.equation.primitive.name
                if name in UPDATES:
                    waiting += step.inputs
                elif name == "scan":
                    _, carry, _ = scan_parts(step.equation).split_operands(step.inputs)
                    position = step.outputs.index(place)
                    waiting += carry[position : position + 1]
    return updated


def _alike(flat: Flat, place: int, output: int) -> bool:
    one, other = flat.shapes[place], flat.shapes[output]
    return getattr(one, "shape", None) == getattr(other, "shape", ()) and one.dtype == other.dtype


def carried_types(program: Any, arguments: Sequence[Any], out_info: Any) -> Iterator[Finding]:
    """Results that are an argument of the next call, but of another type than it: that call is traced again."""
    results = out_info if isinstance(out_info, tuple) and not hasattr(out_info, "_fields") else (out_info,)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]]
    given, given_tree = _types(program.in_avals, tuple(arguments))
    made, made_tree = _types(program.out_avals, results)
    for number, (own, tree) in enumerate(zip(given, given_tree, strict=True)):
        if not own or not isinstance(arguments[number], dict | list | tuple):
            continue
        for other, other_tree in zip(made, made_tree, strict=True):
            if tree == other_tree and [t[0] for t in own] == [t[0] for t in other]:
                start = sum(map(len, given[:number]))
                for position, (before, after) in enumerate(zip(own, other, strict=True)):
                    if before != after:
                        yield _retraced(argument_name(paths[start + position]), before, after, "comes back as")
                break


def _types(avals: Sequence[Any], trees: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
    """The shape, type and weakness of every leaf, and the structure, of each of several trees."""
    rest, types, structures = list(avals), [], []
    for tree in trees:
        structure = jax.tree.structure(tree)
        own, rest = rest[: structure.num_leaves], rest[structure.num_leaves :]
        types.append([_type(aval) for aval in own])
        structures.append(structure)
    return types, structures


def _type(aval: Any) -> tuple[tuple[int, ...], str, bool]:
    return aval.shape, str(aval.dtype), bool(getattr(aval, "weak_type", False))


def retraced(function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[Finding]:
    """Calls after the first that are traced again, and by which argument."""
    count = 0

    def counted(*arguments):
        nonlocal count
        count += 1
        return function(*arguments)

    jitted: Any = jax.jit(counted)
    traced: list[tuple[Sequence[Any], list[Any]]] = []
    for arguments in calls:
        before = count
        types = [_type(aval) for aval in jitted.trace(*arguments).jaxpr.in_avals]
        if count > before and traced:
            yield _difference(arguments, types, *traced[-1])
        if count > before:
            traced.append((arguments, types))


def _difference(arguments: Any, types: list[Any], earlier: Any, earlier_types: list[Any]) -> Finding:
    if jax.tree.structure(tuple(arguments)) != jax.tree.structure(tuple(earlier)):
        for number, (new, old) in enumerate(zip(arguments, earlier, strict=False)):
            if jax.tree.structure(new) != jax.tree.structure(old):
                return _finding(f"argument {number} has another structure than in an earlier call")
        return _finding(f"there are {len(arguments)} arguments, after {len(earlier)}")
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]]
    for path, new, old in zip(paths, types, earlier_types, strict=True):
        if new != old:
            return _retraced(argument_name(path), old, new, "is now")
    return _finding("its arguments have the same types, so a setting or where they lie has changed")


def _retraced(argument: str, before: Any, after: Any, how: str) -> Finding:
    words = [
        f"{dtype}{list(shape)}{' (weak, as of a Python number)' if weak else ''}"
        for shape, dtype, weak in (before, after)
    ]
    if before[0] != after[0]:
        remedy = "Keep shapes the same: pad the last batch, or leave it out."
    else:
        remedy = f"Start with that type: jax.numpy.asarray(value, jax.numpy.{after[1]})."
    return _finding(f"argument {argument} was {words[0]} and {how} {words[1]}", remedy)


def _finding(what: str, remedy: str = "Call it with arguments of one structure, shape and type.") -> Finding:
    return Finding("retracing", "", f"{what}: such a call is traced and compiled again.", remedy)
