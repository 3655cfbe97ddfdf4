"""Blocks that networks repeat: compositions of layers, whose sizes follow from their input."""

from __future__ import annotations

from collections.abc import Callable

import jax

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.activations.table import gelu, relu
from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import check_shape
from functional_nn.core.masked import values_of
from functional_nn.core.validation import check_count, check_flag
from functional_nn.layers.attention import attention
from functional_nn.layers.combinators.chain import chain, residual
from functional_nn.layers.convolution.conv import conv
from functional_nn.layers.dense import dense
from functional_nn.layers.dropout import dropout as dropout_layer
from functional_nn.layers.normalization.batch_norm import batch_norm
from functional_nn.layers.normalization.layer_norm import layer_norm


def transformer_block(
    heads: int,
    *,
    hidden_size: int | None = None,
    activation: Activation | VectorActivation | Callable[[jax.Array], jax.Array] = gelu,
    dropout: float | jax.Array = 0.0,
    causal: bool = False,
    rotary: bool = False,
    norm_first: bool = True,
    name: str = "transformer_block",
) -> Layer:
    """Attention among the steps of a sequence, then two dense layers on each step, both added to their input.

    Math:
        With a = ``attention``, g(x) = f(x W₁ + b₁) W₂ + b₂ and N = ``layer_norm``:

        z = x + a(N(x)), y = z + g(N(z)); or, with the norms last, z = N(x + a(x)), y = N(z + g(z))

    Shapes:
        x and y (batch, time, features); x may be ``Masked``

    Gradient:
        composed by ``chain`` and ``residual``

    Args:
        heads: of the attention; a divisor of features.
        hidden_size: the outputs of W₁; by default 4 · features.
        activation: f.
        dropout: the share of the outputs of a and g to drop in training, before they are added.
        causal: whether a step sees none after itself.
        rotary: whether positions turn queries and keys; see ``dot_product_attention``.
        norm_first: whether the norms stand before a and g; training is then more stable.
        name: used in parameter trees and in error messages.

    >>> from functional_nn.core import trees
    >>> params, _ = transformer_block(2).init(jax.random.key(0), (5, 6))
    >>> trees.flatten(params)["residual_1/chain_0/dense_0/weight"].shape, trees.size(params)
    ((6, 24), 504)

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.1; Xiong et al. 2020, "On layer normalization in
        the transformer architecture" (norms first).
    """

    norm_first = check_flag("norm_first", norm_first)
    drops = dropped(dropout)

    def block(features: int) -> Layer:
        attend = [attention(heads, causal=causal, rotary=rotary), *drops]
        feed_forward = [
            dense(4 * features if hidden_size is None else hidden_size),
            activation,
            dense(features),
            *drops,
        ]
        if norm_first:
            return chain(residual(chain(layer_norm(), *attend)), residual(chain(layer_norm(), *feed_forward)))
        return chain(residual(chain(*attend)), layer_norm(), residual(chain(*feed_forward)), layer_norm())

    return Layer(
        name,
        init=lambda key, in_shape: block(check_shape(in_shape, "(time, features)")[-1]).init(key, in_shape),
        forward=lambda params, state, x, **options: block(values_of(x).shape[-1]).forward(params, state, x, **options),
        backward=lambda residuals, y_bar: block(values_of(y_bar).shape[-1]).backward(residuals, y_bar),
        takes_mask=True,
    )


def residual_block(
    out_size: int,
    *,
    stride: int = 1,
    projection: bool | None = None,
    activation: Activation | VectorActivation | Callable[[jax.Array], jax.Array] = relu,
    name: str = "residual_block",
) -> Layer:
    """Two normalized 3×3 convolutions, added to their input.

    Math:
        y = f(N₂(W₂ ∗ f(N₁(W₁ ∗ x))) + s(x)) with N = ``batch_norm``, and s(x) = x or N₃(W₃ ∗ x), W₃ being 1×1

    Shapes:
        x (batch, height, width, in_size), y (batch, ⌈height / stride⌉, ⌈width / stride⌉, out_size)

    Gradient:
        composed by ``chain`` and ``residual``

    Args:
        out_size: the number of output channels.
        stride: of W₁ and W₃.
        projection: whether s has W₃; by default where the stride is not 1. Needed where channels change.
        activation: f.
        name: used in parameter trees and in error messages.

    >>> params, _ = residual_block(4).init(jax.random.key(0), (8, 8, 4))
    >>> sorted(params["residual_0"]["chain_0"])
    ['batch_norm_0', 'batch_norm_1', 'conv_0', 'conv_1']

    References:
        He et al. 2016, "Deep residual learning for image recognition", figure 2.
    """
    if projection is None:
        projection = check_count("stride", stride) != 1
    projected = chain(conv(out_size, 1, stride=stride, bias=False), batch_norm(), name="projection")
    first = conv(out_size, 3, stride=stride, bias=False), batch_norm(), activation
    second = conv(out_size, 3, bias=False), batch_norm()
    shortcut = projected if check_flag("projection", projection) else None
    return chain(residual(chain(*first, *second), shortcut=shortcut), activation, name=name)


def dropped(rate: float | jax.Array) -> list[Layer]:
    """A dropout layer, or none where the rate is 0; of a traced rate nobody knows."""
    layer = dropout_layer(rate)
    return [layer] if isinstance(rate, jax.Array) or rate else []
