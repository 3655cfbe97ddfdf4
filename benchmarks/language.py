"""A language model: the training step of three libraries, and generation with and without a key-value cache.

All entries run in one process, in turn, in a new order each round. The training step is that of a decoder-only
transformer with learned positions and tied embeddings, on random tokens, with Adam. Processor time is that of all
threads; it depends less on what else runs on the machine. A round of generation draws
`NEW_TOKENS` tokens after a prompt. Without a cache, each token is a pass over the whole padded sequence, in one scan.
"""

import importlib
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import functional_nn as fnn
from benchmarks import records
from benchmarks.language_sizes import LanguageSizes

SIZES, STEPS = LanguageSizes(count=256, time=128, batch=16), 4
WIDE, CONTEXT, PROMPT, NEW_TOKENS = 256, 512, 64, 256

TRAINING = {
    "functional_nn": "benchmarks.peers.language_functional_nn:by_hand",
    "functional_nn_autodiff": "benchmarks.peers.language_functional_nn:automatically",
    "equinox": "benchmarks.peers.language_equinox:partitioned",
    "flax_nnx": "benchmarks.peers.language_flax_nnx:functional",
}
"""The function that makes each entry, `(tokens, sizes, seed) -> round`. A round trains on all batches."""


def random_tokens() -> np.ndarray:
    """The batches of a round, with one token more than the network reads: (steps, batch, time + 1)."""
    return np.random.default_rng(0).integers(0, SIZES.count, (STEPS, SIZES.batch, SIZES.time + 1)).astype(np.int32)


def training_entries() -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """The training rounds of the libraries that are installed, and the versions of these libraries."""
    rounds, libraries = {}, {}
    for name, place in TRAINING.items():
        module_path, function = place.split(":")
        try:
            module = importlib.import_module(module_path)
        except ModuleNotFoundError as error:
            if error.name.startswith("benchmarks"):
                raise
            continue
        rounds[name] = getattr(module, function)(random_tokens(), SIZES, 0)
        libraries |= records.versions(module.LIBRARIES)
    return rounds, libraries


def generation_entries() -> dict[str, Callable[[], jax.Array]]:
    """Greedy generation with a cache, and by whole passes. Both write the same tokens."""
    model = fnn.models.language_model(SIZES.count, CONTEXT, features=WIDE, depth=SIZES.depth, heads=SIZES.heads)
    params, state = jax.jit(lambda key: model.layer.init(key, (CONTEXT,)))(jax.random.key(0))
    prompt = jax.random.randint(jax.random.key(1), (1, PROMPT), 0, SIZES.count)

    @jax.jit
    def by_whole_passes(params, prompt):
        def write(sequence, position):
            logits, _ = model.layer.apply(params, state, sequence, train=False)
            token = jnp.argmax(logits[:, position], axis=-1).astype(jnp.int32)
            return sequence.at[:, position + 1].set(token), token

        padded = jnp.pad(prompt, ((0, 0), (0, NEW_TOKENS)))
        return jax.lax.scan(write, padded, PROMPT - 1 + jnp.arange(NEW_TOKENS))[1].T

    return {
        "with a cache": lambda: model.generate(params, prompt, new_tokens=NEW_TOKENS, temperature=0),
        "without a cache": lambda: by_whole_passes(params, prompt),
    }


class Seconds(NamedTuple):
    """The seconds of an entry in each round: by the clock, and of processor time of all threads."""

    clock: list[float]
    processor: list[float]


def timed(entries: dict[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """The seconds of each entry. The first call of each, which compiles, is not timed."""
    for entry in entries.values():
        jax.block_until_ready(entry())
    seconds = {name: Seconds([], []) for name in entries}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(entries), len(entries)):
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(entries[name]())
            seconds[name].clock.append(time.perf_counter() - start[0])
            seconds[name].processor.append(time.process_time() - start[1])
    return seconds


def compare(console: Console, rounds: int, results: Path) -> None:
    """Times training and generation, prints both tables and records the results."""
    training, libraries = training_entries()
    circumstances = records.circumstances() | {"versions": libraries}
    steps = timed(training, rounds)
    title = f"Milliseconds per training step: {SIZES.depth} blocks of {SIZES.features}, {SIZES.time} tokens"
    _print(console, title, steps, 1000 / STEPS)
    generation = generation_entries()
    texts = timed(generation, rounds)
    _print(console, f"Seconds for {NEW_TOKENS} tokens: {SIZES.depth} blocks of {WIDE}, a prompt of {PROMPT}", texts, 1)
    with_cache, without = (np.asarray(entry()) for entry in generation.values())
    console.print(f"equal tokens: {(with_cache == without).mean():.1%}")
    lines = [
        circumstances | {"workload": "language", "work": work, "entry": name, **seconds._asdict()}
        for work, found in (("training", steps), ("generation", texts))
        for name, seconds in found.items()
    ]
    records.append(results, lines)


def _print(console: Console, title: str, seconds: dict[str, Seconds], scale: float) -> None:
    table = Table(title=f"{title}; median (min-max)")
    for heading in ("", "clock", "ratio", "processor", "ratio"):
        table.add_column(heading)
    baseline = next(iter(seconds.values()))
    for name, times in seconds.items():
        cells = []
        for measured, base in zip(times, baseline, strict=True):
            cells.append(_spread([time * scale for time in measured]))
            cells.append(_spread([time / base_time for time, base_time in zip(measured, base, strict=True)]))
        table.add_row(name, *cells)
    console.print(table)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"
