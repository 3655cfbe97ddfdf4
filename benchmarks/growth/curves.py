"""The curves: what grows, in which steps, what is measured, and which entries are measured beside each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.growth.work import Work

OURS = "functional_nn"
PLAIN = "jax"
NAMES = {
    "functional_nn": "functional_nn",
    "functional_nn_repeat": "functional_nn, `repeat`",
    "functional_nn_vmap": "functional_nn, `vmap`",
    "jax": "plain JAX",
    "equinox": "Equinox",
    "pytorch": "PyTorch",
}
"""How the tables and pictures name the entries. Those that begin with functional_nn have one file in entries/."""


@dataclass(frozen=True)
class Curve:
    """A curve of cost against one size.

    Args:
        group: the picture and the table it belongs to, one of `GROUPS`.
        title: what is measured against what.
        size: what grows, for the axis of the picture.
        unit: of the measured number, `s` or `bytes`.
        points: the sizes, from small to large.
        quick: a few small sizes, for a test.
        work: makes the work of an entry at a size.
        entries: the entries that take turns.
        kind: what a worker is asked for: `turn`, `compile_seconds`, `memory`, or `peak`, the memory of a process.
        divisor: what the measured number is divided by, such as the number of steps.
    """

    group: str
    title: str
    size: str
    unit: str
    points: tuple[int, ...]
    quick: tuple[int, ...]
    work: Callable[[int], Work]
    entries: tuple[str, ...]
    kind: str = "turn"
    divisor: Callable[[Work], int] = lambda work: work.steps

    def work_of(self, entry: str, size: int) -> Work:
        way = entry.removeprefix(OURS).removeprefix("_") if entry.startswith(OURS) else ""
        changes = {"repeat": {"way": "repeat"}, "vmap": {"plan": "vmap"}}.get(way, {})
        return replace(self.work(size), **changes)

    @property
    def own_process(self) -> bool:
        """Whether each point has a process of its own: peak memory never falls."""
        return self.kind == "peak"


GROUPS = {
    "growth-training": "Time of an epoch against examples, and of a step against width, depth and batch size",
    "growth-sequences": "Time against the length of a sequence and the number of models",
    "growth-compile": "Compile time against depth and against the number of models",
    "growth-memory": "Memory against batch size, depth and the number of models",
}
"""The pictures, each with a table below it, and their descriptions for readers who do not see them."""


def doubling(first: int, last: int, factor: int = 2) -> tuple[int, ...]:
    """The sizes from the first to the last, each a factor times the one before."""
    sizes = [first]
    while sizes[-1] * factor <= last:
        sizes.append(sizes[-1] * factor)
    return tuple(sizes)


def with_steps(work: Work) -> Work:
    """The work with enough steps for an epoch of about 0.1 s, by a rough estimate; at least 8, and at most 512."""
    operations, start_of_a_step = work.floating_point_operations(), 50e-6
    seconds = start_of_a_step * max(work.depth, work.time if work.network == "lstm" else 1) / 2 + operations / 5e10
    steps = int(min(max(0.1 / seconds, 8), 512))
    return replace(work, examples=steps * work.batch_size)


def once(work: Work) -> int:
    """Divides by nothing."""
    return 1


def long_epoch(examples: int) -> Work:
    """Few features, so that ten million examples fit in memory. A long epoch needs no other one before it."""
    epochs = 2 if examples < 1_000_000 else 1
    return Work(examples=examples, batch_size=500, features=8, width=32, classes=4, epochs=epochs)


def population(models: int) -> Work:
    """Many small models on few examples."""
    return Work(models=models, examples=1024, batch_size=32, features=16, width=32, depth=1, classes=4, epochs=4)


TRAINED = (OURS, "equinox", "pytorch")
LAYERS = (OURS, "functional_nn_repeat", PLAIN)

CURVES = {
    "examples": Curve(
        "growth-training",
        "an epoch against examples",
        "examples",
        "s",
        (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
        (1_000, 2_000),
        long_epoch,
        TRAINED,
        divisor=once,
    ),
    "width": Curve(
        "growth-training",
        "a step against width",
        "units in each of 2 hidden layers",
        "s",
        doubling(32, 2048),
        (8, 16),
        lambda width: with_steps(Work(width=width)),
        TRAINED,
    ),
    "depth": Curve(
        "growth-training",
        "a step against depth",
        "hidden layers of 128 units",
        "s",
        doubling(1, 32),
        (1, 2),
        lambda depth: with_steps(Work(depth=depth)),
        TRAINED,
    ),
    "batch": Curve(
        "growth-training",
        "a step against batch size",
        "examples in a batch",
        "s",
        doubling(8, 8192),
        (8, 16),
        lambda batch_size: with_steps(Work(batch_size=batch_size)),
        TRAINED,
    ),
    "lstm": Curve(
        "growth-sequences",
        "a step of an LSTM against the length",
        "steps in a sequence, LSTM of 64",
        "s",
        doubling(8, 512),
        (2, 4),
        lambda time: with_steps(Work(network="lstm", batch_size=32, features=32, width=64, time=time)),
        TRAINED,
    ),
    "attention": Curve(
        "growth-sequences",
        "a step of attention against the length",
        "steps in a sequence, 4 heads, 64 features",
        "s",
        doubling(8, 512),
        (2, 4),
        lambda time: with_steps(Work(network="attention", batch_size=8, features=64, time=time)),
        TRAINED,
    ),
    "models": Curve(
        "growth-sequences",
        "an epoch of one model against models",
        "models in a sweep",
        "s",
        doubling(1, 2048),
        (1, 2),
        population,
        (OURS, "functional_nn_vmap", "equinox", PLAIN),
        divisor=lambda work: work.models * work.epochs,
    ),
    "compile_depth": Curve(
        "growth-compile",
        "compile time against depth",
        "hidden layers of 64 units",
        "s",
        doubling(1, 32),
        (1, 2),
        lambda depth: Work(examples=128, width=64, depth=depth),
        LAYERS,
        kind="compile_seconds",
        divisor=once,
    ),
    "compile_models": Curve(
        "growth-compile",
        "compile time against models",
        "models in a sweep",
        "s",
        doubling(1, 1024, 4),
        (1, 2),
        lambda models: replace(population(models), examples=64, epochs=1),
        (OURS, PLAIN),
        kind="compile_seconds",
        divisor=once,
    ),
    "memory_batch": Curve(
        "growth-memory",
        "memory of a program against batch size",
        "examples in a batch",
        "bytes",
        doubling(8, 8192),
        (8, 16),
        lambda batch_size: Work(examples=8192, batch_size=batch_size),
        (OURS, PLAIN),
        kind="memory",
        divisor=once,
    ),
    "memory_depth": Curve(
        "growth-memory",
        "memory of a program against depth",
        "hidden layers of 128 units",
        "bytes",
        doubling(1, 32),
        (1, 2),
        lambda depth: Work(examples=1024, batch_size=1024, features=128, depth=depth),
        LAYERS,
        kind="memory",
        divisor=once,
    ),
    "memory_models": Curve(
        "growth-memory",
        "peak memory of a process against models",
        "models in a sweep",
        "bytes",
        doubling(1, 1024, 4),
        (1, 2),
        lambda models: Work(models=models, examples=256, batch_size=64, depth=1, epochs=1),
        (OURS, PLAIN),
        kind="peak",
        divisor=once,
    ),
}
