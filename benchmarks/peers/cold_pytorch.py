"""PyTorch from a process's start to its end: the script `benchmarks/scripts/mnist_pytorch.py`."""

import sys
from pathlib import Path

import torch

from benchmarks import w5
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, processes

LIBRARIES = (torch.__name__,)  # imported here so that its absence is noticed
SCRIPT = Path(__file__).parents[1] / "scripts" / "mnist_pytorch.py"


def tuned(mnist: Mnist, seed: int) -> Peer:
    """Resident tensors, fused Adam, a one-cycle schedule."""
    return script("tuned", mnist, seed)


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """The quickstart's loop, until the goal is reached."""
    return script("tutorial", mnist, seed)


def script(way: str, mnist: Mnist, seed: int) -> Peer:
    return processes([sys.executable, str(SCRIPT), way, "--data-dir", str(mnist.folder)], seed, w5.GOAL)
