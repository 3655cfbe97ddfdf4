"""W5 with functional_nn: processes of the command `functional-nn train`."""

import sys

from benchmarks import w5
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, processes

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def command(mnist: Mnist, *flags: str) -> list[str]:
    recipe = ["--schedule", "one-cycle", "--learning-rate", str(w5.LEARNING_RATE)]
    recipe += ["--batch-size", str(w5.BATCH_SIZE), "--epochs", str(w5.EPOCHS)]
    data = ["--dataset", "mnist", "--data-dir", str(mnist.folder)]
    return [sys.executable, "-m", "functional_nn", "train", *data, *recipe, "--quiet", *flags]


def later_start(mnist: Mnist, seed: int) -> Peer:
    """The command with its cache: it finds the programs that an earlier start compiled."""
    return processes(command(mnist), seed, w5.GOAL)


def first_start(mnist: Mnist, seed: int) -> Peer:
    """The command without its cache: it compiles everything."""
    return processes(command(mnist, "--no-compilation-cache"), seed, w5.GOAL)
