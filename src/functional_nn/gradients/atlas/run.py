"""The survey of many functions in a separate process, which is ended if a function does not return."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from functional_nn.gradients.atlas.catalog import Entry
from functional_nn.gradients.atlas.survey import Survey, survey

PATIENCE = 60.0
"""The seconds that a function may take in addition to its searches, mostly for compiling. Some of JAX's loops never
end for some inputs, and a compiled program cannot be interrupted."""
START = 60.0
"""How many seconds a new process may take to import JAX."""


def run_atlas(
    entries: Sequence[Entry],
    *,
    seconds: float,
    seed: int = 0,
    progress: Callable[[Survey], None] | None = None,
) -> list[Survey]:
    """Surveys functions one after the other.

    Args:
        entries: the functions.
        seconds: how long the searches for one function may take.
        seed: for drawing points.
        progress: called with each result.
    """
    found = []
    worker = _Worker(seconds, seed)
    try:
        for entry in entries:
            result = worker.survey(entry)
            found.append(result)
            if progress:
                progress(result)
    finally:
        worker.end()
    return found


class _Worker:
    """A process that surveys functions. It is replaced by a new one if it takes too long.

    Args:
        seconds: how long the searches for one function may take.
        seed: for drawing points.
    """

    def __init__(self, seconds: float, seed: int):
        self._seconds, self._seed = seconds, seed
        self._start()

    def survey(self, entry: Entry) -> Survey:
        """Surveys one function."""
        self._connection.send(entry)
        limit = self._seconds + PATIENCE
        try:
            if self._connection.poll(limit):
                return self._connection.recv()
            note = f"it did not return within {limit:.0f} seconds"
        except EOFError:
            note = "the process ended"
        self.end()
        self._start()
        return Survey(entry.name, entry.code, note=note)

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._seconds, self._seed), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(START):
            raise TimeoutError(f"the process of the atlas did not start within {START:.0f} seconds")
        self._connection.recv()


def _work(connection: Connection, seconds: float, seed: int) -> None:
    """Surveys each function that is sent, until the other end is closed."""
    connection.send("ready")
    while True:
        try:
            entry = connection.recv()
        except EOFError:
            return
        connection.send(survey(entry, seconds=seconds, seed=seed))
