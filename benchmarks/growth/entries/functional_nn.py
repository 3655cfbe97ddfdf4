"""functional_nn: `fit`, `sweep`, and the epoch as a pure function where only its memory is asked for."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn
from benchmarks.growth.entries.programs import bytes_at_once, forget_programs
from benchmarks.growth.work import LEARNING_RATE, Work

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def network(work: Work) -> fnn.Layer:
    if work.network == "lstm":
        return fnn.chain(fnn.with_hand_vjp(fnn.lstm(work.width)), fnn.dense(work.classes))
    if work.network == "attention":
        return fnn.chain(fnn.residual(fnn.attention(work.heads)), fnn.dense(work.classes))
    if work.way == "repeat":
        block = fnn.chain(fnn.dense(work.width), fnn.relu)
        return fnn.chain(fnn.repeat(block, work.depth), fnn.dense(work.classes))
    return fnn.models.mlp(work.classes, hidden=[work.width] * work.depth)


def turn(work: Work) -> Callable[[], float]:
    if work.models:
        return _sweep_turn(work)
    net, optimizer, data = network(work), optax.adam(LEARNING_RATE), fnn.data.Split(*work.data())

    def train() -> float:
        run = fnn.fit(
            net,
            fnn.cross_entropy,
            optimizer,
            data,
            epochs=work.epochs,
            batch_size=work.batch_size,
            devices=work.devices,
            progress=False,
        )
        return run.history[-1].seconds

    return train


def _sweep_turn(work: Work) -> Callable[[], float]:
    sweep = _sweep(work)
    return lambda: sweep().seconds["train"]


def _sweep(work: Work) -> Callable[[], fnn.sweeps.SweepResult]:
    net, data = network(work), fnn.data.Split(*work.data())
    members = fnn.grid(learning_rate=[LEARNING_RATE], seed=range(work.models))

    def make_optimizer(h):
        return optax.adam(h["learning_rate"])

    def train() -> fnn.sweeps.SweepResult:
        return fnn.sweep(
            net,
            make_optimizer,
            members,
            data,
            epochs=work.epochs,
            batch_size=work.batch_size,
            plan=work.plan,
            progress=False,
        )

    return train


def compile_seconds(work: Work) -> float:
    """A new network has programs of its own, so nothing is taken from an earlier call."""
    forget_programs()
    if work.models:
        return _sweep(work)().seconds["compile"]
    data = fnn.data.Split(*work.data())
    optimizer = optax.adam(LEARNING_RATE)
    run = fnn.fit(
        network(work),
        fnn.cross_entropy,
        optimizer,
        data,
        epochs=1,
        batch_size=work.batch_size,
        progress=False,
    )
    return run.seconds["compile"]


def memory(work: Work) -> int:
    net, optimizer = network(work), optax.adam(LEARNING_RATE)
    step = fnn.training.make_train_step(net, fnn.cross_entropy, optimizer, keep_finite=False)
    epoch = fnn.training.make_epoch(step, work.batch_size)
    start = jax.eval_shape(
        lambda key: fnn.training.create_train_state(net, optimizer, key, work.example_shape), jax.random.key(0)
    )
    x, labels = work.data()
    compiled = jax.jit(epoch, donate_argnums=0).lower(start, x, labels, jnp.int32(0)).compile()
    return bytes_at_once(compiled)
