"""W1 to W4 beside PyTorch and the JAX libraries that are installed, with short lists of peers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from benchmarks.accelerator.parts import Record, Settings
from benchmarks.mnist import read_mnist
from benchmarks.race import race

PEERS = {
    "w1": ("functional_nn", "jax_scan", "equinox_tuned", "flax_nnx_functional", "pytorch_tuned", "pytorch_cuda_graph"),
    "w2": ("functional_nn_mapped", "jax_vmap_scan", "equinox_tuned", "flax_nnx_tuned", "torch_func"),
    "w3": ("functional_nn", "jax_loop", "flax_nnx", "pytorch_channels_last", "pytorch_cuda_graph"),
    "w4": ("functional_nn_undivided", "jax_scan", "haiku", "pytorch", "pytorch_cuda_graph"),
}
"""Those that run on an accelerator; the first is functional_nn. There, one program trains all models of W2, and
one device computes W4."""
PEERS_SMALL = {
    "w1": ("functional_nn", "pytorch_tuned"),
    "w2": ("functional_nn_mapped", "equinox_tuned"),
    "w3": ("functional_nn", "pytorch_channels_last"),
    "w4": ("functional_nn_undivided", "haiku"),
}
ROUNDS, ROUNDS_SMALL = 5, 1
MODELS, MODELS_SMALL = 32, 2
HIDDEN = (128, 64)
SHARE_OF_ROUNDS = 0.75
"""After this share of the time no round begins, so that the accuracies still fit."""


def w1_race(settings: Settings) -> Iterator[Record]:
    """W1's peers."""
    return run("w1", settings)


def w2_race(settings: Settings) -> Iterator[Record]:
    """W2's peers."""
    models = MODELS_SMALL if settings.small else MODELS
    return run("w2", settings, models=models, hidden=list(HIDDEN))


def w3_race(settings: Settings) -> Iterator[Record]:
    """W3's peers."""
    return run("w3", settings)


def w4_race(settings: Settings) -> Iterator[Record]:
    """W4's peers."""
    return run("w4", settings)


def run(name: str, settings: Settings, **options: object) -> Iterator[Record]:
    """Races the peers of a workload, and yields a record for each.

    On a TPU they run one after another, because only one process can use it. Elsewhere they take turns.

    Raises:
        RuntimeError: if functional_nn did not finish, after all records.
    """
    workload = importlib.import_module(f"benchmarks.{name}")
    peers = (PEERS_SMALL if settings.small else PEERS)[name]
    examples = len(read_mnist(settings.data_dir).train_labels)
    about = {"race": name, "examples": examples, "steps": -(-examples // workload.BATCH_SIZE), **options}
    own_problem = None
    groups: Sequence[Sequence[str]] = [[peer] for peer in peers] if settings.platform == "tpu" else [peers]
    for number, group in enumerate(groups):
        entries = race(
            name,
            list(group),
            settings.data_dir,
            rounds=ROUNDS_SMALL if settings.small else ROUNDS,
            warmup=1,
            epochs_a_turn=workload.EPOCHS_A_TURN,
            seed=settings.seed,
            options=options,
            progress=lambda text: print(text, file=sys.stderr, flush=True),
            start_together=len(group) > 1,
            seconds=settings.left / (len(groups) - number) * SHARE_OF_ROUNDS,
        )
        for entry in entries:
            results = {name: value for name, value in asdict(entry).items() if name != "problem"}
            yield about | {"title": workload.NAMES[entry.peer], "peer_problem": entry.problem} | results
            if entry.peer == peers[0]:
                own_problem = entry.problem
    if own_problem is not None:
        raise RuntimeError(f"{peers[0]}: {own_problem}")
