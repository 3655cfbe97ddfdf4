"""Measurements as JSON lines that can be understood and compared later: when, which commit, which device, versions."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from functional_nn.bench.measure.timing import setting
from functional_nn.core.errors import DataError, shortened
from functional_nn.storage.files import finite_json, write_whole
from functional_nn.training.programs.devices import cores

LIBRARIES = ("functional-nn", "jax", "jaxlib", "numpy", "optax")
KEY = ("model", "hidden", "what", "batch_size", "precision", "members")
"""What two records have in common that measure the same."""


def circumstances() -> dict[str, Any]:
    """What a measurement needs to be understood: date, commit, device, cores, load, versions and settings.

    ``commit`` is that of the package's checkout, None for an installed package. ``matmul_precision`` None is the
    platform's default: TF32 for float32 products on many GPUs, bfloat16 passes on TPUs, float32 on a CPU.
    """
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "platform": device.platform,
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "devices": jax.device_count(),
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "matmul_precision": setting("jax_default_matmul_precision"),
    }


def platform_notes(about: dict[str, Any]) -> list[str]:
    """What is different on this platform, in sentences."""
    if about["platform"] == "cpu":
        return [
            "CPU: float32 products are float32 throughout; a call returns before it is done, and was waited for; the "
            "device tells no memory statistics, so memory is what the compiler planned."
        ]
    precision = about["matmul_precision"]
    products = (
        "in TF32 on a GPU, in bfloat16 passes on a TPU" if precision in (None, "default") else f"at {precision!r}"
    )
    return [
        f"{about['device']}: float32 products are {products}, for the peaks as for the program; set "
        "jax_default_matmul_precision to 'highest' for full float32."
    ]


def add_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Adds a line for each record, even for none looking at what is there, which stays.

    Raises:
        DataError: where the file holds something else.
    """
    before = read_records(path) if path.exists() and path.stat().st_size else []
    if not records:
        return
    write_whole(path, "".join(json.dumps(finite_json(record)) + "\n" for record in (*before, *records)))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file.

    Raises:
        DataError: where it cannot be read, or a line is no record; the line is named.
    """
    remedy = "Give a file that 'functional-nn bench --json' wrote."
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), "a file of JSON lines", error, remedy) from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}", "a JSON object", error, remedy) from None
        if not isinstance(record, dict) or not {"date", "device", "what"} <= record.keys():
            raise DataError(f"{path}, line {number}", "a record with date, device and what", shortened(line), remedy)
        records.append(record)
    if not records:
        raise DataError(str(path), "at least one record", "an empty file", remedy)
    return records


def key_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """What a record measures: equal for records that may be compared."""
    return tuple(json.dumps(finite_json(record.get(name))) for name in KEY)


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() or None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text("utf-8").splitlines() if information.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
