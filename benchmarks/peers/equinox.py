"""Equinox with Optax: `filter_jit` as in its examples, partitioned models with plain `jit`, and ensembles by `vmap`."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import w3, w4, w5, w6, w7
from benchmarks.data import Mnist, read_letters, read_sonnets
from benchmarks.growth.work import LEARNING_RATE as GROWTH_RATE
from benchmarks.growth.work import Work
from benchmarks.peers import Peer, script
from benchmarks.peers.jax_loops import (
    donated_loop,
    epochs_of_text,
    keys_and_rates,
    mean_cross_entropy,
    population_loop,
    python_loop,
)
from benchmarks.w1 import LEARNING_RATE, SIZES
from benchmarks.w2 import members, sizes

LIBRARIES = ("equinox", "jax", "jaxlib", "optax")


def network(key: jax.Array, sizes: Sequence[int] = SIZES) -> eqx.nn.Sequential:
    keys, relu = jax.random.split(key, len(sizes) - 1), eqx.nn.Lambda(jax.nn.relu)
    linear = [eqx.nn.Linear(*pair, key=key) for key, pair in zip(keys, pairwise(sizes), strict=True)]
    return eqx.nn.Sequential([layer for each in linear for layer in (each, relu)][:-1])


def update(optimizer: optax.GradientTransformation, state, images, labels):
    """The step of Equinox's examples, before any `jit`."""
    model, optimizer_state = state
    gradient = eqx.filter_grad(lambda model: mean_cross_entropy(jax.vmap(model)(images), labels))
    updates, optimizer_state = optimizer.update(gradient(model), optimizer_state, model)
    return eqx.apply_updates(model, updates), optimizer_state


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """A step under `filter_jit`."""
    model, optimizer = network(jax.random.key(seed)), optax.adam(LEARNING_RATE)
    return python_loop(
        step=eqx.filter_jit(lambda state, images, labels: update(optimizer, state, images, labels)),
        state=(model, optimizer.init(eqx.filter(model, eqx.is_array))),
        logits=lambda state, images: jax.vmap(state[0])(images),
        mnist=mnist,
        seed=seed,
    )


def partitioned(mnist: Mnist, seed: int) -> Peer:
    """Arrays are separated from the rest once, so plain `jit` with donation works, with less Python work per step."""
    arrays, static = eqx.partition(network(jax.random.key(seed)), eqx.is_array)
    optimizer = optax.adam(LEARNING_RATE)

    def step(state, images, labels):
        arrays, optimizer_state = state
        model, optimizer_state = update(optimizer, (eqx.combine(arrays, static), optimizer_state), images, labels)
        return eqx.filter(model, eqx.is_array), optimizer_state

    return python_loop(
        step=jax.jit(step, donate_argnums=0),
        state=(arrays, optimizer.init(arrays)),
        logits=lambda state, images: jax.vmap(eqx.combine(state[0], static))(images),
        mnist=mnist,
        seed=seed,
    )


def member_step(state, learning_rate, images, labels):
    """The step of one model."""
    return update(optax.adam(learning_rate), state, images, labels)


def population_start(keys: jax.Array, learning_rates: jax.Array, hidden: Sequence[int]):
    """All models and the states of their optimizers, with a leading axis for the models."""

    @eqx.filter_vmap
    def make_ensemble(key, learning_rate):
        model = network(key, sizes(hidden))
        return model, optax.adam(learning_rate).init(eqx.filter(model, eqx.is_array))

    return make_ensemble(keys, learning_rates)


def each_logits(arrays, static, images) -> jax.Array:
    return jax.lax.map(lambda arrays: jax.vmap(eqx.combine(arrays, static))(images), arrays)


def population_tutorial(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """The step with `filter_vmap` and `filter_jit`."""
    population = members(seed, models)
    keys, rates = keys_and_rates(population)
    step = eqx.filter_jit(eqx.filter_vmap(member_step))
    return population_loop(
        step=lambda state, rows: step(state, rates, mnist.train_images[rows], mnist.train_labels[rows]),
        state=population_start(keys, rates, hidden),
        logits=lambda state, images: each_logits(*eqx.partition(state[0], eqx.is_array), images),
        population=population,
        images=len(mnist.train_images),
    )


def population_partitioned(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """Arrays are separated from the rest once. The jitted step donates them, and gathers its batches on the device."""
    population = members(seed, models)
    keys, rates = keys_and_rates(population)
    state, static = eqx.partition(population_start(keys, rates, hidden), eqx.is_array)
    train_images, train_labels = jax.device_put((mnist.train_images, mnist.train_labels))

    def step(state, learning_rate, rows, images, labels):
        stepped = member_step(eqx.combine(state, static), learning_rate, images[rows], labels[rows])
        return eqx.filter(stepped, eqx.is_array)

    step = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None, None)), donate_argnums=0)
    return population_loop(
        step=lambda state, rows: step(state, rates, rows, train_images, train_labels),
        state=state,
        logits=lambda state, images: each_logits(state[0], static[0], images),
        population=population,
        images=len(mnist.train_images),
    )


def whole_script(mnist: Mnist, seed: int) -> Peer:
    """W5: a step under `filter_jit` with donation, and the same schedule as the others."""
    return script(mnist, seed, w5.GOAL, "mnist_equinox.py")


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


class LanguageModel(eqx.Module):
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


class TinyGpt(eqx.Module):
    """The network of W7, for tokens (time,)."""

    embedding: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    norm: eqx.nn.RMSNorm
    attention: eqx.nn.MultiheadAttention
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    output: eqx.nn.Linear

    def __init__(self, sizes: w6.LanguageSizes, key: jax.Array):
        keys, features = jax.random.split(key, 6), sizes.features
        self.embedding = eqx.nn.Embedding(sizes.count, features, key=keys[0])
        self.positions = eqx.nn.Embedding(sizes.time, features, key=keys[1])
        self.norm = eqx.nn.RMSNorm(features, use_weight=False, use_bias=False)
        self.attention = eqx.nn.MultiheadAttention(sizes.heads, features, key=keys[2])
        self.first = eqx.nn.Linear(features, 4 * features, use_bias=False, key=keys[3])
        self.second = eqx.nn.Linear(4 * features, features, use_bias=False, key=keys[4])
        self.output = eqx.nn.Linear(features, sizes.count, use_bias=False, key=keys[5])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        norm = jax.vmap(self.norm)
        x = norm(jax.vmap(self.embedding)(tokens) + self.positions.weight)
        normed = norm(x)
        x = x + self.attention(normed, normed, normed, mask=jnp.tri(len(tokens), dtype=bool))
        x = x + jax.vmap(self.second)(jax.nn.relu(jax.vmap(self.first)(norm(x))))
        return jax.vmap(self.output)(x)


def sonnets(mnist: Mnist, seed: int) -> Peer:
    """Arrays are separated from the rest once, so plain `jit` with donation works."""
    network = LanguageModel(w6.SIZES, jax.random.key(seed))
    return epochs_of_text(*partitioned_network(network), w6.SIZES, read_sonnets(), seed)


def letters(mnist: Mnist, seed: int) -> Peer:
    """The same for W7."""
    network = TinyGpt(w7.SIZES, jax.random.key(seed))
    return epochs_of_text(*partitioned_network(network), w7.SIZES, read_letters(), seed)


def partitioned_network(network: eqx.Module) -> tuple[Callable[[eqx.Module, jax.Array], jax.Array], eqx.Module]:
    """The function of a network for a batch of examples, and its arrays."""
    arrays, static = eqx.partition(network, eqx.is_array)
    return lambda arrays, inputs: jax.vmap(eqx.combine(arrays, static))(inputs), arrays


def cnn(mnist: Mnist, seed: int) -> Peer:
    """`eqx.nn.Conv2d` and `eqx.nn.MaxPool2d`, which have the channels first."""
    (height, width, inputs), (first, second) = w3.IMAGE_SHAPE, w3.CHANNELS
    keys = jax.random.split(jax.random.key(seed), 3)
    relu, pool = eqx.nn.Lambda(jax.nn.relu), eqx.nn.MaxPool2d(2, 2)
    network = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(inputs, first, 3, padding=1, key=keys[0]),
            relu,
            pool,
            eqx.nn.Conv2d(first, second, 3, padding=1, key=keys[1]),
            relu,
            pool,
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(second * (height // 4) * (width // 4), w3.CLASSES, key=keys[2]),
        ]
    )
    return donated_loop(*partitioned_network(network), w3, (inputs, height, width), mnist, seed)


class Lstm(eqx.Module):
    """An LSTM over a sequence (time, features), and a dense layer on its last state."""

    cell: eqx.nn.LSTMCell
    dense: eqx.nn.Linear

    def __init__(self, features: int, hidden_size: int, classes: int, key: jax.Array):
        first, second = jax.random.split(key)
        self.cell = eqx.nn.LSTMCell(features, hidden_size, key=first)
        self.dense = eqx.nn.Linear(hidden_size, classes, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros(self.cell.hidden_size)
        (hidden, _), _ = jax.lax.scan(lambda state, row: (self.cell(row, state), None), (zeros, zeros), x)
        return self.dense(hidden)


def lstm(mnist: Mnist, seed: int) -> Peer:
    """`eqx.nn.LSTMCell` in a `lax.scan` over time."""
    network = Lstm(w4.COLUMNS, w4.HIDDEN_SIZE, w4.CLASSES, jax.random.key(seed))
    return donated_loop(*partitioned_network(network), w4, (w4.ROWS, w4.COLUMNS), mnist, seed)


class GrowthAttention(eqx.Module):
    """Attention with a residual connection, and a dense layer on every step of a sequence (time, features)."""

    attention: eqx.nn.MultiheadAttention
    dense: eqx.nn.Linear

    def __init__(self, work: Work, key: jax.Array):
        first, second = jax.random.split(key)
        biases = {"use_query_bias": True, "use_value_bias": True, "use_output_bias": True}
        self.attention = eqx.nn.MultiheadAttention(work.heads, work.features, **biases, key=first)
        self.dense = eqx.nn.Linear(work.features, work.classes, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.vmap(self.dense)(x + self.attention(x, x, x))


def growth_network(work: Work, key: jax.Array) -> eqx.Module:
    if work.network == "lstm":
        return Lstm(work.features, work.width, work.classes, key)
    if work.network == "attention":
        return GrowthAttention(work, key)
    return network(key, work.sizes)


def growth_turn(work: Work) -> Callable[[], float]:
    """The data stay on the device. Each step gets the row numbers of its batch."""
    optimizer = optax.adam(GROWTH_RATE)
    static = eqx.partition(growth_network(work, jax.random.key(0)), eqx.is_array)[1]
    x, labels = jax.device_put(work.data())

    def start(key):
        arrays = eqx.partition(growth_network(work, key), eqx.is_array)[0]
        return arrays, optimizer.init(arrays)

    def step(state, rows, x, labels):
        arrays, optimizer_state = state

        def loss(arrays):
            return mean_cross_entropy(jax.vmap(eqx.combine(arrays, static))(x[rows]), labels[rows])

        updates, optimizer_state = optimizer.update(jax.grad(loss)(arrays), optimizer_state)
        return eqx.apply_updates(arrays, updates), optimizer_state

    if work.models:
        start, step = jax.vmap(start), jax.vmap(step, in_axes=(0, 0, None, None))
    start, step = jax.jit(start), jax.jit(step, donate_argnums=0)
    keys = jax.random.split(jax.random.key(0), work.models) if work.models else jax.random.key(0)
    generator = np.random.default_rng(0)

    def order() -> np.ndarray:
        """The row numbers of an epoch, (steps, batch), or with an order for each model, (steps, models, batch)."""
        if not work.models:
            return generator.permutation(work.examples).astype(np.int32).reshape(work.steps, work.batch_size)
        rows = np.tile(np.arange(work.examples, dtype=np.int32), (work.models, 1))
        rows = generator.permuted(rows, axis=1).reshape(work.models, work.steps, work.batch_size)
        return rows.swapaxes(0, 1)

    def train() -> float:
        begin = time.perf_counter()
        state = jax.block_until_ready(start(keys))
        for _ in range(work.epochs):
            if not work.models:
                begin = time.perf_counter()
            for rows in order():
                state = step(state, rows, x, labels)
            jax.block_until_ready(state)
        return time.perf_counter() - begin

    return train
