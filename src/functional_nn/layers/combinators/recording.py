"""Tracing of a function that calls layers, with each call as one equation, and the residuals of its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching
from jax.tree_util import register_pytree_node_class

from functional_nn.core.children import child_forward
from functional_nn.core.errors import InputError, inside
from functional_nn.core.layer import Layer, Params, Residuals, State, checked_init
from functional_nn.core.masked import Value
from functional_nn.core.output_shape import with_key_if_needed
from functional_nn.core.shapes import Shapes, shape_of
from functional_nn.core.suggestions import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_arrays
from functional_nn.jaxprs.inner_programs import PLAIN_CALLS
from functional_nn.jaxprs.tape import Bar, Tape, make_tape, signature
from functional_nn.jaxprs.walk import equations, flattened

Structure: TypeAlias = Any
"""The structure of a pytree, a ``jax.tree_util.PyTreeDef``. Its class has no type that checkers know."""

CHILD_CALL = "functional_nn_child"
"""The name of the equation that stands for the call of a child in a traced function."""

child_call = Primitive(CHILD_CALL)
child_call.multiple_results = True
child_call.def_abstract_eval(lambda *operands, call: call.types)


@dataclass(frozen=True, eq=False)
class ChildCall:
    """One call of a child: its name and its program.

    Args:
        name: the child's name.
        x_tree: the structure of its input.
        y_tree: the structure of its output.
        types: the shape and type of each array of the output.
        program: ``params, state, x, key -> (y, state, residuals)``, traced; None where only shapes are wanted.
        out_tree: the structure of ``(y, state, residuals)``.
    """

    name: str
    x_tree: Structure
    y_tree: Structure
    types: list[ShapedArray]
    program: ClosedJaxpr | None = None
    out_tree: Structure | None = None

    def run(
        self, params: Params, state: State, operands: Sequence[jax.Array], key: jax.Array | None
    ) -> tuple[Value, State, Residuals]:
        """The child's forward pass."""
        assert self.program is not None
        assert self.out_tree is not None
        arguments = jax.tree.leaves((params, state, list(operands), key))
        return jax.tree.unflatten(self.out_tree, evaluate_program(self.program, arguments))

    def filled(self, bars: Sequence[Bar]) -> list[Bar]:
        """The cotangents of the output, with zeros for those that nothing uses. Integers and masks have None."""
        return _filled(bars, self.types)

    def __repr__(self) -> str:
        return f"{self.name} {self.x_tree} {self.out_tree}"


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced function: its tape, and the structures of its arguments and results.

    Two of them are equal if their programs are. So the residuals of two calls have the same structure for JAX.
    """

    tape: Tape
    in_tree: Structure
    in_types: list[ShapedArray]
    out_tree: Structure
    calls: frozenset[str]

    @cached_property
    def text(self) -> str:
        """A text that is equal for equal programs."""
        return f"{self.in_tree} {self.in_types} {self.out_tree}\n{signature(self.tape)}"

    def filled(self, bars: Sequence[Bar]) -> list[Bar]:
        """The cotangents of the arguments, with zeros for those that nothing uses."""
        return _filled(bars, self.in_types)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Traced({hash(self)})"


@register_pytree_node_class
@dataclass(frozen=True)
class Recording:
    """The residuals of a composed network: arrays, and the traced function as a static part.

    Args:
        kept: the values that the rules of the function's operations need.
        residuals: the residuals of each call of a child, in order.
        uncalled: zeros for the parameters of children that this function did not call.
        program: the traced function.
    """

    kept: tuple[jax.Array, ...]
    residuals: tuple[Residuals, ...]
    uncalled: dict[str, Params]
    program: Traced

    def tree_flatten(self) -> tuple[tuple[Any, ...], Traced]:
        """The arrays, and the static part."""
        return (self.kept, self.residuals, self.uncalled), self.program

    @classmethod
    def tree_unflatten(cls, program: Traced, parts: tuple[Any, ...]) -> Recording:
        """The inverse of ``tree_flatten``."""
        kept, residuals, uncalled = parts
        return cls(kept, residuals, uncalled, program)


class NoSuchChild(InputError, AttributeError):
    """A name that no child has. It is an AttributeError too, so that ``hasattr`` works."""


class Children:
    """The children of a composed network, as its function sees them: ``net.encoder(x)`` or ``net["encoder"](x)``."""

    def __init__(self, call: Callable[[str, Value], Value], names: tuple[str, ...]):
        self._call, self._names = call, names

    def __getitem__(self, name: str) -> Callable[[Value], Value]:
        if name not in self._names:
            raise InputError("function", "a child's name", repr(name), suggest(str(name), self._names))
        return partial(self._run, name)

    def __getattr__(self, name: str) -> Callable[[Value], Value]:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._names:
            raise NoSuchChild("function", "a child's name", repr(name), suggest(name, self._names))
        return partial(self._run, name)

    def _run(self, name: str, x: Value) -> Value:
        with inside(name):
            check_arrays("x", x)
        return self._call(name, x)


def call_by_program(
    layers: Mapping[str, Layer],
    params: Params,
    state: State,
    train: bool,
    key: jax.Array | None,
    name: str,
    x: Value,
) -> Value:
    """Calls a child while its composed network is traced: an equation that holds the child's traced program."""
    leaves, x_tree = jax.tree.flatten(x)

    def run(params, state, leaves, key):
        x = jax.tree.unflatten(x_tree, leaves)
        return child_forward(name, layers[name], {name: params}, {name: state}, x, train=train, key=key)

    arguments = params.get(name, {}), state.get(name, {}), leaves, key
    program, made = jax.make_jaxpr(run, return_shape=True)(*arguments)
    # The program returns the arrays of (y, state, residuals) in this order, so those of y come first.
    y_types, y_tree = jax.tree.flatten(made[0])
    types = program.out_avals[: len(y_types)]
    call = ChildCall(name, x_tree, y_tree, types, program, jax.tree.structure(made))
    return jax.tree.unflatten(y_tree, child_call.bind(*map(jnp.asarray, leaves), call=call))


def call_by_shapes(layers: Mapping[str, Layer], in_shapes: dict[str, Shapes], name: str, x: Value) -> Value:
    """Calls a child while shapes are inferred, and notes the shape of its input at its first call."""
    in_shape = in_shapes.setdefault(name, shape_of(x))
    layer = layers[name]

    def output(x):
        with inside(name):
            params, state = checked_init(layer, jax.random.key(0), in_shape)
        return with_key_if_needed(
            lambda key: child_forward(name, layer, {name: params}, {name: state}, x, train=False, key=key)[0]
        )

    made = _of_any_type(output, x)
    types, y_tree = jax.tree.flatten(made)
    leaves, x_tree = jax.tree.flatten(x)
    avals = [ShapedArray(leaf.shape, leaf.dtype) for leaf in types]
    return jax.tree.unflatten(y_tree, child_call.bind(*leaves, call=ChildCall(name, x_tree, y_tree, avals)))


def _of_any_type(function: Callable[[Value], Value], x: Value) -> Value:
    """The shapes of ``function(x)``. If it refuses floating-point numbers, x is taken as integers, such as tokens."""
    try:
        return jax.eval_shape(function, x)
    except (InputError, TypeError) as refusal:
        tokens = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.int32), x)
        try:
            return jax.eval_shape(function, tokens)
        except (InputError, TypeError):
            raise refusal from None


def trace_function(function: Callable[..., Value], arguments: tuple[Value, ...]) -> tuple[Traced, dict[int, jax.Array]]:
    """Traces a function that calls children, and prepares its backward pass. Also gives its constants by place."""
    leaves, in_tree = jax.tree.flatten(arguments)
    out_tree: list[Structure] = []

    def flat(*leaves):
        # A traced program has arrays only, so the structure of the result is noted here.
        results, tree = jax.tree.flatten(function(*jax.tree.unflatten(in_tree, leaves)))
        out_tree.append(tree)
        return [jnp.asarray(result) for result in results]

    # In the flat program, calls such as ``jax.jit`` are replaced by their equations. What still has a program inside is
    # a loop, a branch or the like, in which a child cannot be called.
    program = jax.make_jaxpr(flat)(*leaves)
    flat_program = flattened(program, PLAIN_CALLS)
    called = set()
    for step in flat_program.steps:
        if step.equation.primitive is child_call:
            called.add(step.equation.params["call"].name)
            continue
        values = [part for value in step.equation.params.values() for part in _parts(value)]
        # A parameter is a program if it has equations itself (a Jaxpr), or in its ``jaxpr`` (a ClosedJaxpr).
        inner = [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]
        for inner_program in inner:
            for located in equations(inner_program):
                if located.equation.primitive is child_call:
                    name = step.equation.primitive.name
                    _refuse(located.equation.params["call"], "jax.checkpoint" if name == "remat2" else name)
    tape = make_tape(flat_program, CHILD_CALL)
    traced = Traced(tape, in_tree, program.in_avals, out_tree[-1], frozenset(called))
    return traced, {place: jnp.asarray(constant) for place, constant in flat_program.constants.items()}


def _parts(value: PyTree) -> tuple[PyTree, ...]:
    """The branches of a ``cond``, which are in a tuple; any other parameter of an equation alone."""
    return value if isinstance(value, tuple) else (value,)


def evaluate_program(program: ClosedJaxpr, arguments: Sequence[jax.Array]) -> list[jax.Array]:
    """The results of a traced program. Its equations keep their names of layers."""
    run: Callable[..., list[jax.Array]] = jaxpr_as_fun(program)
    return run(*arguments)


def _refuse(call: ChildCall, where: str) -> None:
    remedy = "Call it outside, in a Python loop, or make a layer of the loop (repeat)."
    raise InputError(
        "function",
        "children that are called outside of loops, branches, vmap and derivatives",
        f"a call of {call.name} inside {where}",
        remedy,
    )


def _refuse_rule(where: str) -> Callable[..., Any]:
    return lambda *arguments, call, **options: _refuse(call, where)


batching.primitive_batchers[child_call] = _refuse_rule("vmap")
ad.primitive_jvps[child_call] = _refuse_rule("a derivative")


def _filled(bars: Sequence[Bar], types: Sequence[ShapedArray]) -> list[Bar]:
    """Zeros in place of None for floating-point arrays, and None for anything else."""
    filled: list[Bar] = []
    for bar, kind in zip(bars, types, strict=True):
        if not jnp.issubdtype(kind.dtype, jnp.floating):
            filled.append(None)
        else:
            filled.append(jnp.zeros(kind.shape, kind.dtype) if bar is None else bar)
    return filled
