"""The seconds from nothing to compiled: the programs of `fit`, and two plain programs by `jax.jit`."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks.compilation.networks import NETWORKS, Networks
from benchmarks.peers.jax_loop import mean_cross_entropy

EVALUATED_AT_ONCE = 1_000


class Sizes(NamedTuple):
    """The numbers of images. The defaults are those of MNIST."""

    train: int = 60_000
    test: int = 10_000


def with_fit(name: str, sizes: Sizes) -> float:
    """What `fit` says it took to compile. It then trains an epoch, because it is called as a user calls it.

    Its programs also draw the initial values and the order of an epoch, and train on the last partial batch.
    """
    chosen = NETWORKS[name]
    generator = np.random.default_rng(0)
    arrays = []
    for count in sizes:
        arrays += generator.integers(0, 256, (count, 28, 28, 1), np.uint8), generator.integers(0, 10, count, np.int32)
    optimizer = optax.adam(chosen.workload.LEARNING_RATE)
    jax.clear_caches()
    run = fnn.fit(
        chosen.ours(),
        fnn.cross_entropy,
        optimizer,
        fnn.data.Split(*arrays),
        epochs=1,
        batch_size=chosen.workload.BATCH_SIZE,
        progress=False,
    )
    if not run.seconds["compile"]:
        raise RuntimeError("expected fit to compile, got programs of an earlier call; start a new process")
    return run.seconds["compile"]


def plain(name: str, sizes: Sizes) -> float:
    """Tracing, lowering and compiling an epoch of full batches and an evaluation, each by one `jax.jit`."""
    chosen = NETWORKS[name]
    optimizer = optax.adam(chosen.workload.LEARNING_RATE)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(chosen.start, key)
    state = params, jax.eval_shape(optimizer.init, params)
    train, test = (
        (jax.ShapeDtypeStruct((count, 28, 28, 1), jnp.uint8), jax.ShapeDtypeStruct((count,), jnp.int32))
        for count in sizes
    )
    jax.clear_caches()
    clock = time.perf_counter()
    epoch, evaluate = programs(chosen, optimizer)
    jax.jit(epoch, donate_argnums=0).lower(state, key, *train).compile()
    jax.jit(evaluate).lower(params, *test).compile()
    return time.perf_counter() - clock


def programs(chosen: Networks, optimizer: optax.GradientTransformation):
    """A shuffled epoch of full batches, with its mean loss, and an evaluation, with loss and accuracy."""
    batch_size = chosen.workload.BATCH_SIZE

    def logits(params, images):
        return chosen.plain(params, images.astype(jnp.float32) / 255)

    def epoch(state, key, images, labels):
        def step(state, rows):
            params, optimizer_state = state
            loss, gradient = jax.value_and_grad(
                lambda params: mean_cross_entropy(logits(params, images[rows]), labels[rows])
            )(params)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), loss

        batches = len(images) // batch_size
        order = jax.random.permutation(key, len(images))[: batches * batch_size]
        state, losses = jax.lax.scan(step, state, order.reshape(batches, batch_size))
        return state, losses.mean()

    def evaluate(params, images, labels):
        def evaluate_some(_, rows):
            outputs = logits(params, images[rows])
            right = outputs.argmax(axis=-1) == labels[rows]
            return None, (mean_cross_entropy(outputs, labels[rows]), right.mean())

        at_once = min(EVALUATED_AT_ONCE, len(images))
        rows = jnp.arange(len(images) // at_once * at_once).reshape(-1, at_once)
        _, (losses, accuracies) = jax.lax.scan(evaluate_some, None, rows)
        return losses.mean(), accuracies.mean()

    return epoch, evaluate


SIDES = {"fit": with_fit, "plain": plain}
