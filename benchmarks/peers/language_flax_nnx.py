"""The language model with Flax NNX: its layers, split once, and a jitted step with donated state."""

from collections.abc import Callable

import jax
from flax import nnx

from benchmarks import w6
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_steps import epochs_of_sonnets

LIBRARIES = ("flax", "jax", "jaxlib", "optax")


class Block(nnx.Module):
    """A transformer block, norms first."""

    def __init__(self, sizes: w6.LanguageSizes, rngs: nnx.Rngs):
        features = sizes.features
        self.attention_norm, self.dense_norm = nnx.LayerNorm(features, rngs=rngs), nnx.LayerNorm(features, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(sizes.heads, features, decode=False, rngs=rngs)
        self.first = nnx.Linear(features, 4 * features, rngs=rngs)
        self.second = nnx.Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.second(nnx.gelu(self.first(self.dense_norm(x)), approximate=False))


class Network(nnx.Module):
    """Tokens to logits, with the vectors of the embedding for both."""

    def __init__(self, sizes: w6.LanguageSizes, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(sizes.count, sizes.features, rngs=rngs)
        shape = sizes.time, sizes.features
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.blocks = nnx.List([Block(sizes, rngs) for _ in range(sizes.depth)])
        self.norm = nnx.LayerNorm(sizes.features, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x, mask = self.embedding(tokens) + self.positions[...], nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.embedding.attend(self.norm(x))


def sonnets(mnist: Mnist, seed: int) -> Peer:
    """Split once, then plain `jit` with donation."""
    return epochs_of_sonnets(*split_network(w6.SIZES, seed), w6.SIZES, seed)


def split_network(sizes: w6.LanguageSizes, seed: int) -> tuple[Callable[[nnx.State, jax.Array], jax.Array], nnx.State]:
    """The function of a network, and its arrays."""
    graph, params = nnx.split(Network(sizes, nnx.Rngs(seed)))
    return lambda params, inputs: nnx.merge(graph, params)(inputs), params
