"""The language model with Flax NNX: its layers, split once, and a jitted step with donated state."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from benchmarks import language
from benchmarks.peers.donated_steps import rounds_of_steps

LIBRARIES = ("flax", "jax", "jaxlib", "optax")


class Block(nnx.Module):
    """A transformer block, norms first."""

    def __init__(self, rngs: nnx.Rngs):
        features = language.FEATURES
        self.attention_norm, self.dense_norm = nnx.LayerNorm(features, rngs=rngs), nnx.LayerNorm(features, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(language.HEADS, features, decode=False, rngs=rngs)
        self.first = nnx.Linear(features, 4 * features, rngs=rngs)
        self.second = nnx.Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.second(nnx.gelu(self.first(self.dense_norm(x)), approximate=False))


class Network(nnx.Module):
    """Tokens to logits, with the vectors of the embedding for both."""

    def __init__(self, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(language.COUNT, language.FEATURES, rngs=rngs)
        shape = language.TIME, language.FEATURES
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.blocks = nnx.List([Block(rngs) for _ in range(language.DEPTH)])
        self.norm = nnx.LayerNorm(language.FEATURES, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x, mask = self.embedding(tokens) + self.positions[...], nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.embedding.attend(self.norm(x))


def functional(tokens: np.ndarray, seed: int) -> Callable[[], float]:
    """Split once, then plain `jit` with donation."""
    graph, params = nnx.split(Network(nnx.Rngs(seed)))
    return rounds_of_steps(lambda params, inputs: nnx.merge(graph, params)(inputs), params, tokens)
