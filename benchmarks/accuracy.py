"""Test accuracy of W1's recipe after ten epochs, over several seeds, for functional_nn and PyTorch.

A side is a function `(mnist, seed) -> test accuracy`, which imports its library itself. To add a side, write its
function and add it to `SIDES`.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from rich.console import Console

from benchmarks import records, w1
from benchmarks.mnist import Mnist, read_mnist
from benchmarks.peers import test_accuracy

EPOCHS = 10


class Side(NamedTuple):
    """A library whose accuracy is measured."""

    test_accuracy: Callable[[Mnist, int], float]
    libraries: tuple[str, ...]  # their versions are recorded with the results


def pytorch(mnist: Mnist, seed: int) -> float:
    """PyTorch's loop and initialization, with all images in one tensor."""
    from benchmarks.peers.pytorch import tuned_1_thread

    peer = tuned_1_thread(mnist, seed)
    for _ in range(EPOCHS):
        peer.train_epoch()
    return test_accuracy(peer, mnist)


def functional_nn(mnist: Mnist, seed: int) -> float:
    """functional_nn's `fit` with PyTorch's initialization."""
    import optax

    import functional_nn as fnn

    _, *hidden, classes = w1.SIZES
    net = fnn.models.mlp(classes, hidden=hidden, initializer="pytorch")
    data = fnn.load_dataset("mnist", mnist.folder)
    options = {"epochs": EPOCHS, "batch_size": w1.BATCH_SIZE, "seed": seed}
    run = fnn.fit(net, fnn.cross_entropy, optax.adam(w1.LEARNING_RATE), data, **options)
    return run.history[-1].test_accuracy


SIDES = {
    "pytorch": Side(pytorch, ("torch",)),
    "functional_nn": Side(functional_nn, ("functional-nn", "jax", "jaxlib", "optax")),
}


def compare(console: Console, sides: list[str], data_dir: Path, seeds: int, results: Path) -> None:
    """Trains each side once for every seed, and prints and records the accuracies."""
    mnist = read_mnist(data_dir)
    console.print(f"{w1.RECIPE}: test accuracy after {EPOCHS} epochs, seeds 0 to {seeds - 1}")
    for name in sides:
        side = SIDES[name]
        circumstances = records.circumstances()
        accuracies: list[float] = []
        for seed in range(seeds):
            accuracies.append(side.test_accuracy(mnist, seed))
            console.print(f"  {name}, seed {seed}: {accuracies[-1]:.4f}")
        deviation = stdev(accuracies) if seeds > 1 else float("nan")
        console.print(f"{name}: mean {mean(accuracies):.5f}, standard deviation {deviation:.5f}")
        record = {
            "side": name,
            "versions": records.versions(side.libraries),
            "epochs": EPOCHS,
            "batch_size": w1.BATCH_SIZE,
            "precision": w1.PRECISION,
            "accuracies": accuracies,
        }
        records.append(results, [circumstances | record])
