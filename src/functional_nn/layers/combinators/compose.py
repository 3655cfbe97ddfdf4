"""The composer: a network of named layers and a plain function that calls them, with a composed backward pass.

The function is traced with each call of a layer as one equation. The residuals of its backward pass are those of the
layers and of the equations between them.
"""

from __future__ import annotations

import inspect
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

from functional_nn.core.children import (
    check_no_other_names,
    child_backward,
    child_forward,
    child_init,
    child_keys,
    named_layers,
    put_entries,
)
from functional_nn.core.errors import InputError, inside
from functional_nn.core.layer import Layer, Params, Residuals, State, checked_init, composed_forward, with_key_if_needed
from functional_nn.core.masked import Value
from functional_nn.core.shapes import Shapes, shape_of, traced
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_arrays, check_function, shown
from functional_nn.jaxprs.tape import Bar, Tape, make_tape, run_backward, run_forward, signature
from functional_nn.jaxprs.walk import PLAIN_CALLS, equations, flattened
from functional_nn.layers.combinators.chain import Member

Function: TypeAlias = Callable[..., Value]
"""``function(net, x) -> y``, with the keyword arguments ``train`` and ``key`` if it names them."""

OWN_KEY = "/function"
"""The name from which the function's own random key is derived. No layer has it, since it has a "/"."""


def compose(children: Mapping[str, Member], function: Function, *, name: str = "compose") -> Layer:
    """Composes a network of any shape: layers by name, and a function that calls them.

    Math:
        y = function(net, x), where ``net.encoder(u)`` is the output of the child ``encoder`` for u

    Shapes:
        x and y are arrays, or pytrees of arrays: tuples, dicts, ``Masked`` sequences. The shape of each child's input
        is found by tracing the function.

    Gradient:
        The function is traced once. Its backward pass goes through its operations from the last to the first, and uses
        the hand-derived rule of each operation (``jaxprs/backward_rules.py``) and the backward pass of each child. A
        value or a child that is used several times gets the sum of its cotangents:

        u_bar = Σ_uses u_bar_use, params_bar = Σ_calls params_bar_call

    Args:
        children: layers by name. The parameters are ``{"encoder": …, "decoder": …}``.
        function: ``function(net, x) -> y``, a pure function. ``net.encoder(u)`` and ``net["encoder"](u)`` call a child.
            A child may be called several times, with the same parameters; then its state passes from call to call, and
            each call has a key of its own. If the function has a keyword argument ``train``, it gets True or False; if
            it has ``key``, it gets a random key, or None if ``apply`` got none.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: at ``init``, for a child that is never called, and for a child inside a loop, a branch, ``vmap`` or
            a derivative in the function.
        FormulaMissing: from a pullback, for an operation without a rule. ``apply`` and ``jax.grad`` work with any.

    >>> import functional_nn as fnn
    >>> def siamese(net, x):
    ...     left, right = net.encoder(x["left"]), net.encoder(x["right"])
    ...     return net.head((left - right) ** 2)
    >>> net = compose({"encoder": fnn.chain(fnn.dense(4), fnn.tanh), "head": fnn.dense(1)}, siamese)
    >>> params, state = net.init(jax.random.key(0), {"left": (3,), "right": (3,)})
    >>> sorted(fnn.trees.flatten(params))
    ['encoder/dense_0/bias', 'encoder/dense_0/weight', 'head/bias', 'head/weight']

    References:
        Griewank and Walther 2008, "Evaluating derivatives", chapter 3 (reverse mode on a recorded function).
    """
    if not isinstance(children, Mapping):
        raise InputError("children", "a dict of layers by name", shown(children))
    members = named_layers((), children)
    names = tuple(members)
    check_function("function", function, "a function of the children and the input")
    options = [option for option in ("train", "key") if option in _parameters(function)]

    def traced_call(call, x, key, train) -> tuple[Traced, dict[int, jax.Array]]:
        """Traces the function. Its input and its key become the arguments of the program."""

        def with_options(x: Value, key: jax.Array | None) -> Value:
            given = {"train": train, "key": key}
            try:
                return function(Children(call, names), x, **{option: given[option] for option in options})
            except TypeError as error:
                if key is None and "key" in options and "PRNG key type" in str(error):
                    expected = "a key, since the function draws random numbers"
                    raise InputError("key", expected, None, "Pass key=jax.random.key(seed).") from error
                raise

        return trace_function(with_options, (x, key if "key" in options else None))

    def init(key, in_shape):
        in_shapes = _input_shapes(traced_call, members, in_shape)
        params: dict[str, Params] = {}
        state: dict[str, State] = {}
        for (child, layer), child_key in zip(members.items(), child_keys(key, names), strict=True):
            child_params, child_state, _ = child_init(child, layer, child_key, in_shapes[child])
            put_entries(params, child, child_params)
            put_entries(state, child, child_state)
        return params, state

    def make_forward(*layers):
        inner = dict(zip(names, layers, strict=True))

        def forward(params, state, x, *, train, key=None):
            check_no_other_names(names, params=params, state=state)
            child_key, own_key = _keys(key, names)
            call = partial(call_by_program, inner, params, state, train, key)
            program, constants = traced_call(call, x, own_key, train)
            new_state, residuals = dict(state), []
            counts = dict.fromkeys(names, 0)

            def run_child(equation, operands):
                made: ChildCall = equation.params["call"]
                # The first call has the child's key itself. Each further call has a key of its own, and the state that
                # the call before it left. Calls are counted here, as they run: a call inside ``jax.jit`` is traced once
                # and may run several times.
                call_key, number = child_key[made.name], counts[made.name]
                counts[made.name] = number + 1
                if call_key is not None and number:
                    call_key = jax.random.fold_in(call_key, number)
                own = params.get(made.name, {}), new_state.get(made.name, {})
                y, child_state, child_residuals = made.run(*own, operands, call_key)
                put_entries(new_state, made.name, child_state)
                residuals.append(child_residuals)
                return jax.tree.leaves(y)

            arguments = jax.tree.leaves((x, own_key if "key" in options else None))
            results, kept = run_forward(program.tape, constants, arguments, run_child)
            uncalled = {child: params[child] for child in params if child not in program.calls}
            recording = Recording(kept, tuple(residuals), jax.tree.map(jnp.zeros_like, uncalled), program)
            return jax.tree.unflatten(program.out_tree, results), new_state, recording

        return forward

    def backward(recording: Recording, y_bar):
        program = recording.program
        remaining = list(recording.residuals)
        params_bar: dict[str, Any] = dict(recording.uncalled)

        def pull_child(equation, result_bars):
            made: ChildCall = equation.params["call"]
            # Calls are pulled back from the last to the first, so the next residuals are at the end of the list.
            given = jax.tree.unflatten(made.y_tree, made.filled(result_bars))
            child_bar, x_bar = child_backward(made.name, members[made.name], remaining.pop(), given)
            if child_bar:
                before = params_bar.get(made.name)
                params_bar[made.name] = child_bar if before is None else jax.tree.map(jnp.add, before, child_bar)
            return made.x_tree.flatten_up_to(x_bar)

        result_bars = program.out_tree.flatten_up_to(y_bar)
        bars = run_backward(program.tape, recording.kept, result_bars, pull_child)
        x_bar, _ = jax.tree.unflatten(program.in_tree, program.filled(bars))
        return {child: params_bar[child] for child in names if child in params_bar}, x_bar

    forward = composed_forward(make_forward, tuple(members.values()))
    return Layer(name, init, forward, backward, takes_mask=True, layers=tuple(members.items()))


def _input_shapes(traced_call: Callable[..., object], members: Mapping[str, Layer], in_shape: Shapes) -> dict[str, Any]:
    """The shape of each child's input, found by tracing the function with stand-ins.

    A child that is called in training only is found in a second pass.
    """
    found: dict[str, Shapes] = {}
    call = partial(call_by_shapes, members, found)
    for train in (False, True):
        traced(lambda x, train=train: traced_call(call, x, jax.random.key(0), train), in_shape)
        if len(found) == len(members):
            return found
    missing = ", ".join(child for child in members if child not in found)
    remedy = "Call it, or leave it out of the children."
    raise InputError("function", f"a call of every child: {', '.join(members)}", f"none of {missing}", remedy)


def _keys(key: jax.Array | None, names: tuple[str, ...]) -> tuple[dict[str, jax.Array | None], jax.Array | None]:
    """The key of each child's first call, and the function's own key."""
    *children, own = child_keys(key, (*names, OWN_KEY))
    return dict(zip(names, children, strict=True)), own


def _parameters(function: Function) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # functions written in C have no signature
        return ()


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
