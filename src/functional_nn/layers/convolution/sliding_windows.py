"""Sliding windows of convolution and pooling: their positions, and the elements at each place of a window."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import InputError, check
from functional_nn.core.shapes import wide_type
from functional_nn.core.texts import is_count, suggest
from functional_nn.core.validation import LARGEST

Sizes: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | Sequence[tuple[int, int]]


class Windows(NamedTuple):
    """The sliding windows over an input; every field has one entry for each spatial axis.

    The window of output o holds the elements o · stride + k · dilation - pads[0] of the input, for k from 0 to
    window - 1. Those outside the input are padding.
    """

    window: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    in_sizes: tuple[int, ...]
    out_sizes: tuple[int, ...]

    @property
    def places(self) -> int:
        """The number of elements in one window."""
        return math.prod(self.window)


def place_windows(
    in_sizes: Sequence[int],
    window: Sizes,
    *,
    stride: Sizes = 1,
    dilation: Sizes = 1,
    padding: Padding = "valid",
) -> Windows:
    """The windows over an input of these sizes, ``stride`` elements apart.

    >>> place_windows((28, 28), 3, stride=2, padding="same").out_sizes
    (14, 14)
    """
    axes = len(in_sizes)
    sizes, strides, dilations, spans = per_axis(axes, window, stride, dilation)
    match padding:
        case "valid":
            pads = ((0, 0),) * axes
        case "same":
            # ⌈n / s⌉ windows cover (⌈n / s⌉ - 1) s + span elements. Those beyond the input are padding.
            pads = tuple(
                _halves(max((-(-n // s) - 1) * s + span - n, 0))
                for n, s, span in zip(in_sizes, strides, spans, strict=True)
            )
        case "causal":
            check("padding", padding, "one pair for each spatial axis, unless there is one axis", axes == 1)
            pads = ((spans[0] - 1, 0),)
        case _:
            pads = explicit_pads(padding, axes)
    padded = [n + sum(pair) for n, pair in zip(in_sizes, pads, strict=True)]
    if any(size < span for size, span in zip(padded, spans, strict=True)):
        covers = "" if sizes == spans else f", which covers {spans} with its dilation"
        expected = f"at most the padded input, {tuple(padded)}"
        raise InputError("window", expected, f"{sizes}{covers}", "Take a smaller window, or more padding.")
    out_sizes = tuple((size - span) // s + 1 for size, span, s in zip(padded, spans, strides, strict=True))
    return Windows(sizes, strides, dilations, pads, tuple(in_sizes), out_sizes)


def per_axis(axes: int, window: Sizes, stride: Sizes, dilation: Sizes) -> tuple[tuple[int, ...], ...]:
    """Window, stride and dilation for each spatial axis, and how many elements a window spans with its dilation.

    A single number is repeated for every axis.
    """
    sizes = []
    for argument, value in (("window", window), ("stride", stride), ("dilation", dilation)):
        values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
        check(argument, values, f"one number for each spatial axis of x, here {axes}", len(values) == axes)
        sizes.append(tuple(map(int, values)))
    spans = tuple(d * (size - 1) + 1 for size, _, d in zip(*sizes, strict=True))
    return *sizes, spans


def explicit_pads(padding: Padding, axes: int) -> tuple[tuple[int, int], ...]:
    """Pairs of padding (before, after), one for each spatial axis."""
    check("padding", padding, f"one pair for each spatial axis of x, here {axes}", len(padding) == axes)
    return tuple((int(before), int(after)) for before, after in padding)  # pyright: ignore[reportGeneralTypeIssues]


def check_sizes(**sizes: Sizes) -> None:
    """Requires positive sizes: a single one, or one for each of one to three axes."""
    for argument, size in sizes.items():
        values = size if isinstance(size, tuple | list) else (size,)
        are_sizes = 1 <= len(values) <= 3 and all(is_count(value, most=LARGEST) for value in values)
        check(argument, size, "a positive integer, or one for each of one to three spatial axes", are_sizes)


def check_padding(padding: Padding, names: tuple[str, ...], least: int | None = 0) -> None:
    """Requires one of these names, or pairs of whole numbers of at least ``least``."""
    if isinstance(padding, str):
        valid = padding in names
    else:
        valid = isinstance(padding, tuple | list) and all(
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and all(isinstance(size, Integral) and (least is None or int(size) >= least) for size in pair)
            for pair in padding
        )
    remedy = "" if least is None else "No number may be negative."
    if isinstance(padding, str) and not valid:
        remedy = suggest(padding.lower(), names)
    expected = f"{', '.join(map(repr, names))}, or one pair (before, after) for each spatial axis"
    check("padding", padding, expected, valid, remedy)


def check_images(shape: Sequence[int], window: Sizes = 1) -> None:
    """Requires a batch axis, one to three spatial axes (as many as the window has) and channels."""
    axes = len(window) if isinstance(window, Sequence) else None
    if not 3 <= len(shape) <= 5 or axes not in (None, len(shape) - 2):
        spatial = "one to three spatial axes"
        if axes is not None:
            spatial = f"{axes} spatial {'axis' if axes == 1 else 'axes'} (the window's)"
        expected = f"a batch axis, {spatial}, and channels last"
        remedy = "For one example, add a batch axis: x[None]. x[..., None] adds one channel."
        lacks_one = len(shape) == (1 if axes is None else axes) + 1
        raise InputError("x", expected, f"shape {tuple(shape)}", remedy if lacks_one else "")


def window_places(x: jax.Array, windows: Windows, fill: float = 0.0) -> list[jax.Array]:
    """The elements at every place k of all windows, in row-major order: xₖ of shape (batch, *out_sizes, channels)."""
    padded = _padded(x, windows, fill)
    parts = []
    for place in _places(windows):
        # A slice ends after the element that the last window has at this place.
        ends = [
            start + (out - 1) * s + 1 for start, out, s in zip(place, windows.out_sizes, windows.stride, strict=True)
        ]
        start, end = (0, *place, 0), (x.shape[0], *ends, x.shape[-1])
        parts.append(lax.slice(padded, start, end, (1, *windows.stride, 1)))
    return parts


def sum_window_places(parts: Sequence[jax.Array], windows: Windows) -> jax.Array:
    """The transpose of ``window_places`` with ``fill=0``: the sum of all parts at their elements of x."""
    axes = range(len(windows.window))
    padded = []
    for place, part in zip(_places(windows), parts, strict=True):
        config = [(0, 0, 0)]
        for axis in axes:
            # The elements of a part go back to where they were read: from ``before`` on, a stride apart. A negative
            # number in the configuration cuts off what was read from the padding.
            before = place[axis] - windows.pads[axis][0]
            reach = (windows.out_sizes[axis] - 1) * windows.stride[axis] + 1
            config.append((before, windows.in_sizes[axis] - before - reach, windows.stride[axis] - 1))
        padded.append(lax.pad(part, jnp.zeros((), part.dtype), (*config, (0, 0, 0))))
    return sum_arrays(padded)


def stacked_places(x: jax.Array, windows: Windows) -> jax.Array:
    """The arrays of ``window_places`` as one, (batch, *out_sizes, places, channels).

    One axis is taken after the other, so that a window of a × b elements takes a + b operations, not a · b.
    """
    stacked = _padded(x, windows, 0.0)[..., None, :]
    for axis, (size, stride, dilation, _, _, out) in enumerate(zip(*windows, strict=True), start=1):
        reach = (out - 1) * stride + 1
        starts = range(0, size * dilation, dilation)
        parts = [lax.slice_in_dim(stacked, start, start + reach, stride, axis) for start in starts]
        parts = jnp.stack(parts, axis=-2)
        stacked = parts.reshape(*parts.shape[:-3], -1, parts.shape[-1])
    return stacked


def sum_stacked_places(stacked: jax.Array, windows: Windows) -> jax.Array:
    """The transpose of ``stacked_places``: the sum of all parts at their elements of x."""
    dtype = stacked.dtype
    summed = stacked.astype(wide_type(dtype))
    for axis, sizes in reversed(list(enumerate(zip(*windows, strict=True), start=1))):
        size, stride, dilation, (before, _), in_size, out = sizes
        parts = jnp.split(summed.reshape(*summed.shape[:-2], -1, size, summed.shape[-1]), size, axis=-2)
        reach = (out - 1) * stride + 1
        padded = []
        for place, part in enumerate(parts):
            config = [(0, 0, 0)] * part.ndim
            start = place * dilation - before
            config[axis] = (start, in_size - start - reach, stride - 1)
            padded.append(lax.pad(part, jnp.zeros((), part.dtype), config))
        # Without a barrier, XLA would compute the sums of one axis again for each place of the next.
        summed = lax.optimization_barrier(functools.reduce(jnp.add, padded)).squeeze(-2)
    return summed[..., 0, :].astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: jax.Array, windows: Windows) -> jax.Array:
    """The largest element of each window, (batch, *out_sizes, channels), in one pass over x.

    Its derivative is JAX's own for ``jnp.max``: equally large elements share it equally. With the derivative of
    ``jnp.maximum`` they would not.
    """
    return functools.reduce(jnp.maximum, window_places(x, windows, -jnp.inf))


@largest.defjvp
def _largest_as_max(windows, primals, tangents):
    def maximum(x):
        # Widened for jax.grad, which adds the shares of an element in this type.
        wide = x.astype(wide_type(x.dtype))
        if windows_are_disjoint(windows):
            y = jnp.max(tiles(wide, windows, -jnp.inf), axis=window_axes(windows))
        else:
            y = jnp.max(jnp.stack(window_places(wide, windows, -jnp.inf)), axis=0)
        return y.astype(x.dtype)

    return jax.jvp(maximum, primals, tangents)


def windows_are_disjoint(windows: Windows) -> bool:
    """Whether windows do not overlap and leave no gaps."""
    return windows.window == windows.stride


def tiles(x: jax.Array, windows: Windows, fill: float) -> jax.Array:
    """x with every spatial axis split into (out_size, window). x is padded or cut to fit."""
    sizes = list(zip(windows.in_sizes, windows.out_sizes, windows.window, windows.pads, strict=True))
    around = ((0, 0, 0), *((before, out * size - n - before, 0) for n, out, size, (before, _) in sizes), (0, 0, 0))
    fitted = lax.pad(x, jnp.asarray(fill, x.dtype), around)
    split = (axis for _, out, size, _ in sizes for axis in (out, size))
    return fitted.reshape(x.shape[0], *split, x.shape[-1])


def untiled(tiles: jax.Array, windows: Windows) -> jax.Array:
    """The transpose of ``tiles``: padding is dropped, and elements that were cut off get 0."""
    sizes = list(zip(windows.in_sizes, windows.out_sizes, windows.window, windows.pads, strict=True))
    joined = tiles.reshape(tiles.shape[0], *(out * size for _, out, size, _ in sizes), tiles.shape[-1])
    around = ((0, 0, 0), *((-before, n + before - out * size, 0) for n, out, size, (before, _) in sizes), (0, 0, 0))
    return lax.pad(joined, jnp.zeros((), tiles.dtype), around)


def spread_over_tiles(y: jax.Array, windows: Windows) -> jax.Array:
    """One value for each window, with axes of size 1 so that it broadcasts against ``tiles``."""
    return jnp.expand_dims(y, window_axes(windows))


def window_axes(windows: Windows) -> tuple[int, ...]:
    """The axes of ``tiles`` inside a window."""
    return tuple(range(2, 2 * len(windows.window) + 1, 2))


def sum_arrays(parts: Sequence[jax.Array]) -> jax.Array:
    """The sum of arrays of floating-point numbers, of one shape and type. 16-bit numbers are added in float32."""
    dtype = parts[0].dtype
    return functools.reduce(jnp.add, (part.astype(wide_type(dtype)) for part in parts)).astype(dtype)


def _padded(x: jax.Array, windows: Windows, fill: float) -> jax.Array:
    return lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *((*pair, 0) for pair in windows.pads), (0, 0, 0)))


def _places(windows: Windows) -> itertools.product:
    """Every place in the window, as its distance from the first element."""
    steps = zip(windows.window, windows.dilation, strict=True)
    return itertools.product(*(range(0, size * dilation, dilation) for size, dilation in steps))


def _halves(total: int) -> tuple[int, int]:
    """The padding before and after; an odd element comes after."""
    return total // 2, total - total // 2
