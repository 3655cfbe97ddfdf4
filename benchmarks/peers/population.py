"""Training of several models: one after another, or divided among processes."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.data import Mnist, read_mnist
from benchmarks.peers import Peer, available_cores
from benchmarks.w1 import BATCH_SIZE
from benchmarks.w2 import FEW, Member, members

MakePeer: TypeAlias = Callable[[Mnist, Member, Sequence[int]], Peer]


def one_after_another(peers: Sequence[Peer]) -> Peer:
    """Several peers as one: its epoch is an epoch of each of them, one after another."""

    def train_epoch() -> None:
        for peer in peers:
            peer.train_epoch()

    return Peer(
        train_epoch,
        lambda images: np.stack([peer.predict(images) for peer in peers]),
        peers[0].threads,
        len(peers),
        device=peers[0].device,
    )


def in_processes(
    make: MakePeer, mnist: Mnist, seed: int, models: int, hidden: Sequence[int], device: str | None = None
) -> Peer:
    """One process per core. Each trains its share of the models, one after another, on the device of that name."""
    cores = min(available_cores(), models)
    context = get_context("spawn")
    population = members(seed, models, FEW * cores)
    connections: list[Connection] = []
    for core in range(cores):
        connection, end_of_process = context.Pipe()
        arguments = (end_of_process, make, mnist.folder, population[core::cores], hidden)
        context.Process(target=train_share, args=arguments, daemon=True).start()
        end_of_process.close()
        connections.append(connection)

    def ask_all(method: str, *arguments: np.ndarray) -> list[Any]:
        for connection in connections:
            connection.send((method, arguments))
        return [connection.recv() for connection in connections]

    def train_epoch() -> None:
        ask_all("train_epoch")

    def predict(images: np.ndarray) -> np.ndarray:
        return np.concatenate(ask_all("predict", images))

    return Peer(train_epoch, predict, cores, len(population), device=device)


def train_share(
    connection: Connection, make: MakePeer, folder: Path, population: Sequence[Member], hidden: Sequence[int]
) -> None:
    """The work of one process of `in_processes`: it calls the requested method of its peer and sends the result."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    mnist = read_mnist(folder)
    share = one_after_another([make(mnist, member, hidden) for member in population])
    with suppress(EOFError):  # the parent has ended
        while True:
            method, arguments = connection.recv()
            connection.send(getattr(share, method)(*arguments))


def end_with_parent() -> None:
    """Ends this process when its parent ends, even if the parent is killed in the middle of an epoch."""
    parent_process().join()
    os._exit(1)


def shuffled_rows(generators: Sequence[np.random.Generator], images: int) -> Iterator[np.ndarray]:
    """Yields the numbers of the images, batch by batch, with an order for each model: (models, batch)."""
    orders = np.stack([generator.permutation(images) for generator in generators])
    for start in range(0, images, BATCH_SIZE):
        yield orders[:, start : start + BATCH_SIZE]
