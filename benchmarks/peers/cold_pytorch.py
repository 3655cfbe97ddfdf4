"""W5 with PyTorch: processes of the script `benchmarks/scripts/mnist_pytorch.py`."""

import sys
from pathlib import Path

import torch

from benchmarks import w5
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, processes

LIBRARIES = (torch.__name__,)  # imported here, so that a missing PyTorch is noticed
SCRIPT = Path(__file__).parents[1] / "scripts" / "mnist_pytorch.py"


def tuned(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor, fused Adam, and a one-cycle schedule."""
    return script("tuned", mnist, seed)


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """The loop of the quickstart tutorial, until the goal is reached."""
    return script("tutorial", mnist, seed)


def script(way: str, mnist: Mnist, seed: int) -> Peer:
    return processes([sys.executable, str(SCRIPT), way, "--data-dir", str(mnist.folder)], seed, w5.GOAL)
