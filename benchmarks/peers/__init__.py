"""The peers: networks and training loops written with each library, one library per file.

Each file lists its `LIBRARIES`, whose versions are recorded with the results. It has one function `(mnist, seed) ->
Peer` for each way of writing the loop; in W2 `(mnist, seed, models, hidden) -> Peer`. Each library uses its own default
initialization.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.data import Mnist


class CannotRun(Exception):
    """Raised by a peer that this machine cannot run. The message says why."""


def available_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Peer(NamedTuple):
    """A model of one library, or several models, that can be trained.

    Args:
        train_epoch: trains one epoch, and returns when all outputs are computed.
        predict: images -> logits, (images, classes) or (models, images, classes); None if there is `accuracy`.
        threads: the number of threads.
        models_a_round: the number of models that `train_epoch` trains.
        accuracy: the accuracy on the test images, if there is no `predict`.
        device: the name of the device; None for JAX's first device, or for the CPU if the library has no JAX.
    """

    train_epoch: Callable[[], None]
    predict: Callable[[np.ndarray], np.ndarray] | None
    threads: int = available_cores()
    models_a_round: int = 1
    accuracy: Callable[[], float] | None = None
    device: str | None = None


def test_accuracy(peer: Peer, mnist: Mnist) -> float:
    """The accuracy of a peer's model on the test images; the mean if it has several models."""
    if peer.accuracy is not None:
        return peer.accuracy()
    return float(np.mean(peer.predict(mnist.test_images).argmax(axis=-1) == mnist.test_labels))


def processes(command: list[str], seed: int, goal: float) -> Peer:
    """A peer whose epochs are whole processes, each with the next seed.

    Each process prints "test accuracy" and a number, which must not be below the goal.
    """
    seeds = itertools.count(seed)
    accuracies: list[float] = []

    def train_epoch() -> None:
        ended = subprocess.run([*command, "--seed", str(next(seeds))], stdout=subprocess.PIPE, text=True, check=True)
        accuracies.append(float(re.findall(r"test accuracy ([\d.]+)", ended.stdout)[-1]))
        if accuracies[-1] < goal:
            raise RuntimeError(f"expected a test accuracy of at least {goal}, got {accuracies[-1]}")

    return Peer(train_epoch, None, accuracy=lambda: float(np.mean(accuracies)))


def script(mnist: Mnist, seed: int, goal: float, file: str, *arguments: str) -> Peer:
    """A peer whose epochs are runs of a file in `scripts/`."""
    path = Path(__file__).parents[1] / "scripts" / file
    return processes([sys.executable, str(path), *arguments, "--data-dir", str(mnist.folder)], seed, goal)


def shuffled_batches(
    generator: np.random.Generator, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the data in random order, batch by batch, as JAX's tutorials do. The last batch may be smaller."""
    order = generator.permutation(len(images))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        yield images[batch], labels[batch]
