"""The table of a race on the page, and the sentence that compares functional_nn with the others."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from statistics import median

from benchmarks.accelerator.markdown import table
from benchmarks.accelerator.parts import Record
from benchmarks.report import spread

OURS, NO_LIBRARY = "functional_nn", ("jax_scan", "jax_vmap_scan", "jax_loop")
"""How the names of our entries begin; and entries without a library, which are shown for reference."""


def text(records: Sequence[Record]) -> str:
    """The recipe, the table with the fastest entry first, who could not run, and what the figures say."""
    workload = importlib.import_module(f"benchmarks.{records[0]['race']}")
    finished = sorted((record for record in records if not record["peer_problem"]), key=seconds)
    # The units of the workloads are for all of MNIST.
    scale = 1000 / records[0]["steps"] if workload.UNIT == "ms/step" else workload.SCALE
    ours = next((record for record in finished if str(record["peer"]).startswith(OURS)), None)
    rows = []
    for record in finished:
        times = [scale * each / record["models_a_round"] for each in record["seconds"]]
        ratio = f"{seconds(record) / seconds(ours):.2f}" if ours else ""
        warm_up = f"{record['warmup_seconds'][0]:.1f} s" if record["warmup_seconds"] else ""
        rows.append((record["title"], record["device"], spread(times, 4), ratio, warm_up))
    paragraphs = [
        f"{workload.RECIPE}. Here an epoch has {records[0]['examples']:,} images. Times are the median over "
        "the rounds, with the smallest and the largest."
    ]
    if rows:
        headings = ("", "device", workload.UNIT, "/ functional_nn", "first epoch")
        paragraphs.append(table(headings, rows))
    problems = [f"{record['title']}: {record['peer_problem']}." for record in records if record["peer_problem"]]
    if problems:
        paragraphs.append(" ".join(problems))
    paragraphs.append(sentence(finished, ours))
    return "\n\n".join(paragraphs)


def seconds(record: Record) -> float:
    """The median seconds of an epoch of one model."""
    return median(record["seconds"]) / record["models_a_round"]


def sentence(finished: Sequence[Record], ours: Record | None) -> str:
    """How functional_nn compares with the fastest library and with PyTorch."""
    if ours is None:
        return "functional_nn did not finish, so there is nothing to compare."
    others = [record for record in finished if record is not ours and record["peer"] not in NO_LIBRARY]
    if not others:
        return "No other library finished, so there is nothing to compare."
    best = others[0]
    said = f"functional_nn takes {seconds(ours) / seconds(best):.2f} of the time of the fastest other library"
    said += f" ({best['title']})"
    torch = next((record for record in others if "torch" in record["versions"]), None)
    if torch is not None and torch is not best:
        said += f", and {seconds(ours) / seconds(torch):.2f} of that of PyTorch's fastest entry ({torch['title']})"
    devices = sorted({str(record["device"]) for record in finished})
    if len(devices) > 1:
        said += f". The entries ran on different devices ({', '.join(devices)}), so this is no fair comparison"
    return f"{said}."
