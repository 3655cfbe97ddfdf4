"""The composer: a network of named layers and a plain function that calls them, with a composed backward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core.children import (
    check_no_other_names,
    child_backward,
    child_init,
    child_keys,
    named_layers,
    put_entries,
)
from functional_nn.core.errors import InputError
from functional_nn.core.forward_versions import composed_forward
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.masked import Value
from functional_nn.core.shapes import Shapes, traced
from functional_nn.core.validation import check_function, shown
from functional_nn.jaxprs.tape import run_backward, run_forward
from functional_nn.layers.combinators.chain import Member
from functional_nn.layers.combinators.recording import (
    ChildCall,
    Children,
    Recording,
    Traced,
    call_by_program,
    call_by_shapes,
    trace_function,
)

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

    def make_forward(layers):
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
