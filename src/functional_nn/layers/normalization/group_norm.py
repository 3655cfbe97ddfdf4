"""Group normalization and instance normalization: over groups of channels of each example."""

from __future__ import annotations

from collections.abc import Callable

import jax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Shape
from functional_nn.core.layer_checks import without_input_size
from functional_nn.core.validation import check_count
from functional_nn.layers.normalization.example_norm import example_norm
from functional_nn.layers.normalization.standardize import Axes


def group_norm(
    groups: int, *, epsilon: float = 1e-5, scale: bool = True, bias: bool = True, name: str = "group_norm"
) -> Layer:
    """Normalizes groups of channels: for each example, over all positions and all channels of a group.

    Math:
        The channels are divided into groups of channels / groups neighboring channels. μ and σ² are the mean and the
        biased variance of the m values of one group in one example.

        x̂ = (x - μ) / √(σ² + ε), y = scale · x̂ + bias

        In ``Masked`` sequences only real steps are counted, and at padding y is 0. Statistics are computed in float32
        or wider. With one group the whole example is normalized. ``instance_norm`` has one group for each channel.

    Shapes:
        x and y (batch, …, channels); scale and bias (channels,)

    Gradient:
        That of ``layer_norm`` with the sums over a group: with s = 1/√(σ² + ε) and g = scale · y_bar

        x_bar = s (g - Σg / m - x̂ Σ(g x̂) / m), and over the batch and all positions scale_bar = Σ(y_bar x̂),
        bias_bar = Σ y_bar

    Args:
        groups: the number of groups, a divisor of the number of channels.
        epsilon: ε, added to the variance.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: if the number of channels is not a multiple of groups, and for a group with a single value.

    >>> import jax.numpy as jnp
    >>> layer = group_norm(2)
    >>> params, state = layer.init(None, (4,))
    >>> print(layer.apply(params, state, jnp.array([[1.0, 3.0, 30.0, 10.0]]), train=True)[0].round(3))
    [[-1.  1.  1. -1.]]

    References:
        Wu and He 2018, "Group normalization", equations 1, 2 and 7.
    """
    groups = check_count("groups", groups)
    return _group_norm(name, lambda channels: groups, epsilon, scale=scale, bias=bias)


@without_input_size()
def instance_norm(
    *, epsilon: float = 1e-5, scale: bool = True, bias: bool = True, name: str = "instance_norm"
) -> Layer:
    """Normalizes each channel of each example over its positions: ``group_norm`` with as many groups as channels.

    Math, shapes and gradient:
        those of ``group_norm`` with one channel in each group

    Args:
        epsilon: ε, added to the variance.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for inputs with a single position, since a channel then has a single value.

    >>> import jax.numpy as jnp
    >>> layer = instance_norm(scale=False, bias=False)
    >>> print(layer.apply({}, {}, jnp.array([[[1.0, 30.0], [3.0, 10.0]]]), train=True)[0].round(3))
    [[[-1.  1.]
      [ 1. -1.]]]

    References:
        Ulyanov, Vedaldi and Lempitsky 2016, "Instance normalization", equation 1.
    """
    return _group_norm(name, lambda channels: channels, epsilon, scale=scale, bias=bias)


def _group_norm(
    name: str, group_count: Callable[[int], int], epsilon: float | jax.Array, *, scale: bool, bias: bool
) -> Layer:
    """A group norm. ``group_count`` gives the number of groups for a number of channels."""

    def with_group_axis(shape: Shape) -> Shape:
        """Splits the channel axis into two: groups, and channels within a group."""
        channels = shape[-1]
        groups = group_count(channels)
        if channels % groups:
            raise InputError("groups", f"a divisor of the {channels} channels", groups)
        return (*shape[:-1], groups, channels // groups)

    def group_axes(rank: int) -> Axes:
        """All positions, and the channels within a group: all axes except the batch and the groups."""
        return (*range(1, rank - 1), rank)

    def channel_axis(rank: int) -> Axes:
        return (rank - 1,)

    return example_norm(name, with_group_axis, group_axes, channel_axis, epsilon, scale=scale, bias=bias)
