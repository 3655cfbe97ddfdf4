"""Building blocks of networks: the transformer block and the residual block."""

from __future__ import annotations

from collections.abc import Callable

import jax

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.activations.piecewise import relu
from functional_nn.activations.smooth import gelu
from functional_nn.core.layer import Layer, backward_of, is_faster_by_formula
from functional_nn.core.masked import values_of
from functional_nn.core.validation import check_count, check_flag, check_one_array, check_shape
from functional_nn.layers.attention import attention
from functional_nn.layers.combinators.chain import chain, residual
from functional_nn.layers.convolution.conv import conv
from functional_nn.layers.dense import dense
from functional_nn.layers.dropout import dropout as dropout_layer
from functional_nn.layers.normalization import batch_norm, layer_norm


def transformer_block(
    heads: int,
    *,
    key_value_heads: int | None = None,
    hidden_size: int | None = None,
    activation: Activation | VectorActivation | Callable[[jax.Array], jax.Array] = gelu,
    dropout: float | jax.Array = 0.0,
    causal: bool = False,
    window: int | None = None,
    rotary: bool = False,
    score_cap: float | None = None,
    norm_first: bool = True,
    name: str = "transformer_block",
) -> Layer:
    """Self-attention, then two dense layers on each step. The output of each part is added to its input.

    Math:
        With a = ``attention``, g(x) = f(x W₁ + b₁) W₂ + b₂ and N = ``layer_norm``:

        z = x + a(N(x)), y = z + g(N(z)), or without ``norm_first`` z = N(x + a(x)), y = N(z + g(z))

    Shapes:
        x and y (batch, time, features); x may be ``Masked``

    Gradient:
        composed by ``chain`` and ``residual``

    The parameters of a and its norm are in ``attention``, those of g and its norm in ``mlp``.

    Args:
        heads: the number of heads of the attention, a divisor of features.
        key_value_heads: the number of heads of its keys and values, a divisor of heads; see ``attention``.
        hidden_size: the outputs of W₁; by default 4 · features.
        activation: f.
        dropout: the share of the outputs of a and g that is dropped in training, before the addition.
        causal: whether a step sees only steps up to itself.
        window: the number of steps that a step sees, up to itself; by default all. It requires causal.
        rotary: whether queries and keys are rotated by their positions; see ``dot_product_attention``.
        score_cap: the largest absolute value of a score; see ``dot_product_attention``.
        norm_first: whether the norms are applied before a and g, which makes training more stable.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax
    >>> from functional_nn.core import trees
    >>> params, _ = fnn.models.transformer_block(2).init(jax.random.key(0), (5, 6))
    >>> trees.flatten(params)["mlp/dense_0/weight"].shape, trees.size(params)
    ((6, 24), 504)

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.1; Xiong et al. 2020, "On layer normalization in
        the transformer architecture" (norms first).
    """
    attend = attention(
        heads, key_value_heads=key_value_heads, causal=causal, window=window, rotary=rotary, score_cap=score_cap
    )
    return block_around(
        attend, hidden_size=hidden_size, activation=activation, dropout=dropout, norm_first=norm_first, name=name
    )


def block_around(
    attend: Layer,
    *,
    hidden_size: int | None,
    activation: Activation | VectorActivation | Callable[[jax.Array], jax.Array],
    dropout: float | jax.Array,
    norm_first: bool = True,
    name: str = "transformer_block",
) -> Layer:
    """A transformer block with this layer as its attention."""
    norm_first = check_flag("norm_first", norm_first)
    drops = dropped(dropout)

    def block(features: int) -> Layer:
        size = 4 * features if hidden_size is None else hidden_size
        attention_part, feed_forward = [attend, *drops], [dense(size), activation, dense(features), *drops]
        if norm_first:
            return chain(attention=residual(layer_norm(), *attention_part), mlp=residual(layer_norm(), *feed_forward))
        return chain(
            attention=residual(*attention_part),
            attention_norm=layer_norm(),
            mlp=residual(*feed_forward),
            mlp_norm=layer_norm(),
        )

    # The sizes of the dense layers depend on the number of features, which is known only from the input. So each call
    # builds the layers for its input.
    def init(key, in_shape):
        return block(check_shape(in_shape, "(time, features)")[-1]).init(key, in_shape)

    def forward(params, state, x, *, train, key=None):
        check_one_array(values_of(x))
        return block(values_of(x).shape[-1]).forward(params, state, x, train=train, key=key)

    def backward(residuals, y_bar):
        return backward_of(block(values_of(y_bar).shape[-1]))(residuals, y_bar)

    # Whether there is a formula does not depend on the number of features.
    return Layer(name, init, forward, backward, takes_mask=True, faster_by_formula=is_faster_by_formula(block(1)))


def residual_block(
    out_size: int,
    *,
    stride: int = 1,
    projection: bool | None = None,
    activation: Activation | VectorActivation | Callable[[jax.Array], jax.Array] = relu,
    name: str = "residual_block",
) -> Layer:
    """Two 3×3 convolutions with batch norm, whose output is added to their input.

    Math:
        y = f(N₂(W₂ ∗ f(N₁(W₁ ∗ x))) + s(x)) with N = ``batch_norm``, and s(x) = x or N₃(W₃ ∗ x) with a 1×1 window W₃

    Shapes:
        x (batch, height, width, in_size), y (batch, ⌈height / stride⌉, ⌈width / stride⌉, out_size)

    Gradient:
        composed by ``chain`` and ``residual``

    Args:
        out_size: the number of output channels.
        stride: the stride of W₁ and W₃.
        projection: whether s(x) = N₃(W₃ ∗ x). It is needed if the number of channels changes. By default it is used if
            the stride is not 1.
        activation: f.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax
    >>> params, _ = fnn.models.residual_block(4).init(jax.random.key(0), (8, 8, 4))
    >>> sorted(params["body"])
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
    return chain(body=residual(*first, *second, shortcut=shortcut), activation=activation, name=name)


def dropped(rate: float | jax.Array) -> list[Layer]:
    """A list of one dropout layer, or of none if the rate is 0. A traced rate, which is not known, gives a layer."""
    layer = dropout_layer(rate)
    return [layer] if isinstance(rate, jax.Array) or rate else []
