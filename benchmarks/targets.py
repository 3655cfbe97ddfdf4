"""The named models compiled for a TPU that is not there: compile time, memory, a lower bound of a step, and padding."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from benchmarks import records
from benchmarks.race import ROOT
from benchmarks.summary import put
from functional_nn.bench.measure.suite import cases_of
from functional_nn.bench.measure.workloads import named_network
from functional_nn.bench.targets.chips import CHIPS
from functional_nn.bench.targets.compiler import device_of
from functional_nn.bench.targets.network import targets
from functional_nn.bench.units import in_bytes, in_seconds
from functional_nn.models.named_models import MODELS

CHIP = CHIPS["tpu-v5e"]
PROGRAMS = ("step", "train", "sweep")
BATCH_SIZE, MEMBERS = 128, 8
PAGE = ROOT / "docs" / "how_to" / "targets.md"
HEADINGS = ("model", "program", "compiles", "memory", "step at least", "uncached", "padding")


def compile_all(console: Console, models: Sequence[str], programs: Sequence[str], results: Path) -> None:
    """Compiles the programs of each model one after another, records each, and writes the table of the page.

    The table is not written for a file of results of one's own.
    """
    device_of(CHIP)  # before JAX starts, so that libtpu does not warn that there is no TPU
    about = records.circumstances() | {"versions": records.versions(("jax", "jaxlib", "libtpu"))}
    for name in models:
        for one in targets(named_network(name), cases_of(programs, [BATCH_SIZE], ["float32"], [MEMBERS]), CHIP):
            console.print(f"{name} {one.report!r}")
            # The products are many, and follow from the network.
            record = {key: value for key, value in one.to_dict().items() if key != "products"}
            records.append(results, [about | {"workload": "targets", "model": name} | record])
            jax.clear_caches()
    if records.is_of_documents(results):
        write_table(results)


def write_table(results: Path) -> None:
    """Writes the table of the page from the newest record of each program of each model."""
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    newest = {(line["model"], line["what"]): line for line in lines}
    rows = [_row(newest[model, what]) for model in MODELS for what in PROGRAMS if (model, what) in newest]
    separator = ["---"] * len(HEADINGS)
    put(PAGE, "targets", "\n".join(f"| {' | '.join(row)} |" for row in (HEADINGS, separator, *rows)))


def _row(record: dict) -> list[str]:
    steps = record["steps"]
    return [
        f"`{record['model']}`",
        record["name"],
        f"in {in_seconds(record['stages']['compile'])}" if record["compiles"] else f"no: {record['reason']}",
        in_bytes(record["memory"]["peak"]) if record["memory"] else "",
        in_seconds(record["lower_bound_seconds"] / steps),
        in_seconds(record["uncached_seconds"] / steps),
        f"{record['wasted']:.0%}",
    ]
