"""Traced programs: inner programs, every equation with its layer and repeats, flat programs, and source lines."""

from __future__ import annotations

import functools
import linecache
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, cast

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval
from jax.typing import ArrayLike

from functional_nn.core.layer import BACKWARD

TracedProgram: TypeAlias = ClosedJaxpr | Jaxpr
"""A traced program, with or without the values of its constants."""

Value = TypeVar("Value")

CALLS = frozenset(
    {"jit", "call", "closed_call", "eval_jaxpr", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
    | {"call_hi_primitive"}
)
"""Equations that only call another program, once, with their own operands and results.

Such an equation may also contain a rule for derivatives or for ``vmap``. This rule is another program, which never
runs here.
"""
CALLED = ("jaxpr", "call_jaxpr", "call")
"""The possible names of the parameter that holds the program of a call. Each call has one of them."""
LOOPS = frozenset(("scan", "while"))
ELEMENT_RULES = ("scatter", "reduce", "arg", "select_and_scatter", "sort")
"""Prefixes of operations that have a program as a parameter: it combines or compares two elements. Such a program never
runs by itself."""


class Scan(NamedTuple):
    """A ``scan``: in each step ``body(*constants, *carry, *inputs) -> (*carry, *outputs)``.

    Args:
        body: the program of one step.
        constants: the number of operands that are the same in every step.
        carried: the number of values in the carry, which pass from step to step.
        length: the number of steps.
        reverse: whether the steps run from the last to the first.
    """

    body: ClosedJaxpr
    constants: int
    carried: int
    length: int
    reverse: bool

    def split_operands(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """Splits the operands into constants, initial carry, and inputs of the steps."""
        end = self.constants + self.carried
        return list(operands[: self.constants]), list(operands[self.constants : end]), list(operands[end:])

    def split_results(self, results: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """Splits the results of a step or of the loop into carry and outputs."""
        return list(results[: self.carried]), list(results[self.carried :])


class While(NamedTuple):
    """A ``while``: as long as ``condition(*constants, *carry)`` is true, ``carry = body(*constants, *carry)`` is run.

    Args:
        condition: the program that decides whether another step follows. It has its own constants.
        body: the program of one step. It has its own constants.
        condition_constants: the number of constants of the condition, which are the first operands.
        body_constants: the number of constants of the body, which are the next operands.
    """

    condition: ClosedJaxpr
    body: ClosedJaxpr
    condition_constants: int
    body_constants: int

    def split_operands(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """Splits the operands into constants of the condition, constants of the body, and initial carry."""
        start = self.condition_constants
        end = start + self.body_constants
        return list(operands[:start]), list(operands[start:end]), list(operands[end:])


def closed(program: TracedProgram) -> ClosedJaxpr:
    """Converts a program to a ``ClosedJaxpr``. A ``Jaxpr`` without constants gets an empty tuple of constants."""
    return cast(ClosedJaxpr, program) if hasattr(program, "consts") else ClosedJaxpr(cast(Jaxpr, program), ())


def called_program(equation: JaxprEqn) -> ClosedJaxpr:
    """The program that an equation of ``CALLS`` calls."""
    if "_prim" in equation.params:  # JAX 0.12 has operations that are traced only when they are needed
        return _expanded(equation)
    return closed(next(equation.params[name] for name in CALLED if name in equation.params))


def _expanded(equation: JaxprEqn) -> ClosedJaxpr:
    """The program of an operation that JAX expands into simpler ones, such as ``searchsorted``."""
    operation = equation.params["_prim"]

    def expand(*operands: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(operation.expand(*jax.tree.unflatten(operation.in_tree, operands)))

    types = [array_type(variable) for variable in equation.invars]
    return jax.make_jaxpr(expand)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in types))


def branches(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The branches of a ``cond``. The first operand selects a branch; the other operands are its arguments."""
    return [closed(branch) for branch in equation.params["branches"]]


def scan_parts(equation: JaxprEqn) -> Scan:
    """The parts of a ``scan``."""
    parameters = equation.params
    if "ft_in" in parameters:  # JAX 0.12 keeps the operands' groups as a tree
        constants, carry, _ = (list(group) for group in parameters["ft_in"].unpack())
        counts = len(constants), len(carry)
    else:
        counts = parameters["num_consts"], parameters["num_carry"]
    return Scan(closed(parameters["jaxpr"]), *counts, parameters["length"], parameters["reverse"])


def while_parts(equation: JaxprEqn) -> While:
    """The parts of a ``while``."""
    condition, body = closed(equation.params["cond_jaxpr"]), closed(equation.params["body_jaxpr"])
    return While(condition, body, equation.params["cond_nconsts"], equation.params["body_nconsts"])


def inner_programs(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """All programs in an equation's parameters that run by themselves: in calls, loops, branches and ``shard_map``."""
    if equation.primitive.name == "custom_linear_solve":
        # The other programs are for derivatives: the product with the matrix, and both for the transposed matrix.
        return [closed(equation.params["jaxprs"].solve)]
    if equation.primitive.name.startswith(ELEMENT_RULES):
        return []
    found = []
    for parameter in equation.params.values():
        values = parameter if isinstance(parameter, tuple | list) else (parameter,)
        found += [closed(value) for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]
    return found


def array_type(variable: Var | Literal) -> ShapedArray:
    """The shape and type of a variable that holds an array."""
    return cast(ShapedArray, variable.aval)


Result = TypeVar("Result")

NO_LAYERS = frozenset(
    ("while", "cond", "closed_call", "eval_jaxpr", "checkpoint", "rematted_computation", "shard_map", "")
)  # JAX 0.12 calls "eval_jaxpr" what was "closed_call"


Origin: TypeAlias = frozenset[int]
"""The numbers of arguments. A value has an origin if it is computed from these arguments alone."""

NOTHING: Origin = frozenset()


class Located(NamedTuple):
    """An equation with its scope, how often it runs, the number of loops around it, and the arguments that it reads."""

    scope: str
    equation: JaxprEqn
    repeats: int
    loops: int
    read: Origin


Place: TypeAlias = int | Literal
"""The number of a place, which holds an array; or a literal array that is written in the program."""


class Step(NamedTuple):
    """An equation of a flat program: it reads and writes numbered places, or reads literals."""

    scope: str
    equation: JaxprEqn
    inputs: tuple[Place, ...]
    outputs: tuple[int, ...]


class Flat(NamedTuple):
    """A program without calls. ``shapes`` has the shape of every place; ``constants`` has the constants by place."""

    inputs: tuple[int, ...]
    constants: dict[int, ArrayLike]
    steps: tuple[Step, ...]
    outputs: tuple[Place, ...]
    shapes: dict[int, ShapedArray]


def fresh(function: Callable[..., Result]) -> Callable[..., Result]:
    """Wraps a function so that JAX takes it for a new one, and ``jax.jit`` traces it again."""

    @functools.wraps(function, updated=())
    def anew(*arguments):
        return function(*arguments)

    return anew


def trace(function: Callable[..., object], *arguments: object) -> ClosedJaxpr:
    """Traces a function to a program, without the equations that no result needs."""
    return live(jax.make_jaxpr(function)(*arguments))


def live(program: ClosedJaxpr) -> ClosedJaxpr:
    """Removes the equations that no result needs from a traced program. Compilers remove them too."""
    jaxpr, _ = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    return program.replace(jaxpr=jaxpr)


def equations(program: TracedProgram, arguments: int = 0) -> Iterator[Located]:
    """Yields every equation without an inner program.

    It enters inner programs, including all branches of a ``cond``. An equation reads one of the first ``arguments`` if
    an operand is computed from these alone.

    >>> program = jax.make_jaxpr(lambda w, x: (2 * w) @ x)(1.0 * jax.numpy.ones(3), jax.numpy.ones(3))
    >>> [sorted(located.read) for located in equations(program, 1)]
    [[0], [0]]
    """
    yield from _equations(program, "", 1, 0, {number: frozenset([number]) for number in range(arguments)})


def all_equations(program: TracedProgram) -> Iterator[JaxprEqn]:
    """Yields every equation of a program and of the programs inside it, also those with an inner program."""
    for equation in closed(program).jaxpr.eqns:
        yield equation
        for inner_program in inner_programs(equation):
            yield from all_equations(inner_program)


def _equations(
    program: TracedProgram, scope: str, repeats: int, loops: int, origins: Mapping[int, Origin]
) -> Iterator[Located]:
    """``origins`` has the origin of each argument of the program by its position."""
    jaxpr = closed(program).jaxpr
    known: dict[Var, Origin] = {jaxpr.invars[position]: origin for position, origin in origins.items()}
    for equation in jaxpr.eqns:
        place = within(scope, equation)
        inner = inner_programs(equation)
        sources = [known.get(x, NOTHING) for x in equation.invars if isinstance(x, Var)]
        read = NOTHING.union(*sources)
        if not inner:
            yield Located(place, equation, repeats, loops, read)
        deeper = loops + (equation.primitive.name in LOOPS)
        for inner_program in inner:
            inside = _inner_origins(equation, inner_program, known)
            yield from _equations(inner_program, place, repeats * times(equation), deeper, inside)
        # A value that is computed from such arguments and from others has no origin.
        known.update(dict.fromkeys(equation.outvars, read if all(sources) else NOTHING))


def _inner_origins(equation: JaxprEqn, inner: ClosedJaxpr, known: Mapping[Var, Origin]) -> dict[int, Origin]:
    """The origins of an inner program's arguments: those of the operands that they stand for."""
    # The first operand of a ``cond`` selects the branch, and no branch reads it.
    operands = equation.invars[equation.primitive.name == "cond" :]
    if len(operands) != len(inner.jaxpr.invars):  # such as in a ``while`` whose condition and body read other constants
        return {}
    return {number: known[x] for number, x in enumerate(operands) if isinstance(x, Var) and x in known}


def within(scope: str, equation: JaxprEqn) -> str:
    """The full scope of an equation, if its program was called in the given scope."""
    return joined(scope, str(equation.source_info.name_stack))


def joined(scope: str, inner: str) -> str:
    """The full scope of a scope inside another one. Each may be empty."""
    return "/".join(part for part in (scope, inner) if part)


def times(equation: JaxprEqn) -> int:
    """How often an equation's inner programs run. A ``scan`` states its number of steps; a ``while`` counts once.

    The program of a ``shard_map`` divides some axes of the mesh, and runs once for each part.
    """
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "shard_map":
        # The other axes of the mesh are divided by a shard_map around this one, or by the compiler.
        return math.prod(equation.params["mesh"].shape[axis] for axis in equation.params["newly_manual_axes"])
    return 1


def layer_of(scope: str) -> tuple[str, bool]:
    """The path of the layer that a scope belongs to, and whether the scope is in the backward pass.

    >>> layer_of("jvp(dense_0)"), layer_of("transpose(jvp(residual_0))/dense_1"), layer_of("dense_0/backward")
    (('dense_0', False), ('residual_0/dense_1', True), ('dense_0', True))
    """
    text = re.sub(r"\bp?jit\([^()]*\)", "", scope)
    # Transforms enclose names, as in transpose(jvp(dense_0)). The innermost one is removed until none is left.
    transforms = 1
    while transforms:
        text, transforms = re.subn(r"\b\w+\(([^()]*)\)", r"\1", text)
    # A layer may be called "body", so only the body of a loop is left out.
    text = text.replace("while/body", "while")
    names = [name for name in text.split("/") if name not in NO_LAYERS]
    return "/".join(name for name in names if name != BACKWARD), "transpose(" in scope or BACKWARD in names


def flattened(program: ClosedJaxpr, scope: str = "") -> Flat:
    """Replaces calls in a traced program by the called programs. Loops and branches stay. All scopes begin with one."""
    numbers = count()
    steps: list[Step] = []
    constants: dict[int, ArrayLike] = {}
    shapes: dict[int, ShapedArray] = {}

    def new_place(variable: Var) -> int:
        number = next(numbers)
        shapes[number] = array_type(variable)
        return number

    def lay(program: ClosedJaxpr, scope: str, inputs: Sequence[Place]) -> list[Place]:
        """Adds the steps of a program with arguments in the places ``inputs``; returns the places of its results."""
        places: dict[Var, Place] = dict(zip(program.jaxpr.invars, inputs, strict=True))
        for variable, value in zip(program.jaxpr.constvars, program.consts, strict=True):
            places[variable] = number = new_place(variable)
            constants[number] = value

        def read(variable: Var | Literal) -> Place:
            return variable if isinstance(variable, Literal) else places[variable]

        for equation in program.jaxpr.eqns:
            inner_scope = within(scope, equation)
            operands = [read(variable) for variable in equation.invars]
            if equation.primitive.name in CALLS:
                results = lay(called_program(equation), inner_scope, operands)
            else:
                results = [new_place(variable) for variable in equation.outvars]
                steps.append(Step(inner_scope, equation, tuple(operands), tuple(results)))
            places.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in program.jaxpr.outvars]

    inputs = tuple(new_place(variable) for variable in program.jaxpr.invars)
    outputs = tuple(lay(program, scope, inputs))
    return Flat(inputs, constants, tuple(steps), outputs, shapes)


PACKAGE = Path(__file__).parents[1]
OF_JAX = (str(Path(jax.__file__).parent), "<frozen")
"""The prefixes of paths of files that belong to JAX, and of code without a file."""
TRACING = (str(PACKAGE / "jaxprs"), str(PACKAGE / "gradients"))
"""The prefixes of paths of files that trace functions and contain no formulas of their own."""


IN_WORDS = {
    "broadcast_in_dim": "an array of equal parts",
    "convert_element_type": "a conversion to another type",
    "dot_general": "a matrix product",
    "integer_pow": "a power",
    "reduce_sum": "a sum",
    "scan": "a loop",
    "select_n": "a choice, as by jnp.where",
}
"""Descriptions of primitives whose names are not clear."""


def in_words(operation: str) -> str:
    """The name of a primitive, with a description if the name is not clear.

    >>> in_words("select_n"), in_words("exp")
    ('select_n (a choice, as by jnp.where)', 'exp')
    """
    return f"{operation} ({IN_WORDS[operation]})" if operation in IN_WORDS else operation


class SourceLine(NamedTuple):
    """A source line: the path of its file, its number, and the function that it is in."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} ({self.function})"

    @property
    def code(self) -> str:
        """The text of the line; "" if the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()


def place_of(equation: JaxprEqn) -> SourceLine | None:
    """The innermost source line outside of JAX that made the equation."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if frame.file_name.startswith(TRACING):
            break  # what follows is the call that traces the program
        if not frame.file_name.startswith(OF_JAX):
            return SourceLine(frame.file_name, frame.line_num, frame.function_name)
    return None


def is_of_jax(program: ClosedJaxpr) -> bool:
    """Whether a program was traced from one of JAX's own functions, such as ``jax.numpy.linalg.norm``.

    JAX caches these traces, so their source lines may belong to another caller.
    """
    return (program.jaxpr.debug_info.func_filename or "").startswith(OF_JAX[0])
