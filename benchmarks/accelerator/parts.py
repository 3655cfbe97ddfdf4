"""The parts of the page, in their order: what measures each, and how much of the time it gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

Record: TypeAlias = dict[str, object]
"""A measurement, ready for JSON."""


@dataclass(frozen=True)
class Settings:
    """What a part is given.

    Args:
        data_dir: the folder of MNIST's four files.
        small: whether sizes are those of a trial on a CPU.
        platform: the platform of JAX's first device: `cpu`, `gpu` or `tpu`.
        seconds: the time for this part. It should stop by itself when they are over.
        seed: the seed of the peers.
        began: when the part began, by `time.monotonic`.
    """

    data_dir: Path
    small: bool
    platform: str
    seconds: float
    seed: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.began + self.seconds - time.monotonic()


Measure: TypeAlias = Callable[[Settings], Iterator[Record]]

SHARED_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""By default, the first JAX process takes three quarters of a GPU's memory, so that a second one finds none."""
FULL_PRECISION = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}


class Part(NamedTuple):
    """A part of the page.

    Args:
        measure: module and function that yields the records of the part.
        weight: its share of the time, in seconds of a run of eight minutes.
        environment: variables that its process gets in addition.
    """

    measure: str
    weight: float
    environment: Mapping[str, str] = {}


PARTS = {
    "machine": Part("benchmarks.accelerator.machine:measure", 30),
    "w1": Part("benchmarks.accelerator.races:w1_race", 50, SHARED_MEMORY),
    "w2": Part("benchmarks.accelerator.races:w2_race", 50, SHARED_MEMORY),
    "w3": Part("benchmarks.accelerator.races:w3_race", 45, SHARED_MEMORY),
    "w4": Part("benchmarks.accelerator.races:w4_race", 50, SHARED_MEMORY),
    "population": Part("benchmarks.accelerator.population:measure", 75),
    "precision": Part("benchmarks.accelerator.precision:measure", 70),
    "models": Part("benchmarks.accelerator.models:measure", 40),
    "whole_run": Part("benchmarks.accelerator.whole_run:measure", 25),
    # Last, because it does as much as the time allows.
    "verify": Part("benchmarks.accelerator.verification:measure", 75, SHARED_MEMORY | FULL_PRECISION),
}

LEAST = 0.25
"""A part begins only if at least this share of its weight is left, in a run of eight minutes."""
LEAST_SMALL = 0.05
"""The same for small sizes."""
KILLED_AFTER, LEAST_LIMIT = 2.0, 20.0
"""A part that does not stop by itself is ended after its time, multiplied by this, and after at least these seconds. It
is always ended when the time of all parts is over."""


def seconds_for(name: str, later: Sequence[str], left: float, small: bool) -> float | None:
    """The seconds for a part if `left` seconds are left for it and for later parts; None if it has to be left out.

    Each part gets its share by weight. Time that earlier parts did not use goes to the later ones.

    >>> seconds_for("machine", ["w1"], 80, small=False)
    30.0
    >>> seconds_for("w1", ["w2"], 10, small=False) is None
    True
    """
    weights = PARTS[name].weight + sum(PARTS[other].weight for other in later)
    least = (LEAST_SMALL if small else LEAST) * PARTS[name].weight
    if left < least:
        return None
    return max(left * PARTS[name].weight / weights, least)


def limit_for(seconds: float, left: float) -> float:
    """The seconds after which a part is ended, if it has `seconds` and all parts have `left`."""
    return min(max(KILLED_AFTER * seconds, LEAST_LIMIT), left)


def is_gpu(platform: str) -> bool:
    """Whether JAX's name of a platform is that of a GPU."""
    return platform in ("gpu", "cuda", "rocm")
