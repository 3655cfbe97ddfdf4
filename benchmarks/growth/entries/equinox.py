"""Equinox: its layers, partitioned once, and a jitted step with donated state; `vmap` of it for many models."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.growth.work import LEARNING_RATE, Work
from benchmarks.peers.jax_loop import mean_cross_entropy

LIBRARIES = ("equinox", "jax", "jaxlib", "optax")


class Recurrent(eqx.Module):
    """An LSTM over a sequence (time, features), and a dense layer on its last state."""

    cell: eqx.nn.LSTMCell
    dense: eqx.nn.Linear

    def __init__(self, work: Work, key: jax.Array):
        first, second = jax.random.split(key)
        self.cell = eqx.nn.LSTMCell(work.features, work.width, key=first)
        self.dense = eqx.nn.Linear(work.width, work.classes, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros(self.cell.hidden_size)
        (hidden, _), _ = jax.lax.scan(lambda state, row: (self.cell(row, state), None), (zeros, zeros), x)
        return self.dense(hidden)


class Attending(eqx.Module):
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


def network(work: Work, key: jax.Array) -> eqx.Module:
    if work.network == "lstm":
        return Recurrent(work, key)
    if work.network == "attention":
        return Attending(work, key)
    keys, relu = jax.random.split(key, len(work.sizes) - 1), eqx.nn.Lambda(jax.nn.relu)
    linear = [eqx.nn.Linear(*pair, key=key) for key, pair in zip(keys, pairwise(work.sizes), strict=True)]
    return eqx.nn.Sequential([layer for each in linear for layer in (each, relu)][:-1])


def turn(work: Work) -> Callable[[], float]:
    """The data stay on the device. Each step gets the row numbers of its batch."""
    optimizer = optax.adam(LEARNING_RATE)
    static = eqx.partition(network(work, jax.random.key(0)), eqx.is_array)[1]
    x, labels = jax.device_put(work.data())

    def start(key):
        arrays = eqx.partition(network(work, key), eqx.is_array)[0]
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
