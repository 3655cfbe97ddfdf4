"""Decoder-only language models: a layer to train, and generation with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.activations.smooth import gelu
from functional_nn.core import trees
from functional_nn.core.errors import InputError, check, shown
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import (
    as_array,
    check_choice,
    check_count,
    check_elements,
    check_entries,
    check_flag,
    check_key,
    check_number,
    check_trees,
    is_concrete,
)
from functional_nn.layers.attention import attention, cached_attention
from functional_nn.layers.combinators.chain import Member, chain
from functional_nn.layers.combinators.wrappers import shared
from functional_nn.layers.embedding import (
    continued_positions,
    embedding,
    learned_positions,
    sinusoidal_positions,
    unembedding,
)
from functional_nn.layers.normalization import layer_norm
from functional_nn.models.blocks import block_around, dropped

Cache: TypeAlias = State
"""The keys and values of all steps so far, and their number, for each block: a nested dict of arrays."""


@dataclass(frozen=True)
class LanguageModel:
    """A decoder-only language model: a network to train, and pure functions that generate tokens.

    ``prefill`` and ``step`` keep the keys and values of all steps in a cache, so that a new token costs one step. They
    give the logits that ``layer`` gives for the whole sequence. Put them into ``jax.jit`` where they are called often;
    ``generate`` is compiled as a whole.

    Args:
        layer: the network without a cache, from tokens (batch, time) to logits (batch, time, count).
        decoder: ``decoder(length)`` makes the same network with a cache of that many steps in its state. It gives the
            logits after the last step only.
        count: the number of tokens.
        max_time: the length of the longest sequence.
    """

    layer: Layer
    decoder: Callable[[int], Layer]
    count: int
    max_time: int

    def prefill(self, params: Params, tokens: jax.Array, *, length: int | None = None) -> tuple[jax.Array, Cache]:
        """Reads a prompt in one pass: the logits of the next token (batch, count), and the cache.

        Args:
            params: the parameters of ``layer``.
            tokens: the prompt (batch, time), of one length for all examples.
            length: the number of steps that the cache has places for; by default max_time.
        """
        dtype, tokens = _check_params(params), _check_prompt("tokens", tokens, self.count)
        length = self.max_time if length is None else check_count("length", length, most=self.max_time)
        fits = tokens.shape[1] <= length
        check("tokens", tokens, f"at most {length} steps, which the cache has places for", fits)
        decoder = self.decoder(length)
        # Only the shapes of the empty cache are wanted, so no parameters are drawn.
        _, empty = jax.eval_shape(lambda key: decoder.init(key, (1,)), jax.random.key(0))

        def zeros(leaf):
            """Empty places of the type of the parameters, for all examples of the prompt; no steps so far."""
            if leaf.ndim == 0:
                return jnp.zeros((), leaf.dtype)
            return jnp.zeros((tokens.shape[0], *leaf.shape[1:]), dtype)

        logits, cache = decoder.apply(params, jax.tree.map(zeros, empty), tokens, train=False)
        return logits[:, -1], cache

    def step(self, params: Params, cache: Cache, tokens: jax.Array) -> tuple[jax.Array, Cache]:
        """Reads one more token of each example: the logits of the next token (batch, count), and the new cache.

        If the cache is full, this raises an error, or gives NaN under ``jit``, where it cannot raise one.

        Args:
            params: the parameters of ``layer``.
            cache: the cache that ``prefill`` or the last ``step`` gave.
            tokens: one token for each example (batch,).
        """
        check_trees(params, cache)
        tokens = as_array("tokens", tokens)
        check("tokens", tokens, "one token for each example, (batch,)", tokens.ndim == 1)
        _check_room(cache, tokens.shape[0])
        # The length given here is for ``init`` only. The number of places is that of the cache.
        logits, cache = self.decoder(self.max_time).apply(params, cache, tokens[:, None], train=False)
        return logits[:, -1], cache

    def generate(
        self,
        params: Params,
        prompt: jax.Array,
        key: jax.Array | None = None,
        *,
        new_tokens: int,
        temperature: float | jax.Array = 1.0,
        top_k: int | None = None,
    ) -> jax.Array:
        """Continues a prompt: reads it in one pass, then draws one token after another. It is one compiled program.

        Args:
            params: the parameters of ``layer``.
            prompt: tokens (batch, time), of one length for all examples.
            key: the key of the random numbers. It is not used at temperature 0. A traced temperature needs it.
            new_tokens: the number of tokens to draw. With the prompt they are at most max_time.
            temperature: what the logits are divided by. Below 1 likely tokens become more likely. At 0 the most likely
                token is taken.
            top_k: if given, only the top_k most likely tokens are drawn.

        Returns:
            The new tokens (batch, new_tokens).

        Raises:
            InputError: if the prompt and the new tokens do not fit into max_time.
        """
        _check_params(params)
        prompt = _check_prompt("prompt", prompt, self.count)
        new_tokens = check_count("new_tokens", new_tokens)
        left = self.max_time - prompt.shape[1]
        remedy = f"The model's max_time is {self.max_time}."
        check("prompt", prompt, f"at most {self.max_time - 1} tokens", left > 0, remedy)
        expected = f"at most {left} after a prompt of {prompt.shape[1]}"
        check("new_tokens", new_tokens, expected, new_tokens <= left, remedy)
        if top_k is not None:
            top_k = check_count("top_k", top_k, most=self.count)
        temperature = check_number("temperature", temperature, "a number not below 0", lambda number: number >= 0)
        greedy = is_concrete(temperature) and float(temperature) == 0
        key = jax.random.key(0) if greedy else check_key(key)
        return _generate(
            params, prompt, key, temperature, model=self, new_tokens=new_tokens, greedy=greedy, top_k=top_k
        )


def language_model(
    count: int,
    max_time: int,
    *,
    features: int = 128,
    depth: int = 4,
    heads: int = 4,
    key_value_heads: int | None = None,
    hidden_size: int | None = None,
    activation: Activation | VectorActivation | Callable[[jax.Array], jax.Array] = gelu,
    dropout: float | jax.Array = 0.0,
    window: int | None = None,
    score_cap: float | None = None,
    positions: str = "rotary",
    tied: bool = True,
) -> LanguageModel:
    """A decoder-only transformer over tokens: embedding, positions, causal blocks, layer norm, a logit for each token.

    Args:
        count: the number of tokens, which are numbered from 0.
        max_time: the length of the longest sequence, and of the longest cache.
        features: the size of the vectors between blocks.
        depth: the number of blocks; see ``transformer_block``, norms first.
        heads: the number of heads of each block's attention, a divisor of features.
        key_value_heads: the number of heads of keys and values, a divisor of heads; by default heads. Fewer make the
            cache smaller.
        hidden_size: the hidden outputs of each block's dense layers; by default 4 · features.
        activation: the activation between a block's dense layers.
        dropout: the share of outputs to drop in training: after the embedding, and in each block.
        window: the number of steps that a step sees; by default all.
        score_cap: the largest absolute value of an attention score.
        positions: ``"rotary"``, ``"learned"`` or ``"sinusoidal"``.
        tied: whether the output uses the vectors of the embedding.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> model = fnn.models.language_model(5, 8, features=8, depth=1, heads=2)
    >>> params, _ = model.layer.init(jax.random.key(0), (8,))
    >>> model.generate(params, jnp.array([[3, 1, 4]]), jax.random.key(1), new_tokens=5, temperature=0.8).shape
    (1, 5)

    References:
        Radford et al. 2019, "Language models are unsupervised multitask learners"; Press and Wolf 2017, "Using the
        output embedding to improve language models" (tied weights); Shazeer 2019, "Fast transformer decoding".
    """
    count, max_time, depth = check_count("count", count), check_count("max_time", max_time), check_count("depth", depth)
    tied = check_flag("tied", tied)
    rotary = check_choice("positions", positions, ("rotary", "learned", "sinusoidal")) == "rotary"
    added = {"learned": partial(learned_positions, max_time), "sinusoidal": sinusoidal_positions}
    position_layers = [] if rotary else [added[positions]()]

    def network(attend: Layer, positions: list[Layer], before_output: list[Member]) -> Layer:
        block = block_around(attend, hidden_size=hidden_size, activation=activation, dropout=dropout)
        inputs = embedding(count, features), *positions, *dropped(dropout)
        outputs = *before_output, layer_norm(), unembedding(count)
        net = chain(*inputs, *[block] * depth, *outputs, name="language_model")
        return shared(net, {"unembedding_0": "embedding_0"}) if tied else net

    options: dict[str, Any] = {
        "key_value_heads": key_value_heads,
        "window": window,
        "rotary": rotary,
        "score_cap": score_cap,
    }

    def decoder(length: int) -> Layer:
        attend = cached_attention(heads, length=length, **options)
        continued = [continued_positions(layer, max_time) for layer in position_layers]
        return network(attend, continued, [_last_step])

    attend = attention(heads, causal=True, **options)
    return LanguageModel(network(attend, position_layers, []), decoder, count, max_time)


def _last_step(x: jax.Array) -> jax.Array:
    """The last step of a sequence. Logits of earlier steps of a prompt are not needed."""
    return x[:, -1:]


@partial(jax.jit, static_argnames=("model", "new_tokens", "greedy", "top_k"))
def _generate(
    params: Params,
    prompt: jax.Array,
    key: jax.Array,
    temperature: float | jax.Array,
    *,
    model: LanguageModel,
    new_tokens: int,
    greedy: bool,
    top_k: int | None,
) -> jax.Array:
    """The new tokens (batch, new_tokens)."""

    def drawn(logits: jax.Array, key: jax.Array) -> jax.Array:
        logits = logits.astype(wide_type(logits.dtype))
        if greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        if top_k is not None:
            # Logits that are equal to the smallest of the top_k stay, so there may be more than top_k.
            least = lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        divisor = jnp.asarray(temperature, logits.dtype)
        is_greedy = divisor < jnp.finfo(logits.dtype).tiny
        best = jnp.argmax(logits, axis=-1)
        # The largest logit becomes 0, so that no quotient overflows to ∞. Adding a number changes no probability.
        logits = logits - jnp.max(logits, axis=-1, keepdims=True)
        random = jax.random.categorical(key, logits / jnp.where(is_greedy, 1, divisor))
        return jnp.where(is_greedy, best, random).astype(jnp.int32)

    def write(carry, key):
        cache, token = carry
        logits, cache = model.step(params, cache, token)
        token = drawn(logits, key)
        return (cache, token), token

    logits, cache = model.prefill(params, prompt, length=prompt.shape[1] + new_tokens)
    keys = jax.random.split(key, new_tokens)
    first = drawn(logits, keys[0])
    # The last token is not read, so there is one step fewer than new tokens.
    _, others = lax.scan(write, (cache, first), keys[1:])
    return jnp.concatenate([first[None], others]).T


def _check_params(params: Params) -> jnp.dtype:
    """Requires the parameters of a language model; gives their type."""
    check_trees(params, {})
    check_entries("params", params, ("embedding_0",))
    check_entries("params/embedding_0", params["embedding_0"], ("weight",))
    return params["embedding_0"]["weight"].dtype


def _check_prompt(argument: str, tokens: jax.Array, count: int) -> jax.Array:
    """Requires tokens (batch, time). If they are traced, only their type and shape are known."""
    tokens = as_array(argument, tokens)
    are_tokens = tokens.ndim == 2 and 0 not in tokens.shape and jnp.issubdtype(tokens.dtype, jnp.integer)
    check(argument, tokens, "at least one token for each example, integers (batch, time)", are_tokens)
    check_elements(argument, tokens, lambda host: (host >= 0) & (host < count), f"tokens from 0 to {count - 1}")
    return tokens


def _check_room(cache: Cache, examples: int) -> None:
    """Requires a cache for this number of examples, and a free place in it if its number of steps is known."""
    leaves = trees.flatten(cache)
    keys = next((path for path in leaves if path.endswith("/key")), None)
    if keys is None:
        raise InputError("cache", "the cache that prefill or step gave", shown(cache))
    position, (batch, places) = leaves[f"{keys.removesuffix('key')}position"], leaves[keys].shape[:2]
    check("tokens", examples, f"one token for each of the {batch} examples in the cache", batch == examples)
    has_place = not is_concrete(position) or int(position) < places
    expected = f"at most {places - 1} steps in it, so that the next one has a place"
    check("cache", position, expected, has_place, "Give prefill a larger length, up to the model's max_time.")
