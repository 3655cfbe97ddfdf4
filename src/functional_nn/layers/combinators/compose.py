"""The composer: a network of named layers and a plain function that calls them, with a composed backward pass."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import get_opaque_trace_state
from jax.tree_util import Partial

from functional_nn.core.errors import InputError, check, inside
from functional_nn.core.layer import (
    Layer,
    Params,
    State,
    check_no_other_names,
    checked_init,
    child_forward,
    child_init,
    child_keys,
    composed_forward,
    named_layers,
    put_entries,
    with_key_if_needed,
)
from functional_nn.core.masked import Value
from functional_nn.core.shapes import Shapes, shape_of, traced
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_arrays, check_function
from functional_nn.layers.combinators.chain import Member
from functional_nn.layers.combinators.hand_vjp import ByFormula, none_for_integers

Function: TypeAlias = Callable[..., Value]
"""``function(net, x) -> y``, with the keyword arguments ``train`` and ``key`` if it names them."""

Call: TypeAlias = Callable[[str, Value], Value]
"""``call(child, x) -> y``."""

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
        Each call of a child has the child's own backward pass. What the function computes between the calls is
        differentiated by JAX (``jax.vjp``). A value or a child that is used several times gets the sum of its
        cotangents:

        u_bar = Σ_uses u_bar_use, params_bar = Σ_calls params_bar_call

    Args:
        children: layers by name. The parameters are ``{"encoder": …, "decoder": …}``.
        function: ``function(net, x) -> y``, a pure function. ``net.encoder(u)`` and ``net["encoder"](u)`` call a child.
            A child may be called several times, with the same parameters; then its state passes from call to call, and
            each call has a key of its own. If the function has a keyword argument ``train``, it gets True or False; if
            it has ``key``, it gets a random key, or None if ``apply`` got none.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: at ``init``, for a child that is never called, and for a child inside a loop, a branch, ``jit``,
            ``vmap`` or a derivative in the function.

    >>> import functional_nn as fnn, jax
    >>> def siamese(net, x):
    ...     left, right = net.encoder(x["left"]), net.encoder(x["right"])
    ...     return net.head((left - right) ** 2)
    >>> net = fnn.compose({"encoder": fnn.chain(fnn.dense(4), fnn.tanh), "head": fnn.dense(1)}, siamese)
    >>> params, state = net.init(jax.random.key(0), {"left": (3,), "right": (3,)})
    >>> sorted(fnn.trees.flatten(params))
    ['encoder/dense_0/bias', 'encoder/dense_0/weight', 'head/bias', 'head/weight']

    References:
        Griewank and Walther 2008, "Evaluating derivatives", chapter 3 (reverse mode on a recorded function).
    """
    check("children", children, "a dict of layers by name", isinstance(children, Mapping))
    members = named_layers((), children)
    names = tuple(members)
    check_function("function", function, "a function of the children and the input")
    options = [option for option in ("train", "key") if option in _parameters(function)]

    def run(call: Call, x: Value, train: bool, key: jax.Array | None) -> Value:
        """The function, which calls its children by ``call``."""
        given = {"train": train, "key": key}
        try:
            y = function(Children(call, names), x, **{option: given[option] for option in options})
        except TypeError as error:
            if key is None and "key" in options and "PRNG key type" in str(error):
                expected = "a key, since the function draws random numbers"
                raise InputError("key", expected, None, "Pass key=jax.random.key(seed).") from error
            raise
        return jax.tree.map(jnp.asarray, y)

    def init(key, in_shape):
        in_shapes = _input_shapes(run, members, in_shape)
        params: dict[str, Params] = {}
        state: dict[str, State] = {}
        for (child, layer), child_key in zip(members.items(), child_keys(key, names), strict=True):
            child_params, child_state, _ = child_init(child, layer, child_key, in_shapes[child])
            put_entries(params, child, child_params)
            put_entries(state, child, child_state)
        return params, state

    def make_forward(*layers):
        # ``jax.vjp`` below takes the formula of each child. Where JAX differentiates the whole forward pass, as for
        # ``jax.grad`` of ``apply``, it still differentiates the code of the children and not the formulas.
        inner = {
            child: layer._replace(forward=ByFormula(layer, child)) for child, layer in zip(names, layers, strict=True)
        }

        def forward(params, state, x, *, train, key=None):
            check_no_other_names(names, params=params, state=state)
            *keys, own_key = child_keys(key, (*names, OWN_KEY))
            child_key = dict(zip(names, keys, strict=True))

            def outputs(params: Params, x: Value) -> tuple[Value, State]:
                new_state: dict[str, State] = dict(state)
                counts: Counter[str] = Counter()

                def call(child: str, x: Value) -> Value:
                    # The first call has the child's key itself. Each further call has a key of its own, and the state
                    # that the call before it left.
                    call_key, number = child_key[child], counts[child]
                    counts[child] += 1
                    if call_key is not None and number:
                        call_key = jax.random.fold_in(call_key, number)
                    y, child_state, _ = child_forward(
                        child, inner[child], params, new_state, x, train=train, key=call_key
                    )
                    put_entries(new_state, child, child_state)
                    return y

                return run(call, x, train, own_key), new_state

            y, pullback, new_state = jax.vjp(outputs, params, x, has_aux=True)
            kinds = jax.tree.map(jax.typeof, y)
            return y, new_state, Partial(partial(_pulled_back, kinds), pullback)

        return forward

    def backward(residuals: Partial, y_bar: Value) -> tuple[Params, Value]:
        return residuals(y_bar)

    forward = composed_forward(make_forward, tuple(members.values()))
    return Layer(name, init, forward, backward, takes_mask=True, layers=tuple(members.items()), joined_by_jax=True)


def _pulled_back(kinds: PyTree, pullback: Callable[..., PyTree], y_bar: Value) -> tuple[Params, Value]:
    """The cotangents of the parameters and of the input; None for integers and masks."""

    def cotangent(kind: ShapedArray, bar: jax.Array | None) -> jax.Array | np.ndarray:
        if not jnp.issubdtype(kind.dtype, jnp.inexact):
            return np.zeros(kind.shape, jax.dtypes.float0)
        return jnp.zeros(kind.shape, kind.dtype) if bar is None else jnp.asarray(bar, kind.dtype)

    return none_for_integers(pullback(jax.tree.map(cotangent, kinds, y_bar)))


def _input_shapes(run: Callable[..., Value], members: Mapping[str, Layer], in_shape: Shapes) -> dict[str, Shapes]:
    """The shape of each child's input, found by tracing the function with stand-ins.

    A child that is called in training only is found in a second pass.
    """
    found: dict[str, Shapes] = {}

    def call(child: str, x: Value) -> Value:
        child_shape = found.setdefault(child, shape_of(x))
        layer = members[child]
        with inside(child):
            params, state = checked_init(layer, jax.random.key(0), child_shape)

        def output(x: Value) -> Value:
            return with_key_if_needed(
                lambda key: child_forward(child, layer, {child: params}, {child: state}, x, train=False, key=key)[0]
            )

        try:
            return output(x)
        except (InputError, TypeError) as refusal:
            # It may take integers, such as tokens, where the stand-in has floating-point numbers.
            try:
                return output(jax.tree.map(lambda leaf: leaf.astype(jnp.int32), x))
            except (InputError, TypeError):
                raise refusal from None

    for train in (False, True):
        traced(lambda x, train=train: jax.eval_shape(lambda x: run(call, x, train, jax.random.key(0)), x), in_shape)
        if len(found) == len(members):
            return found
    missing = ", ".join(child for child in members if child not in found)
    remedy = "Call it, or leave it out of the children."
    raise InputError("function", f"a call of every child: {', '.join(members)}", f"none of {missing}", remedy)


def _parameters(function: Function) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # functions written in C have no signature
        return ()


class NoSuchChild(InputError, AttributeError):
    """A name that no child has. It is an AttributeError too, so that ``hasattr`` works."""


class Children:
    """The children of a composed network, as its function sees them: ``net.encoder(x)`` or ``net["encoder"](x)``."""

    def __init__(self, call: Call, names: tuple[str, ...]):
        self._call, self._names = call, names
        self._trace = get_opaque_trace_state()

    def __getitem__(self, name: str) -> Callable[[Value], Value]:
        check("function", name, "a child's name", name in self._names, suggest(str(name), self._names))
        return partial(self._run, name)

    def __getattr__(self, name: str) -> Callable[[Value], Value]:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._names:
            raise NoSuchChild("function", "a child's name", repr(name), suggest(name, self._names))
        return partial(self._run, name)

    def _run(self, name: str, x: Value) -> Value:
        # Inside a loop, ``vmap`` or the like JAX traces anew, and the state that the child leaves could not get out.
        if get_opaque_trace_state() != self._trace:
            expected = "children that are called outside of loops, branches, jit, vmap and derivatives"
            remedy = "Call it outside, in a Python loop, or make a layer of the loop (repeat)."
            raise InputError("function", expected, f"a call of {name} inside one of them", remedy)
        with inside(name):
            check_arrays("x", x)
        return self._call(name, x)
