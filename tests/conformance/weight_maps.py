"""From PyTorch's parameters to this package's, for each kind of module: the maps of ``functional_nn.exchange``.

A map takes the tensors of ``module.named_parameters()`` by name and gives the parameters of our layer. All maps are
linear (transposes, slices, sums), which settles gradients too: where ours = T(theirs), the cotangents go back by the
transpose, theirs_bar = Tᵀ(ours_bar). For a bias that PyTorch keeps in two parts, b = b_ih + b_hh, both parts have the
cotangent of b.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core import trees
from functional_nn.exchange.network_layers import NetworkLayer
from functional_nn.exchange.torch_maps import PYTORCH

Tensors: TypeAlias = Mapping[str, jax.Array]
Map: TypeAlias = Callable[[Tensors], Any]


def part(theirs: Tensors, prefix: str) -> Tensors:
    """The tensors of a module within a module, by their own names."""
    return {name.removeprefix(prefix): tensor for name, tensor in theirs.items() if name.startswith(prefix)}


def nothing(theirs: Tensors) -> dict[str, Any]:
    """Of a module without parameters."""
    return {}


def read(kind: str, theirs: Tensors, *, shapes=None) -> dict[str, Any]:
    """The parameters of a layer of this kind, by the transpose of the package's map, which is from ours to theirs.

    All numbers of a layer go to one place, except for a bias in two parts. So the transpose is the way back.
    """
    if not theirs:
        return {}
    shapes = _our_shapes(kind, theirs) if shapes is None else shapes
    layer = NetworkLayer(kind, kind, shapes)
    dtype = next(iter(theirs.values())).dtype
    ours = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}

    def write(ours):
        return PYTORCH[kind](ours, layer, theirs, lambda bias: bias)

    written = jax.eval_shape(write, ours)
    (found,) = jax.linear_transpose(write, ours)(
        {
            name: jnp.asarray(theirs[name]) if name in theirs else jnp.zeros(one.shape, dtype)
            for name, one in written.items()
        }
    )
    return trees.unflatten(found)


def _our_shapes(kind: str, theirs: Tensors) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's arrays from those of PyTorch."""
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    if kind in ("dense", "conv"):
        out_size, in_size, *window = shapes["weight"]
        return {**shapes, "weight": (*window, in_size, out_size)}
    if kind in ("norm", "batch_norm"):
        names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
        return {names[name]: (*shape[1:], *shape[:1]) for name, shape in shapes.items()}
    if kind in ("lstm", "gru"):
        width, size = shapes["weight_hh"]
        ours = {"input_weight": shapes["weight_ih"][::-1], "hidden_weight": (size, width), "bias": (width,)}
        return ours | ({"hidden_bias": (size,)} if kind == "gru" else {})
    return shapes


def linear(theirs: Tensors) -> dict[str, Any]:
    """``Linear`` to ``dense``."""
    return read("dense", theirs)


def convolution(theirs: Tensors) -> dict[str, Any]:
    """``Conv1d`` to ``Conv3d``, and ``ConvTranspose1d`` to ``ConvTranspose3d``, whose map is the same."""
    return read("conv", theirs)


def normalization(theirs: Tensors) -> dict[str, Any]:
    """All norms: their weight is our scale."""
    return read("norm", theirs)


def running_statistics(theirs: Tensors) -> dict[str, Any]:
    """``BatchNorm``'s buffers to the state of ``batch_norm``."""
    return read("batch_norm", {name: theirs[name] for name in ("running_mean", "running_var")})


def embedding(theirs: Tensors) -> dict[str, Any]:
    """``Embedding`` to ``embedding``."""
    return read("embedding", theirs)


def prelu(theirs: Tensors) -> dict[str, Any]:
    """``PReLU`` to ``prelu``."""
    return read("prelu", theirs, shapes={"negative_slope": theirs["weight"].shape})


def recurrent(theirs: Tensors, suffix: str = "") -> dict[str, Any]:
    """``RNN`` and ``LSTM``, or their cells, to ``rnn`` and ``lstm``."""
    return read("lstm", _of_direction(theirs, suffix))


def gru(theirs: Tensors, suffix: str = "") -> dict[str, Any]:
    """``GRU`` and ``GRUCell`` to ``gru``."""
    return read("gru", _of_direction(theirs, suffix))


def stacked(of_one: Callable[[Tensors, str], Any], name: str, layers: int, *, bidirectional: bool) -> Map:
    """A recurrent module of several layers to a chain of ``name`` layers, ``bidirectional`` ones or plain ones."""

    def mapped(theirs: Tensors) -> dict[str, Any]:
        if not bidirectional:
            return {f"{name}_{i}": of_one(theirs, f"_l{i}") for i in range(layers)}
        return {
            f"bidirectional_{i}": {
                f"{name}_0": of_one(theirs, f"_l{i}"),
                "reversed_0": of_one(theirs, f"_l{i}_reverse"),
            }
            for i in range(layers)
        }

    return mapped


def attention(heads: int, prefix: str = "") -> Map:
    """``MultiheadAttention`` to ``attention``. The bias of the keys changes no softmax, so its gradient is 0."""

    def mapped(theirs: Tensors) -> dict[str, Any]:
        own = part(theirs, prefix)
        size = own["out_proj.weight"].shape[0]
        in_sizes = {letter: own.get(f"{letter}_proj_weight", own["out_proj.weight"]).shape[1] for letter in "qkv"}
        names = {"q": "query", "k": "key", "v": "value"}
        each = heads, size // heads
        shapes = {f"{names[letter]}/weight": (in_sizes[letter], *each) for letter in "qkv"}
        if "in_proj_bias" in own:
            shapes |= {"query/bias": each, "value/bias": each, "output/bias": (size,)}
        return read("attention", own, shapes={**shapes, "output/weight": (*each, size)})

    return mapped


def transformer_block(heads: int, *, norm_first: bool) -> Map:
    """``TransformerEncoderLayer`` to ``transformer_block``, whose norms stand inside the residuals or after them."""

    def mapped(theirs: Tensors) -> dict[str, Any]:
        norms = [normalization(part(theirs, f"norm{number}.")) for number in (1, 2)]
        attend = {"attention_0": attention(heads, "self_attn.")(theirs)}
        feed_forward = {f"dense_{number - 1}": linear(part(theirs, f"linear{number}.")) for number in (1, 2)}
        if norm_first:
            attend["layer_norm_0"], feed_forward["layer_norm_0"] = norms
        blocks = {"attention": attend, "mlp": feed_forward}
        return blocks if norm_first else blocks | {"attention_norm": norms[0], "mlp_norm": norms[1]}

    return mapped


def channels_last(x: jax.Array) -> jax.Array:
    """(batch, channels, …) to (batch, …, channels)."""
    return jnp.moveaxis(x, 1, -1)


def channels_first(x: jax.Array) -> jax.Array:
    """(batch, …, channels) to (batch, channels, …)."""
    return jnp.moveaxis(x, -1, 1)


def _of_direction(theirs: Tensors, suffix: str) -> Tensors:
    """The tensors of one layer and direction, without the suffix of their names."""
    return {name.removesuffix(suffix): tensor for name, tensor in theirs.items() if name.endswith(suffix)}
