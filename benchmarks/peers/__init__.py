"""The peers, one file a library: its network, its own default initialization, its loop.

Each file names its `LIBRARIES` (whose versions go into the results) and has one function
`(mnist, seed) -> Peer` for every way of writing the loop; in W2 `(mnist, seed, models, hidden) -> Peer`.
"""

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.mnist import Mnist


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Peer(NamedTuple):
    """A library at work on a model of its own, or on several."""

    train_epoch: Callable[[], None]  # trains one epoch, and returns only when every output is there
    predict: (
        Callable[[np.ndarray], np.ndarray] | None
    )  # images -> logits, (images, classes) or (models, images, classes)
    threads: int = available_cores()
    models_a_round: int = 1  # that train_epoch trains
    accuracy: Callable[[], float] | None = None  # on the test images, where there is nothing to predict with


def test_accuracy(peer: Peer, mnist: Mnist) -> float:
    """The share of the test images that the peer's model gets right; of several models the mean."""
    if peer.accuracy is not None:
        return peer.accuracy()
    return float(np.mean(peer.predict(mnist.test_images).argmax(axis=-1) == mnist.test_labels))


def processes(command: list[str], seed: int, goal: float) -> Peer:
    """Each epoch is a whole process with the next seed, that prints "test accuracy" and a number not below the goal."""
    seeds, accuracies = itertools.count(seed), []

    def train_epoch() -> None:
        ended = subprocess.run([*command, "--seed", str(next(seeds))], stdout=subprocess.PIPE, text=True, check=True)
        accuracies.append(float(re.findall(r"test accuracy ([\d.]+)", ended.stdout)[-1]))
        if accuracies[-1] < goal:
            raise RuntimeError(f"expected a test accuracy of at least {goal}, got {accuracies[-1]}")

    return Peer(train_epoch, None, accuracy=lambda: float(np.mean(accuracies)))


def shuffled_batches(
    generator: np.random.Generator, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The data in a new order, batch by batch, the last one maybe smaller: the stream of JAX's own tutorials."""
    order = generator.permutation(len(images))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        yield images[batch], labels[batch]
