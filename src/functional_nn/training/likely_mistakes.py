"""Warnings about networks and data that can be trained, but probably not as they were meant."""

from __future__ import annotations

import warnings

import numpy as np

from functional_nn.core.errors import TRANSPOSE, looks_channels_first
from functional_nn.core.layer import Layer
from functional_nn.core.trees import PyTree
from functional_nn.data.dataset import Split
from functional_nn.data.examples import number_of_examples
from functional_nn.losses.loss import Loss
from functional_nn.training.step import LossFunction

APPLIED_BY_LOSS = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}
"""The function that a loss of logits applies itself."""

USING_CHANNELS = (
    "conv",
    "conv_transpose",
    "max_pool",
    "average_pool",
    "global_average_pool",
    "global_max_pool",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "spatial_dropout",
    "random_shift",
    "random_deformation",
)
"""Layers that treat the last axis of images as channels. After ``flatten``, the order of the axes does not matter."""


def warn_of_likely_mistakes(net: Layer, loss: LossFunction, split: Split, batch_size: int) -> None:
    """Warns of likely mistakes in the arguments of ``fit``, which calls this function."""
    examples = number_of_examples(split.train_x)
    if batch_size > examples:
        _warn(f"batch_size {batch_size} is larger than the {examples} training examples: an epoch is one step.")
    last = _last(net).name
    if isinstance(loss, Loss) and APPLIED_BY_LOSS.get(loss.name) == last:
        _warn(f"{loss.name} takes logits, and the network ends in a {last}. Leave the {last} out.")
    if _look_channels_first(split.train_x) and _first(net).name in USING_CHANNELS:
        _warn(f"data: training images of shape {split.train_x.shape[1:]}. {TRANSPOSE}")


def _warn(text: str) -> None:
    # The line that is shown is the one that calls fit: above this function, the one above it, and fit.
    warnings.warn(text, UserWarning, stacklevel=4)


def _look_channels_first(x: PyTree) -> bool:
    return isinstance(x, np.ndarray) and looks_channels_first(x.shape)


def _first(layer: Layer) -> Layer:
    """The first layer inside the first combinator, and so on."""
    return _first(layer.layers[0][1]) if layer.layers else layer


def _last(layer: Layer) -> Layer:
    """The last layer of a chain, or of a chain at its end. The last layer of another combinator is not its output."""
    is_chain = bool(layer.layers) and layer.name == "chain"
    return _last(layer.layers[-1][1]) if is_chain else layer
