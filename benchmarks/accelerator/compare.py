"""The command `accelerator`: measures one part after another, each in its own process, and writes page and results."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import records
from benchmarks.accelerator.data import make_files
from benchmarks.accelerator.page import page
from benchmarks.accelerator.parts import PARTS, Record, Settings, limit_for, seconds_for
from benchmarks.accelerator.process import FAILED, Outcome, run_part

FILE, PAGE, LOGS = "results.jsonl", "page.md", "logs"
RESULTS = records.RESULTS / "accelerator.jsonl"
MINUTES, MINUTES_SMALL = 8.0, 5.0
"""The most minutes that a run takes. With small sizes, it takes about one where nothing else runs."""
PLANNED = 0.95
"""The share of the time that is divided among the parts. The rest is for starting and ending."""
MACHINE_SECONDS, MACHINE_LIMIT = 30.0, 120.0
"""The time of the first part, and the most that it may take: drivers can be slow when they are first used."""

RunPart = Callable[[str, Settings, float, Path, Callable[[Record], None]], Outcome]


def compare(
    console: Console,
    *,
    out: Path,
    data_dir: Path | None = None,
    minutes: float | None = None,
    small: bool = False,
    parts: Sequence[str] = tuple(PARTS),
    results: Path | None = None,
    run: RunPart = run_part,
) -> bool:
    """Measures the parts, and writes `page.md`, `results.jsonl` and `logs` to a folder.

    Args:
        console: where progress is printed.
        out: the folder, which is made if it is missing.
        data_dir: the folder of MNIST's files; None for images made from the package's own.
        minutes: the time for all parts; by default 8, and 5 for small sizes.
        small: whether to use small sizes. On a CPU they are always small.
        parts: the parts to measure. The machine is always described.
        results: a file to append the results to. By default it is `benchmarks/results/accelerator.jsonl` for a run with
            full sizes, and none for a small one.
        run: measures a part, as `run_part` does.

    Returns:
        Whether no part failed. A part that was left out, or ended because it was late, has not failed.

    Raises:
        FileExistsError: if the folder has the results of another run.
    """
    began = time.monotonic()
    if (out / FILE).exists():
        raise FileExistsError(f"{out / FILE} exists. Runs are never overwritten: give each a new --out.")
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    about = records.circumstances() | {"workload": "accelerator"}
    lines: list[Record] = []

    def keep(name: str, record: Record) -> None:
        lines.append(about | {"part": name} | record)
        records.append(out / FILE, [lines[-1]])

    def measure(name: str, settings: Settings, limit: float) -> None:
        console.print(f"{name}: about {settings.seconds:.0f} s")
        clock = time.monotonic()
        status, problem = run(name, settings, limit, out / LOGS / f"{name}.txt", lambda record: keep(name, record))
        took = time.monotonic() - clock
        keep(name, {"status": status, "problem": problem, "seconds_taken": took, "small": settings.small})
        console.print(f"{name}: {status} after {took:.0f} s{f': {problem}' if problem else ''}", markup=False)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure("machine", Settings(folder, small, "", MACHINE_SECONDS), MACHINE_LIMIT)
        platform = next((str(line["platform"]) for line in lines if "platform" in line), None)
        small = small or platform == "cpu"
        # If JAX does not start, nothing else can be measured.
        names = [name for name in PARTS if name in parts and name != "machine"] if platform else []
        files = data_dir or folder
        if names and (small or data_dir is None):
            make_files(files := folder, small=small, source=data_dir)
        total = 60 * PLANNED * (minutes or (MINUTES_SMALL if small else MINUTES))
        for number, name in enumerate(names):
            left = total - (time.monotonic() - began)
            seconds = seconds_for(name, names[number + 1 :], left, small)
            if seconds is None:
                keep(name, {"status": "left out", "problem": f"{max(left, 0):.0f} s were left", "small": small})
                console.print(f"{name}: left out, because {max(left, 0):.0f} s were left")
            else:
                settings = Settings(files, small, str(platform), seconds)
                measure(name, settings, limit_for(seconds, left))

    (out / PAGE).write_text(page(lines), "utf-8")
    if results is None and platform and not small:
        results = RESULTS
    if results is not None:
        records.append(results, lines)
    console.print(f"{out / PAGE} has the tables, {out / FILE} all numbers.", markup=False, soft_wrap=True)
    return not any(line.get("status") == FAILED for line in lines)
