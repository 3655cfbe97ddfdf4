"""The language model with Equinox: its layers, partitioned once, and a jitted step with donated state."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks import w6
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_steps import epochs_of_sonnets

LIBRARIES = ("equinox", "jax", "jaxlib", "optax")


class Block(eqx.Module):
    """A transformer block, norms first, of one sequence (time, features)."""

    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    dense_norm: eqx.nn.LayerNorm
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, sizes: w6.LanguageSizes, key: jax.Array):
        keys, features = jax.random.split(key, 3), sizes.features
        self.attention_norm, self.dense_norm = eqx.nn.LayerNorm(features), eqx.nn.LayerNorm(features)
        biases = {"use_query_bias": True, "use_value_bias": True, "use_output_bias": True}
        self.attention = eqx.nn.MultiheadAttention(sizes.heads, features, **biases, key=keys[0])
        self.first = eqx.nn.Linear(features, 4 * features, key=keys[1])
        self.second = eqx.nn.Linear(4 * features, features, key=keys[2])

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        normed = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(normed, normed, normed, mask=mask)
        hidden = jax.nn.gelu(jax.vmap(self.first)(jax.vmap(self.dense_norm)(x)), approximate=False)
        return x + jax.vmap(self.second)(hidden)


class Network(eqx.Module):
    """Tokens (time,) to logits (time, count), with the vectors of the embedding for both."""

    embedding: eqx.nn.Embedding
    positions: jax.Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, sizes: w6.LanguageSizes, key: jax.Array):
        embedding_key, position_key, *keys = jax.random.split(key, 2 + sizes.depth)
        scale = sizes.features**-0.5
        weight = scale * jax.random.normal(embedding_key, (sizes.count, sizes.features))
        self.embedding = eqx.nn.Embedding(weight=weight)
        self.positions = 0.02 * jax.random.normal(position_key, (sizes.time, sizes.features))
        self.blocks = [Block(sizes, block_key) for block_key in keys]
        self.norm = eqx.nn.LayerNorm(sizes.features)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = jax.vmap(self.embedding)(tokens) + self.positions
        mask = jnp.tri(len(tokens), dtype=bool)
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.norm)(x) @ self.embedding.weight.T


def sonnets(mnist: Mnist, seed: int) -> Peer:
    """Arrays are separated from the rest once, so plain `jit` with donation works."""
    return epochs_of_sonnets(*partitioned_network(w6.SIZES, seed), w6.SIZES, seed)


def partitioned_network(
    sizes: w6.LanguageSizes, seed: int
) -> tuple[Callable[[Network, jax.Array], jax.Array], Network]:
    """The function of a network for a batch of sequences, and its arrays."""
    arrays, static = eqx.partition(Network(sizes, jax.random.key(seed)), eqx.is_array)
    return lambda arrays, inputs: jax.vmap(eqx.combine(arrays, static))(inputs), arrays
