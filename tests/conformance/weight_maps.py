"""From PyTorch's parameters to this package's: one linear map for each kind of module.

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

Tensors: TypeAlias = Mapping[str, jax.Array]
Map: TypeAlias = Callable[[Tensors], Any]


def part(theirs: Tensors, prefix: str) -> Tensors:
    """The tensors of a module within a module, by their own names."""
    return {name.removeprefix(prefix): tensor for name, tensor in theirs.items() if name.startswith(prefix)}


def nothing(theirs: Tensors) -> dict[str, Any]:
    """Of a module without parameters."""
    return {}


def linear(theirs: Tensors) -> dict[str, Any]:
    """``Linear`` to ``dense``: the weight (out, in) becomes (in, out)."""
    return {"weight": theirs["weight"].T} | _optional(theirs, bias="bias")


def linear_after_flatten(theirs: Tensors, shape: tuple[int, ...]) -> dict[str, Any]:
    """``Linear`` after ``Flatten`` of images (channels, …), which PyTorch flattens channels first, and we last."""
    weight = theirs["weight"].reshape(-1, *shape)
    return linear({**theirs, "weight": jnp.moveaxis(weight, 1, -1).reshape(len(weight), -1)})


def convolution(theirs: Tensors) -> dict[str, Any]:
    """``Conv1d`` to ``Conv3d`` to ``conv``: (out, in / groups, *window) becomes (*window, in / groups, out).

    ``ConvTranspose1d`` to ``ConvTranspose3d`` to ``conv_transpose`` is the same map, of other axes: (in, out / groups,
    *window) becomes (*window, out / groups, in).
    """
    return {"weight": jnp.moveaxis(theirs["weight"], (0, 1), (-1, -2))} | _optional(theirs, bias="bias")


def normalization(theirs: Tensors) -> dict[str, Any]:
    """All norms: their weight is our scale."""
    return _optional(theirs, scale="weight", bias="bias")


def layer_norm_of_images(theirs: Tensors) -> dict[str, Any]:
    """``LayerNorm((channels, …))`` to ``layer_norm(axes=…)``: parameters with the channels last."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), normalization(theirs))


def running_statistics(theirs: Tensors) -> dict[str, Any]:
    """``BatchNorm``'s buffers to the state of ``batch_norm``."""
    return {"mean": theirs["running_mean"], "variance": theirs["running_var"]}


def embedding(theirs: Tensors) -> dict[str, Any]:
    """``Embedding`` to ``embedding``: as it is."""
    return {"weight": theirs["weight"]}


def prelu(theirs: Tensors) -> dict[str, Any]:
    """``PReLU`` to ``prelu``."""
    return {"negative_slope": theirs["weight"]}


def recurrent(theirs: Tensors, suffix: str = "") -> dict[str, Any]:
    """``RNN`` and ``LSTM``, or their cells, to ``rnn`` and ``lstm``.

    Weights (gates · hidden, in) become (in, gates · hidden); the gates of an LSTM keep their order, i, f, g, o; b_ih
    and b_hh, which PyTorch adds in every step, are one bias here.
    """
    params = {
        "input_weight": theirs[f"weight_ih{suffix}"].T,
        "hidden_weight": theirs[f"weight_hh{suffix}"].T,
    }
    if f"bias_ih{suffix}" not in theirs:
        return params | {"bias": jnp.zeros_like(params["input_weight"][0])}
    return params | {"bias": theirs[f"bias_ih{suffix}"] + theirs[f"bias_hh{suffix}"]}


def gru(theirs: Tensors, suffix: str = "") -> dict[str, Any]:
    """``GRU`` and ``GRUCell`` to ``gru``, whose gates r, z, n are in PyTorch's order.

    The reset gate multiplies uₙ and its bias, so that part of b_hh stays alone (``hidden_bias``); the parts for r and z
    are added to b_ih.
    """
    gates, candidate = jnp.split(theirs[f"bias_hh{suffix}"], [theirs[f"bias_hh{suffix}"].shape[0] // 3 * 2])
    added = jnp.concatenate([gates, jnp.zeros_like(candidate)])
    return {
        "input_weight": theirs[f"weight_ih{suffix}"].T,
        "hidden_weight": theirs[f"weight_hh{suffix}"].T,
        "bias": theirs[f"bias_ih{suffix}"] + added,
        "hidden_bias": candidate,
    }


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
    """``MultiheadAttention`` to ``attention``.

    in_proj_weight is q, k and v, one below the other; of each, (heads · head_size, in) becomes (in, heads, head_size),
    its bias (heads, head_size). out_proj.weight (out, heads · head_size) becomes (heads, head_size, out). The bias of
    k falls away: it adds the same to all scores of a query, which changes no softmax, so its gradient is 0.
    """

    def mapped(theirs: Tensors) -> dict[str, Any]:
        own = part(theirs, prefix)
        if "in_proj_weight" in own:
            weights = jnp.split(own["in_proj_weight"], 3)
        else:
            weights = [own[f"{letter}_proj_weight"] for letter in "qkv"]
        params = {
            name: {"weight": weight.T.reshape(weight.shape[1], heads, -1)}
            for name, weight in zip(("query", "key", "value"), weights, strict=True)
        }
        out = own["out_proj.weight"]
        params["output"] = {"weight": out.T.reshape(heads, -1, out.shape[0])}
        if "in_proj_bias" in own:
            query_bias, _, value_bias = jnp.split(own["in_proj_bias"], 3)
            params["query"]["bias"] = query_bias.reshape(heads, -1)
            params["value"]["bias"] = value_bias.reshape(heads, -1)
            params["output"]["bias"] = own["out_proj.bias"]
        return params

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


def _optional(theirs: Tensors, **names: str) -> dict[str, Any]:
    """Ours for those of theirs that are there."""
    return {ours: theirs[name] for ours, name in names.items() if name in theirs}
