"""Compile times of `fit` and of plain programs, in turns, and their table in docs/explanation/performance.md.

Each side has a process of its own, so that only compiling is timed and not importing. It is started by
`python -m benchmarks.compilation SIDE TRAIN TEST`, where TRAIN and TEST are the numbers of images. It answers each name
of a network with a JSON line of seconds. JAX's compilation cache is off, and JAX's caches are cleared before each
measurement. A first compilation in each process is not recorded.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

import functional_nn as fnn
from benchmarks import records, w1, w3, w4
from benchmarks.peers import functional_nn as ours
from benchmarks.peers import plain_jax
from benchmarks.peers.jax_loops import mean_cross_entropy
from benchmarks.race import ROOT, Worker
from benchmarks.recorded import JAX_VERSIONS, is_version, races_of
from benchmarks.report import spread
from benchmarks.summary import put

PAGE, MARK = ROOT / "docs" / "explanation" / "performance.md", "compile"
LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")
EVALUATED_AT_ONCE = 1_000


class Sizes(NamedTuple):
    """The numbers of images. The defaults are those of MNIST."""

    train: int = 60_000
    test: int = 10_000


def compare(console: Console, rounds: int, networks: list[str], results: Path) -> None:
    """Measures, prints the table and records the results."""
    lines = measure(console, rounds, networks, Sizes())
    records.append(results, lines)
    console.print(table([lines]), markup=False)
    worst = max(
        median(line["seconds"]["fit"] / line["seconds"]["plain"] for line in lines if line["network"] == network)
        for network in networks
    )
    console.print(f"largest median ratio: {worst:.2f}")


def measure(console: Console, rounds: int, networks: list[str], sizes: Sizes) -> list[dict]:
    """The records of all rounds: for each network and side, the seconds of the round."""
    circumstances = records.circumstances() | {"versions": records.versions(LIBRARIES)}
    lines = []
    with console.status("starting") as status, ExitStack() as stack:
        given = tuple(map(str, sizes))
        workers = {side: stack.enter_context(Worker("benchmarks.compilation", side, *given)) for side in SIDES}
        for worker in workers.values():
            worker.ask(networks[0])  # the first compilation of a process takes longer
        order = random.Random(0)
        for number in range(rounds):
            for network in networks:
                status.update(f"round {number + 1} of {rounds}: {network}")
                turns = order.sample(list(SIDES), len(SIDES))
                seconds = {side: workers[side].ask(network)["seconds"] for side in turns}
                line = {"workload": "compile", "network": network, "round": number, "seconds": seconds}
                lines.append(circumstances | line)
    return lines


def table(runs: list[list[dict]]) -> str:
    """One row for each network and run, with median, smallest and largest seconds; then where each run was made.

    A ratio is the time of `fit` divided by the time of the plain programs in the same round.
    """
    lines = ["| network | jax | `fit` | plain `jax.jit` | `fit` / plain |", "|---|---|---|---|---|"]
    for network in NETWORKS:
        for run in runs:
            seconds = [line["seconds"] for line in run if line["network"] == network]
            if not seconds:
                continue
            ours, theirs = ([times[side] for times in seconds] for side in SIDES)
            ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
            cells = (spread(ours, 2), spread(theirs, 2), spread(ratios, 2))
            name = f"`{network}` ({NETWORKS[network].workload.RECIPE.split(':')[0]})"
            lines.append(f"| {name} | {run[0]['versions']['jax']} | {' | '.join(cells)} |")
    place = "{cpu}, {cores} cores, {system}, Python {python}, jax {jax}; commit {commit}, load {load_average}"
    for run in runs:
        about = place.format(**run[0], jax=run[0]["versions"]["jax"])
        rounds = 1 + max(line["round"] for line in run)
        lines += ["", f"{run[0]['date'][:10]}, {rounds} rounds in turn, `python -m benchmarks compile`, {about}."]
    return "\n".join(lines)


def newest_runs(path: Path) -> list[list[dict]]:
    """The newest run with all networks on each supported version of jax, if there is one."""
    found = []
    for version in JAX_VERSIONS:
        runs = [run for run in races_of(path) if is_version(run[0]["versions"]["jax"], version)]
        complete = [run for run in runs if {line["network"] for line in run} == set(NETWORKS)]
        found += complete[-1:]
    return found


def put_table(path: Path) -> None:
    """Writes the table of the newest runs between its marks, if a run with all networks is recorded."""
    runs = newest_runs(path)
    if runs:
        put(PAGE, MARK, table(runs))


class Networks(NamedTuple):
    """A network, written twice.

    Args:
        workload: the module with the learning rate and the batch size.
        ours: makes a new layer, so that no earlier program is used again.
        start: `start(key) -> params` of the plain network.
        plain: `plain(params, images) -> logits`, for images (batch, 28, 28, 1) in [0, 1].
    """

    workload: ModuleType
    ours: Callable[[], fnn.Layer]
    start: Callable[[jax.Array], Any]
    plain: Callable[[Any, jax.Array], jax.Array]


NETWORKS = {
    "mlp": Networks(
        w1,
        lambda: fnn.models.mlp(w1.SIZES[-1], hidden=w1.SIZES[1:-1]),
        lambda key: plain_jax.start(key, w1.LEARNING_RATE, w1.SIZES)[0],
        lambda params, images: plain_jax.network(params, images.reshape(len(images), -1)),
    ),
    "cnn": Networks(w3, ours.cnn_formula, plain_jax.cnn_start, plain_jax.cnn),
    "lstm": Networks(
        w4,
        ours.lstm_formula,
        plain_jax.lstm_start,
        lambda params, images: plain_jax.lstm(params, images.reshape(-1, w4.ROWS, w4.COLUMNS)),
    ),
}


def with_fit(name: str, sizes: Sizes) -> float:
    """What `fit` says it took to compile. It then trains an epoch, because it is called as a user calls it.

    Its programs also draw the initial values and the order of an epoch, and train on the last partial batch.
    """
    chosen = NETWORKS[name]
    generator = np.random.default_rng(0)
    arrays = []
    for count in sizes:
        arrays += generator.integers(0, 256, (count, 28, 28, 1), np.uint8), generator.integers(0, 10, count, np.int32)
    optimizer = optax.adam(chosen.workload.LEARNING_RATE)
    jax.clear_caches()
    run = fnn.fit(
        chosen.ours(),
        fnn.cross_entropy,
        optimizer,
        fnn.data.Split(*arrays),
        epochs=1,
        batch_size=chosen.workload.BATCH_SIZE,
        progress=False,
    )
    if not run.seconds["compile"]:
        raise RuntimeError("expected fit to compile, got programs of an earlier call; start a new process")
    return run.seconds["compile"]


def plain(name: str, sizes: Sizes) -> float:
    """Tracing, lowering and compiling an epoch of full batches and an evaluation, each by one `jax.jit`."""
    chosen = NETWORKS[name]
    optimizer = optax.adam(chosen.workload.LEARNING_RATE)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(chosen.start, key)
    state = params, jax.eval_shape(optimizer.init, params)
    train, test = (
        (jax.ShapeDtypeStruct((count, 28, 28, 1), jnp.uint8), jax.ShapeDtypeStruct((count,), jnp.int32))
        for count in sizes
    )
    jax.clear_caches()
    clock = time.perf_counter()
    epoch, evaluate = programs(chosen, optimizer)
    jax.jit(epoch, donate_argnums=0).lower(state, key, *train).compile()
    jax.jit(evaluate).lower(params, *test).compile()
    return time.perf_counter() - clock


def programs(chosen: Networks, optimizer: optax.GradientTransformation):
    """A shuffled epoch of full batches, with its mean loss, and an evaluation, with loss and accuracy."""
    batch_size = chosen.workload.BATCH_SIZE

    def logits(params, images):
        return chosen.plain(params, images.astype(jnp.float32) / 255)

    def epoch(state, key, images, labels):
        def step(state, rows):
            params, optimizer_state = state
            loss, gradient = jax.value_and_grad(
                lambda params: mean_cross_entropy(logits(params, images[rows]), labels[rows])
            )(params)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), loss

        batches = len(images) // batch_size
        order = jax.random.permutation(key, len(images))[: batches * batch_size]
        state, losses = jax.lax.scan(step, state, order.reshape(batches, batch_size))
        return state, losses.mean()

    def evaluate(params, images, labels):
        def evaluate_some(_, rows):
            outputs = logits(params, images[rows])
            right = outputs.argmax(axis=-1) == labels[rows]
            return None, (mean_cross_entropy(outputs, labels[rows]), right.mean())

        at_once = min(EVALUATED_AT_ONCE, len(images))
        rows = jnp.arange(len(images) // at_once * at_once).reshape(-1, at_once)
        _, (losses, accuracies) = jax.lax.scan(evaluate_some, None, rows)
        return losses.mean(), accuracies.mean()

    return epoch, evaluate


SIDES = {"fit": with_fit, "plain": plain}


def main() -> None:
    """The process of one side."""
    side, sizes = SIDES[sys.argv[1]], Sizes(*map(int, sys.argv[2:]))
    jax.config.update("jax_enable_compilation_cache", False)
    for line in sys.stdin:
        print(json.dumps({"seconds": side(line.strip(), sizes)}), flush=True)


if __name__ == "__main__":
    main()
