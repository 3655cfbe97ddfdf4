"""Plain JAX, no library: the epoch of an `mlp` in one `lax.scan`, and `vmap` of it for many models."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.growth.entries.programs import bytes_at_once, forget_programs
from benchmarks.growth.work import LEARNING_RATE, Work
from benchmarks.peers.jax_loop import mean_cross_entropy

LIBRARIES = ("jax", "jaxlib", "optax")
OPTIMIZER = optax.adam(LEARNING_RATE)


def functions(work: Work) -> tuple[Callable, Callable]:
    """`start(key)` and `epoch(state, key, x, labels)`, which are pure."""
    mesh = Mesh(jax.devices()[: work.devices], ("data",))

    def start(key):
        keys, glorot = jax.random.split(key, len(work.sizes) - 1), jax.nn.initializers.glorot_uniform()
        pairs = zip(keys, pairwise(work.sizes), strict=True)
        params = [(glorot(key, pair), jnp.zeros(pair[1])) for key, pair in pairs]
        return params, OPTIMIZER.init(params)

    def network(params, x):
        *hidden_layers, (weight, bias) = params
        for hidden_weight, hidden_bias in hidden_layers:
            x = jax.nn.relu(x @ hidden_weight + hidden_bias)
        return x @ weight + bias

    def epoch(state, key, x, labels):
        def step(state, rows):
            params, optimizer_state = state
            batch, batch_labels = x[rows], labels[rows]
            if work.devices > 1:
                divided = NamedSharding(mesh, PartitionSpec("data"))
                batch, batch_labels = jax.lax.with_sharding_constraint((batch, batch_labels), divided)
            gradient = jax.grad(lambda params: mean_cross_entropy(network(params, batch), batch_labels))(params)
            updates, optimizer_state = OPTIMIZER.update(gradient, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), None

        order = jax.random.permutation(key, work.examples)[: work.steps * work.batch_size]
        return jax.lax.scan(step, state, order.reshape(work.steps, work.batch_size))[0]

    return start, epoch


def _mapped(work: Work) -> tuple[Callable, Callable]:
    start, epoch = functions(work)
    return jax.vmap(start), jax.vmap(epoch, in_axes=(0, 0, None, None))


def turn(work: Work) -> Callable[[], float]:
    start, epoch = _mapped(work) if work.models else functions(work)
    start, epoch = jax.jit(start), jax.jit(epoch, donate_argnums=0)
    keys = jax.random.split(jax.random.key(0), work.models) if work.models else jax.random.key(0)
    mesh = Mesh(jax.devices()[: work.devices], ("data",))
    x, labels = jax.device_put(work.data(), NamedSharding(mesh, PartitionSpec()))

    def train() -> float:
        begin = time.perf_counter()
        state = jax.block_until_ready(start(keys))
        for _ in range(work.epochs):
            if not work.models:
                begin = time.perf_counter()
            state = jax.block_until_ready(epoch(state, keys, x, labels))
        return time.perf_counter() - begin

    return train


def compile_seconds(work: Work) -> float:
    """Two programs: one makes the initial values, and one is the epoch."""
    forget_programs()
    x, labels = work.data()
    keys = jax.random.split(jax.random.key(0), work.models) if work.models else jax.random.key(0)
    begin = time.perf_counter()
    start, epoch = _mapped(work) if work.models else functions(work)
    jax.jit(start).lower(keys).compile()
    state = jax.eval_shape(start, keys)
    jax.jit(epoch, donate_argnums=0).lower(state, keys, x, labels).compile()
    return time.perf_counter() - begin


def memory(work: Work) -> int:
    start, epoch = functions(work)
    key = jax.random.key(0)
    state = jax.eval_shape(start, key)
    return bytes_at_once(jax.jit(epoch, donate_argnums=0).lower(state, key, *work.data()).compile())
