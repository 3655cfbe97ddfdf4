"""Reading the text of a compiled program: its operations, their types, and which of them run in a loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

HEAD = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(?.*\{$")
OPERATION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) (?P<kind>[\w\-]+)\((?P<rest>.*)$")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
LOOP = re.compile(r"(?:body|condition)=%?([\w.\-]+)")
OPERAND = re.compile(r"%([\w.\-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')


class Operation(NamedTuple):
    """An operation of a compiled program.

    Args:
        kind: ``dot``, ``convolution``, ``fusion`` and so on.
        type: the type of its result, such as ``f32[128,10]{1,0}``.
        operand_types: the types of its operands.
        text: everything after its kind.
        in_loop: whether it runs in the body of a ``while``.
    """

    kind: str
    type: str
    operand_types: tuple[str, ...]
    text: str
    in_loop: bool

    @property
    def scope(self) -> str:
        """The names of the scopes in which JAX traced it, such as ``jit(step)/jvp(dense_0)``."""
        found = OP_NAME.search(self.text)
        return found[1].rpartition("/")[0] if found else ""

    @property
    def dtype(self) -> str:
        """The type of its elements, such as ``f32``."""
        return self.type.partition("[")[0]


def operations(text: str) -> Iterator[Operation]:
    """Reads all operations from the text of a compiled program."""
    parts: dict[str, list[re.Match[str]]] = {}
    current: list[re.Match[str]] = []
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = parts.setdefault(head["name"], [])
        elif found := OPERATION.match(line):
            current.append(found)
    looped = _reached(
        parts, {name for part in parts.values() for found in part for name in LOOP.findall(found["rest"])}
    )
    for name, part in parts.items():
        types = {found["name"]: found["type"] for found in part}
        for found in part:
            # Behind the first parenthesis there are attributes, which may also name computations.
            operands = (types.get(operand, "") for operand in OPERAND.findall(found["rest"].partition(")")[0]))
            yield Operation(found["kind"], found["type"], tuple(operands), found["rest"], name in looped)


def _reached(parts: dict[str, list[re.Match[str]]], start: set[str]) -> set[str]:
    """All computations that are called, directly or indirectly, from those in ``start``; includes ``start``."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name in reached or name not in parts:
            continue
        reached.add(name)
        for found in parts[name]:
            waiting += CALLED.findall(found["rest"])
            waiting += [part.strip(" %") for group in BRANCHES.findall(found["rest"]) for part in group.split(",")]
    return reached
