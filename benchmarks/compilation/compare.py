"""Compile times of `fit` and of plain programs, in turns, and their table in docs/explanation/performance.md.

Each side has a process of its own, so that only compiling is timed and not importing. JAX's caches are cleared before
each measurement. A first compilation in each process is not recorded.
"""

import json
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks import records
from benchmarks.compilation.networks import NETWORKS
from benchmarks.compilation.sides import SIDES, Sizes
from benchmarks.race import ROOT
from benchmarks.recorded import JAX_VERSIONS, is_version, races_of
from benchmarks.report import spread
from benchmarks.summary import put

PAGE, MARK = ROOT / "docs" / "explanation" / "performance.md", "compile"
LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


class Compiler:
    """The process of one side, as a context manager that ends it."""

    def __init__(self, side: str, sizes: Sizes):
        command = [sys.executable, "-m", "benchmarks.compilation.worker", side, *map(str, sizes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def __enter__(self) -> "Compiler":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()

    def seconds(self, network: str) -> float:
        print(network, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that compiles ended (exit status {self.process.wait()}); see above")
        return json.loads(line)["seconds"]


def measure(console: Console, rounds: int, networks: list[str], sizes: Sizes) -> list[dict]:
    """The records of all rounds: for each network and side, the seconds of the round."""
    circumstances = records.circumstances() | {"versions": records.versions(LIBRARIES)}
    lines = []
    with console.status("starting") as status, ExitStack() as stack:
        compilers = {side: stack.enter_context(Compiler(side, sizes)) for side in SIDES}
        for compiler in compilers.values():
            compiler.seconds(networks[0])  # the first compilation of a process takes longer
        order = random.Random(0)
        for number in range(rounds):
            for network in networks:
                status.update(f"round {number + 1} of {rounds}: {network}")
                seconds = {side: compilers[side].seconds(network) for side in order.sample(list(SIDES), len(SIDES))}
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
    for jax in JAX_VERSIONS:
        runs = [run for run in races_of(path) if is_version(run[0]["versions"]["jax"], jax)]
        complete = [run for run in runs if {line["network"] for line in run} == set(NETWORKS)]
        found += complete[-1:]
    return found


def put_table(path: Path) -> None:
    """Writes the table of the newest runs between its marks, if a run with all networks is recorded."""
    runs = newest_runs(path)
    if runs:
        put(PAGE, MARK, table(runs))


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
