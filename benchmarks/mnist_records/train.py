"""Training for the records: candidates on the validation images, and chosen settings on all training images."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from rich.console import Console

import functional_nn as fnn
from benchmarks import records
from benchmarks.mnist_records import page
from benchmarks.mnist_records.networks import stored_numbers
from benchmarks.mnist_records.settings import RECORDS, VALIDATION_SHARE, Record, Setting
from benchmarks.race import ROOT

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def set_records(
    console: Console,
    names: Sequence[str],
    dataset: str,
    data_dir: Path | None,
    *,
    seeds: int,
    epochs: int | None,
    choose: bool,
    results: Path,
) -> None:
    """Trains the settings of each record from all seeds, prints and records the accuracies, and writes the page.

    Args:
        console: where to print.
        names: of the records.
        dataset, data_dir: the images, as `fnn.load_dataset` takes them.
        seeds: how many seeds, from 0.
        epochs: the number of epochs in place of each setting's own. Of such runs, the page shows only those with
            `choose`.
        choose: whether to compare all candidates on validation images, in place of training the chosen one.
        results: the file of JSON lines to append to.
    """
    data = fnn.load_dataset(dataset, data_dir)
    if choose:
        data = data.with_validation(VALIDATION_SHARE)
    console.print(repr(data))
    for name in names:
        record = RECORDS[name]
        candidates = record.candidates if choose else {record.chosen: record.setting}
        for candidate, setting in candidates.items():
            if epochs is not None:
                setting = replace(setting, epochs=epochs)
            about = records.circumstances() | {"versions": records.versions(LIBRARIES)}
            if record.timed and not choose:
                found = _in_processes(name, dataset, data_dir, range(seeds), epochs)
            else:
                found = _in_this_process(setting, data, range(seeds), ensemble=record.ensemble and not choose)
            line = {
                "record": name,
                "candidate": candidate,
                "dataset": dataset,
                "evaluated_on": "validation" if choose else "test",
                "setting": setting.numbers(),
                "parameters": stored_numbers(setting.network()),
                "seeds": list(range(seeds)),
                **found,
            }
            records.append(results, [about | line])
            console.print(_summary(record, line))
    if records.is_of_documents(results):
        page.write(results)


def _in_this_process(setting: Setting, data: fnn.data.Dataset, seeds: Sequence[int], *, ensemble: bool) -> dict:
    """The accuracies of a setting, from a sweep over the seeds; and that of all of them together as an ensemble."""
    result = fnn.sweep(
        setting.network(),
        lambda h: setting.optimizer(h["steps"]),
        fnn.grid(seed=seeds),
        data,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        keep=ensemble,
    )
    # If there are validation images, a member's curves are those of them.
    metric = "validation_accuracy" if data.validation_images is not None else "test_accuracy"
    found = {
        "accuracies": [member.last(metric) for member in result.members],
        "seconds": result.seconds["total"],
    }
    if ensemble:
        gain = fnn.sweeps.ensemble_gain(result, data.test_images, data.test_labels)
        found["ensemble"] = gain.accuracy
    return found


def _in_processes(
    name: str, dataset: str, data_dir: Path | None, seeds: Sequence[int], epochs: int | None
) -> dict[str, list[float]]:
    """The accuracies and times of the chosen setting: a new process for each seed."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        command = [sys.executable, "-m", "benchmarks.mnist_records.timing", name, dataset, str(seed)]
        command += [] if data_dir is None else ["--data-dir", str(data_dir.resolve())]
        command += [] if epochs is None else ["--epochs", str(epochs)]
        clock = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        times = json.loads(done.stdout) | {"process_seconds": time.perf_counter() - clock}
        for key, value in times.items():
            found.setdefault(key, []).append(value)
    return found


def _summary(record: Record, line: dict) -> str:
    """One line about a setting: the accuracies of its seeds, their mean, and how many reach the goal."""
    accuracies = line["accuracies"]
    reached = sum(accuracy >= record.goal for accuracy in accuracies)
    shown = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    return (
        f"{line['record']}, {line['candidate']} ({line['parameters']:,} parameters), {line['evaluated_on']}: "
        f"{shown}; mean {mean(accuracies):.4f}, {reached} of {len(accuracies)} reach {record.goal:.2%}"
    )
