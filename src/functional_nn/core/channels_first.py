"""Images with their channels before height and width, as in PyTorch: how they are told, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from functional_nn.core.errors import InputError

# Data sets use this module, so it must not import JAX.

TRANSPOSE = "The images look channels first, as in PyTorch. Write x.transpose(0, 2, 3, 1)."


def looks_channels_first(shape: Sequence[int]) -> bool:
    """Whether a batch of images seems to have the axes (batch, channels, height, width).

    It has one or three channels on axis 1, and no usual number of channels on the last axis.

    >>> looks_channels_first((64, 3, 32, 32)), looks_channels_first((64, 32, 32, 3))
    (True, False)
    """
    # A symbolic size stands for any number, so nothing can be said about it.
    if len(shape) != 4 or not all(isinstance(size, int) for size in shape):
        return False
    _, channels, height, width = shape
    return channels in (1, 3) and min(height, width) > channels and width not in (1, 3, 4)


@contextmanager
def explaining_channels_first(shape: Sequence[int]) -> Iterator[None]:
    """Puts the transposition into the message of an InputError, if images of this shape look channels first."""
    try:
        yield
    except InputError as error:
        if looks_channels_first(shape):
            error.remedy = TRANSPOSE
        raise
