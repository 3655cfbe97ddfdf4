"""The parts of an attention layer's input, and checks of their shapes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import check_floating, check_one_array
from functional_nn.core.masked import Masked, Value, check_mask, values_of
from functional_nn.core.shapes import Shape, Shapes, is_shape
from functional_nn.core.validation import is_array, shown

PAIRS_RANK = 4
"""The axes of an array with an entry for each pair of a query and a key: (batch, heads or 1, time, keys)."""


class Parts(NamedTuple):
    """The input of dot-product attention: queries, keys, values, and what is given for pairs of a query and a key."""

    queries: Value
    keys: Value
    values: jax.Array
    bias: jax.Array | None
    mask: jax.Array | None


class Sequences(NamedTuple):
    """The input of multi-head attention: a sequence, its memory if it has one, and arrays for pairs of their steps."""

    source: Value
    memory: Value | None
    pairs: tuple[jax.Array, ...]


def split_parts(x: Value, *, causal: bool, rotary: bool) -> Parts:
    """Takes the input of dot-product attention apart, and requires shapes that fit together."""
    if not isinstance(x, tuple) or isinstance(x, Masked) or len(x) < 3 or isinstance(x[2], Masked):
        expected = "(queries, keys, values); a bias and a mask may follow, and only queries and keys may be Masked"
        given = f"{len(x)} inputs" if isinstance(x, tuple) else f"a {type(x).__name__}"
        raise InputError("x", expected, given)
    check_mask(x[0])
    check_mask(x[1])
    q, k, v = (values_of(part) for part in x[:3])
    for part in (q, k, v):
        check_floating(part)
    _check_shapes(q, k, v, causal, rotary)
    bias, mask = _bias_and_mask(x[3:], q, k)
    return Parts(*x[:3], bias, mask)


def split_sequences(x: Value) -> Sequences:
    """Takes the input of multi-head attention apart: x, (x, memory), or one of these and arrays for pairs."""
    if not isinstance(x, tuple) or isinstance(x, Masked):
        return Sequences(x, None, ())
    source, *others = x
    # A memory has three axes, or is ``Masked``, which is a tuple. Arrays for pairs have four axes.
    if others and (not is_array(others[0]) or others[0].ndim != PAIRS_RANK):
        memory, *others = others
        return Sequences(source, memory, tuple(others))
    return Sequences(source, None, tuple(others))


def mask_among(pairs: tuple[jax.Array, ...]) -> jax.Array | None:
    """The array of booleans among a bias and a mask; None if there is none."""
    return next((part for part in pairs if part.dtype == bool), None)


def split_shapes(in_shape: Shapes) -> tuple[Shape, Shape]:
    """The shapes of x and of its memory, from the ``in_shape`` of multi-head attention."""
    shapes = [in_shape] if is_shape(in_shape) else in_shape
    if isinstance(shapes, tuple | list) and shapes and all(is_shape(shape) for shape in shapes):
        sequences = [shape for shape in shapes if len(shape) == 2]
        pairs = [shape for shape in shapes if len(shape) == PAIRS_RANK - 1]
        if 1 <= len(sequences) <= 2 and [*shapes] == [*sequences, *pairs]:
            return sequences[0], sequences[-1]
    expected = "a shape (time, in_size), or a pair of such shapes: of x and of the memory"
    remedy = "It leaves out the batch axis. Shapes (heads, time, keys) of a bias or mask may follow."
    raise InputError("in_shape", expected, repr(in_shape), remedy)


def check_sequence(argument: str, x: Value, features: int) -> None:
    """Requires sequences with this number of features."""
    check_mask(x)
    x = values_of(x)
    check_one_array(x, argument)
    if x.ndim != 3 or x.shape[-1] != features:
        expected = f"sequences of {features} features, (batch, time, {features})"
        raise InputError(argument, expected, f"shape {x.shape}", "For attention to another sequence, give (x, memory).")
    check_floating(x)


def _check_shapes(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, rotary: bool) -> None:
    given = f"shapes {q.shape}, {k.shape} and {v.shape}"
    have_four_axes = q.ndim == k.ndim == v.ndim == 4
    if not have_four_axes or (k.shape[0], k.shape[3]) != (q.shape[0], q.shape[3]):
        raise InputError("x", "queries and keys (batch, time, heads, head_size) of one batch and head_size", given)
    if v.shape[:3] != k.shape[:3]:
        raise InputError("x", "a value for every key, (batch, time, heads, …)", given)
    if k.shape[1] == 0:
        raise InputError("x", "at least one key", given)
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise InputError("x", f"keys and values whose heads divide the {q.shape[2]} heads of the queries", given)
    if causal and q.shape[1] > k.shape[1]:
        remedy = "The last query is at the place of the last key."
        raise InputError("x", "at least as many keys as queries, since causal=True", given, remedy)
    if rotary and q.shape[3] % 2:
        raise InputError("rotary", "an even head_size, since features are rotated in pairs", given)


def _bias_and_mask(
    pairs: tuple[jax.Array, ...], q: jax.Array, k: jax.Array
) -> tuple[jax.Array | None, jax.Array | None]:
    """A floating-point array is the bias, and one of booleans the mask."""
    (batch, time, heads, _), keys_time = q.shape, k.shape[1]
    bias = mask = None
    for part in pairs:
        expected = f"a bias or a mask of shape {(batch, heads, time, keys_time)}, or with 1 in place of {heads} heads"
        if not is_array(part) or part.shape not in ((batch, heads, time, keys_time), (batch, 1, time, keys_time)):
            raise InputError("x", expected, shown(part), "Write jnp.broadcast_to(mask, shape).")
        if part.dtype == bool and mask is None:
            mask = part
        elif jnp.issubdtype(part.dtype, jnp.floating) and bias is None:
            bias = part
        else:
            expected = "at most one bias of floating-point numbers and one mask of booleans"
            raise InputError("x", expected, ", ".join(map(shown, pairs)))
    return bias, mask
