"""`fit` beside a whole run as one program, and a step in four modes: what starting programs from Python costs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn
from benchmarks import w1
from benchmarks.accelerator.parts import Record, Settings
from functional_nn.bench.measure.execution_modes import CompiledWhenCalled, modes
from functional_nn.bench.measure.workloads import named_network

EPOCHS, EPOCHS_SMALL = 10, 3
ROUNDS, ROUNDS_SMALL = 5, 2


def measure(settings: Settings) -> Iterator[Record]:
    """Yields the seconds of W1's network by `fit` and by `make_run`, in turns.

    Both compute the same, and are compiled with the same options. `fit` checks its values once an epoch, so the steps
    of the other program do not check theirs.
    With full sizes, the seconds of a step in each mode follow.
    """
    epochs, rounds = (EPOCHS_SMALL, ROUNDS_SMALL) if settings.small else (EPOCHS, ROUNDS)
    data = fnn.load_dataset("mnist5k")
    _, *hidden, classes = w1.SIZES
    net, optimizer = fnn.models.mlp(classes, hidden=hidden), optax.adam(w1.LEARNING_RATE)

    def by_fit() -> object:
        chosen = {"epochs": epochs, "batch_size": w1.BATCH_SIZE, "progress": False}
        return fnn.fit(net, fnn.cross_entropy, optimizer, data, **chosen).params

    train_step = fnn.training.make_train_step(net, fnn.cross_entropy, optimizer, keep_finite=False)
    epoch = fnn.training.make_epoch(train_step, w1.BATCH_SIZE)
    evaluate = fnn.training.make_evaluate(net, fnn.cross_entropy)
    arrays = jax.device_put((data.train_images, data.train_labels, data.test_images, data.test_labels))
    start = fnn.training.create_train_state(net, optimizer, jax.random.key(settings.seed), data.train_images.shape[1:])
    # Two loops are around a step: that of an epoch and that of the run.
    by_one_program = CompiledWhenCalled(fnn.training.make_run(epoch, evaluate, epochs), (start, *arrays), loops=2)
    calls = {"fit": by_fit, "one program": by_one_program}
    first = {name: _seconds(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(_seconds(call))
    yield {
        "epochs": epochs,
        "steps": epochs * -(-len(data.train_images) // w1.BATCH_SIZE),
        "first_seconds": first,
        "seconds": seconds,
        "launch_seconds": _launch_seconds(),
    }
    if settings.left > 0 and not settings.small:
        several = modes(named_network("mlp", tuple(hidden)), w1.BATCH_SIZE)
        yield {"modes": [{"mode": mode.name, "step_seconds": mode.timing.median} for mode in several]}


def _seconds(call) -> float:
    clock = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - clock


def _launch_seconds() -> float:
    """The seconds of a call of a compiled program that computes next to nothing."""
    return fnn.benchmark(lambda x: x + 1, jnp.zeros(()), seconds=0.1).launch.median
