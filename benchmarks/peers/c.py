"""W7 in C: `scripts/tiny_gpt.c`, compiled when the peer starts, and called from Python once for each epoch."""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import w7
from benchmarks.data import Mnist, read_letters, share_of_right_characters
from benchmarks.peers import CannotRun, Peer

LIBRARIES = ("numpy",)
SOURCE = Path(__file__).parents[1] / "scripts" / "tiny_gpt.c"
FLAGS = ("-O3", "-march=native", "-ffast-math")
START_SCALE = 0.08
"""The standard deviation of all parameters at the start, as in microgpt."""


class TinyGpt:
    """The parameters, as one array in the order of the C program, the state of Adam, and the functions in C."""

    def __init__(self, params: np.ndarray):
        self.program, self.done = compiled(), ctypes.c_int(0)
        self.params = np.ascontiguousarray(params, np.float32)
        self.mean, self.square = np.zeros_like(self.params), np.zeros_like(self.params)

    def train(self, windows: np.ndarray) -> np.ndarray:
        """One step for each window, in this order. Gives the loss of each step."""
        windows, losses = np.ascontiguousarray(windows), np.empty(len(windows), np.float32)
        state = *map(_pointer, (self.params, self.mean, self.square)), ctypes.byref(self.done)
        rate = ctypes.c_float(w7.LEARNING_RATE)
        self.program.train(*state, _pointer(windows), len(windows), rate, _pointer(losses))
        return losses

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (windows, time) to logits (windows, time, count)."""
        logits = np.empty((*tokens.shape, w7.SIZES.count), np.float32)
        for window, result in zip(np.ascontiguousarray(tokens), logits, strict=True):
            self.program.predict(_pointer(self.params), _pointer(window), _pointer(result))
        return logits


def compiled() -> ctypes.CDLL:
    """The C program as a library.

    Raises:
        CannotRun: if there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotRun("there is no C compiler, cc")
    sizes = [f"-D{name.upper()}={getattr(w7.SIZES, name)}" for name in ("count", "time", "features", "heads")]
    with tempfile.TemporaryDirectory() as folder:
        program, library = Path(folder) / "tiny_gpt.o", Path(folder) / "tiny_gpt.so"
        subprocess.run([compiler, *FLAGS, *sizes, "-c", "-fPIC", str(SOURCE), "-o", str(program)], check=True)
        # Linked with -ffast-math, a library makes very small numbers 0 in the whole process that loads it.
        subprocess.run([compiler, "-shared", str(program), "-o", str(library), "-lm"], check=True)
        return ctypes.CDLL(str(library))  # the system keeps it in memory when the file is gone


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def letters(mnist: Mnist, seed: int) -> Peer:
    """W7, in the order that NumPy draws for each epoch."""
    generator, text = np.random.default_rng(seed), read_letters()
    network = TinyGpt(START_SCALE * generator.standard_normal(w7.PARAMETERS))

    def train_epoch() -> None:
        network.train(generator.permutation(text.train))

    def accuracy() -> float:
        return share_of_right_characters(network.logits(text.test[:, :-1]), text.test)

    return Peer(train_epoch, None, threads=1, accuracy=accuracy)
