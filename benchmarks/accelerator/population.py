"""W2 with 1 to 4,096 networks in one program: where the chip is full, and where its memory ends."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import jax

from benchmarks.accelerator.parts import Record, Settings
from benchmarks.mnist import Mnist, read_mnist
from benchmarks.peers import Peer
from benchmarks.peers.population_functional_nn import mapped
from functional_nn.bench.measure.memory import out_of_memory

HIDDEN, HIDDEN_SMALL = ((32,), (128, 64)), ((32,),)
MODELS, MODELS_SMALL = (1, 4, 16, 64, 256, 1024, 4096), (1, 4)
EPOCHS = 3
"""The number of timed epochs, after one that is not timed."""
MakePopulation = Callable[[Mnist, int, int, Sequence[int]], Peer]


def measure(settings: Settings, make: MakePopulation = mapped) -> Iterator[Record]:
    """Yields the seconds of each number of models. The sizes take turns, so that both are known if time is short.

    A size ends at the first number that does not fit in memory, or that the time left would not allow.
    """
    mnist = read_mnist(settings.data_dir)
    open_sizes = list(HIDDEN_SMALL if settings.small else HIDDEN)
    last: dict[tuple[int, ...], Record] = {}  # the last measurement, by hidden sizes
    for models in MODELS_SMALL if settings.small else MODELS:
        for hidden in list(open_sizes):
            about = {"hidden": hidden, "models": models, "examples": len(mnist.train_images)}
            needed = expected_seconds(last.get(hidden), models)
            if settings.left < needed:
                open_sizes.remove(hidden)
                yield about | {"problem": f"left out: it could take {needed:.0f} s, and {settings.left:.0f} s are left"}
                continue
            record = about | timed(make, mnist, settings.seed, models, hidden)
            last[hidden] = record
            if "problem" in record:
                open_sizes.remove(hidden)
            yield record


def expected_seconds(last: Record | None, models: int) -> float:
    """The seconds for a number of models after the last measurement: at worst, epochs grow as the number does.

    >>> expected_seconds({"models": 4, "first_epoch_seconds": 3.0, "seconds": [1.0, 1.0]}, 16)
    18.0
    """
    if last is None:
        return 0.0
    epoch = median(last["seconds"])
    compiling = max(last["first_epoch_seconds"] - epoch, 0)
    return compiling + (EPOCHS + 1) * epoch * models / last["models"]


def timed(make: MakePopulation, mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Record:
    """The seconds of the first epoch, with compiling, and of later ones; or the problem if memory is too small."""
    started = time.perf_counter()
    try:
        peer = make(mnist, seed, models, hidden)
        peer.train_epoch()
        first = time.perf_counter() - started
        seconds = []
        for _ in range(EPOCHS):
            clock = time.perf_counter()
            peer.train_epoch()
            seconds.append(time.perf_counter() - clock)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        problem = out_of_memory(error)
        if problem is None:
            raise
        return {"problem": problem}
    finally:
        # The train states of this number of models are freed before those of the next, larger one are made.
        peer = None
        gc.collect()
    statistics = jax.local_devices()[0].memory_stats() or {}
    return {
        "first_epoch_seconds": first,
        "seconds": seconds,
        "seconds_a_model": median(seconds) / models,
        "device_peak_bytes": statistics.get("peak_bytes_in_use"),
    }
