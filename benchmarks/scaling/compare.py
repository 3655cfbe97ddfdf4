"""Predictions for several devices from the rates of one core, beside what this machine measures."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.race import ROOT
from benchmarks.scaling import page
from functional_nn.bench import Network, Rates, sweep_plan, training_plan

COMPARED, CALIBRATED = ("mlp", "cnn", "lstm"), ("rnn", "gru", "lenet")
"""The models whose steps are predicted, and those whose steps show how long a message takes."""
BATCH_SIZE = 128
SIZES, SIZES_OF_STEPS = (2, 16, 128), (2, 16, 32, 64, 128)
DEVICES, PROCESSES = (2, 4, 8), (2, 4)
MEMBERS, PARTS = 16, (1, 2)
BANDWIDTH, LEAST_LATENCY = 10e9, 1e-9
"""Bytes a second in memory, assumed: arrays of these models are small, so that nearly all time is latency. And the
latency used where noise gives a negative one."""


class Process:
    """A process of `benchmarks.scaling.worker`, as a context manager that ends it."""

    def __init__(self, kind: str, **options: object):
        command = [sys.executable, "-m", "benchmarks.scaling.worker", kind, json.dumps(options)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self) -> None:
        print("go", file=self.process.stdin, flush=True)

    def answer(self):
        """The next line that is JSON. Libraries print lines of their own."""
        for line in self.process.stdout:
            if line.startswith(("{", '"')):
                return json.loads(line)
        raise RuntimeError(f"a worker has ended with status {self.process.wait()}")


@dataclass(frozen=True)
class Point:
    """A measured and predicted number.

    Args:
        what: `step`, or `sweep`.
        model: the name of the model.
        kind: `devices` in one process, `processes`, or `parts` of a sweep.
        count: how many.
        predicted, measured: seconds of a step, or of a model of a sweep.
    """

    what: str
    model: str
    kind: str
    count: int
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """The predicted number divided by the measured one, minus 1."""
        return self.predicted / self.measured - 1


def compare(console: Console, rounds: int, models: Sequence[str], results: Path) -> None:
    """Measures the rates of one core, then all points; records and prints them, and writes the page.

    The page is not written for a file of results of one's own.
    """
    cores = len(os.sched_getaffinity(0))
    about = records.circumstances() | {"versions": records.versions(("jax", "jaxlib"))}
    rates = {}
    for model in dict.fromkeys((*COMPARED, *CALIBRATED, *models)):
        sizes = SIZES_OF_STEPS if model in (*COMPARED, *CALIBRATED) else SIZES
        with Process("rates", model=model, sizes=sizes, core=cores - 1) as process:
            rates[model] = Rates.from_dict(process.answer())
        console.print(model, rates[model].step_seconds)
        records.append(results, [about | {"workload": "scaling", "rates": rates[model].to_dict()}])
    seconds, swept = steps_in_turns(console, rounds), {}
    for model in COMPARED:
        swept[model] = seconds_of_members(model, rounds)
        console.print(model, swept[model])
    networks = {name: calibrated(rates, times, name[1], cores) for name, times in seconds.items()}
    points = []
    for (kind, count), times in seconds.items():
        for model in COMPARED:
            plan = training_plan(rates[model], BATCH_SIZE, count, networks[kind, count], cores=cores)
            points.append(Point("step", model, kind, count, plan.step_seconds, times[model]))
    for model in COMPARED:
        plan = sweep_plan(rates[model], MEMBERS, cores, epochs=1, examples=rates[model].sweep.examples)
        predicted = (plan.seconds - rates[model].sweep.start_seconds) / MEMBERS
        points += [Point("sweep", model, "parts", count, predicted, swept[model][count]) for count in PARTS]
    lines = [
        {
            "network": kind,
            "count": count,
            **asdict(network),
            "calibrated": {m: seconds[kind, count][m] for m in CALIBRATED},
        }
        for (kind, count), network in networks.items()
    ]
    lines += [{"point": asdict(point) | {"error": point.error}} for point in points]
    records.append(results, [about | {"workload": "scaling"} | line for line in lines])

    table = Table(title="Predicted from one core, and measured")
    for heading in ("", "model", "", "predicted", "measured", "error"):
        table.add_column(heading)
    for point in points:
        numbers = (f"{1e3 * point.predicted:.3f} ms", f"{1e3 * point.measured:.3f} ms", f"{point.error:+.0%}")
        table.add_row(point.what, point.model, f"{point.count} {point.kind}", *numbers)
    console.print(table)
    if records.is_of_documents(results):
        page.write(results)


def steps_in_turns(console: Console, rounds: int) -> dict[tuple[str, int], dict[str, float]]:
    """The seconds of a step of each model, for each number of devices and of processes. They take turns.

    Processes that work together wait for each other, so the first one's seconds are those of all.
    """
    options = {"models": (*COMPARED, *CALIBRATED), "batch_size": BATCH_SIZE}
    with ExitStack() as stack:
        groups: dict[tuple[str, int], list[Process]] = {}
        for kind, counts in (("devices", DEVICES), ("processes", PROCESSES)):
            for count in counts:
                processes, devices, port = (count, 1, _free_port()) if kind == "processes" else (1, count, 0)
                own = options | {"devices": devices, "port": port, "processes": processes}
                several = [Process("steps", index=index, **own) for index in range(processes)]
                groups[kind, count] = [stack.enter_context(process) for process in several]
                for process in several:
                    process.answer()
                console.print(f"{count} {kind} compiled")
        samples: dict[tuple[str, int], dict[str, list[float]]] = {name: {} for name in groups}
        for _ in range(rounds):
            for name, group in groups.items():
                for process in group:
                    process.ask()
                first, *_ = [process.answer() for process in group]
                for model, seconds in first.items():
                    samples[name].setdefault(model, []).append(seconds)
    return {name: {model: lower_quartile(seconds) for model, seconds in of.items()} for name, of in samples.items()}


def seconds_of_members(model: str, rounds: int) -> dict[int, float]:
    """The seconds of the machine for a member of a sweep, by the number of parts that train at the same time."""
    samples: dict[int, list[float]] = {}
    for count in PARTS:
        options = {"model": model, "members": MEMBERS // count, "parts": count}
        with ExitStack() as stack:
            group = [Process("sweep", part=part + 1, **options) for part in range(count)]
            for process in group:
                stack.enter_context(process)
            for process in group:
                process.answer()
            for _ in range(rounds):
                for process in group:
                    process.ask()
                slowest = max(process.answer()[model] for process in group)
                samples.setdefault(count, []).append(slowest / MEMBERS)
    return {count: lower_quartile(seconds) for count, seconds in samples.items()}


def lower_quartile(seconds: Sequence[float]) -> float:
    """What a quarter of the times are below. Other work on the machine changes it less than the mean."""
    return quantiles(seconds, n=4, method="inclusive")[0] if len(seconds) > 1 else seconds[0]


def calibrated(rates: dict[str, Rates], seconds: dict[str, float], devices: int, cores: int) -> Network:
    """A network with the latency that explains the steps of the other models: the median of theirs.

    A step of each takes so much longer than the computation that its messages must have taken the rest.
    """
    latencies = []
    for model in CALIBRATED:
        computed = training_plan(rates[model], BATCH_SIZE, devices, Network(LEAST_LATENCY, BANDWIDTH), cores=cores)
        messages = 2 * (devices - 1) * len(rates[model].all_reduces)
        latencies.append((seconds[model] - computed.step_seconds) / messages)
    return Network(max(median(latencies), LEAST_LATENCY), BANDWIDTH)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
