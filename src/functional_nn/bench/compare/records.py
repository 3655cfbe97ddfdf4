"""Records of measurements as JSON lines, each with date, commit, device and versions."""

from __future__ import annotations

import datetime
import errno
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import jax

from functional_nn.core.errors import DataError, installed_version, shortened
from functional_nn.storage.files import JsonValue, finite_json, regular_file
from functional_nn.training.devices import cores, device_name

Record: TypeAlias = Mapping[str, JsonValue]
"""The results of one measurement by name, ready for JSON."""

MATMUL_PRECISION = "jax_default_matmul_precision"
LIBRARIES = ("functional-nn", "jax", "jaxlib", "numpy", "optax")
ACCELERATOR_LIBRARIES = (
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cublas-cu12",
    "nvidia-cublas",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "libtpu",
)
"""They are in a record only if they are installed."""
DRIVER = Path("/sys/module/nvidia/version")
"""On Linux, the file with the version of NVIDIA's driver."""
KEY: dict[str, str | int | None] = {
    "model": None,
    "hidden": None,
    "what": None,
    "batch_size": None,
    "precision": None,
    "members": None,
    "target": None,  # the chip, if nothing was run
    "steps": 1,  # records of earlier versions do not have it
}
"""Two records measure the same thing if they are equal in these entries. A missing entry counts as the value here."""


def environment() -> dict[str, object]:
    """The date, commit, device, cores, load, versions and settings of a measurement.

    ``commit`` is the commit of the package's checkout, or None for an installed package. If ``matmul_precision`` is
    None, the platform's default applies to float32 products: TF32 on many GPUs, bfloat16 passes on TPUs, float32 on a
    CPU.
    """
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "platform": device.platform,
        "device": device_name(device),
        "devices": jax.device_count(),
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": _versions(),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "matmul_precision": getattr(jax.config, MATMUL_PRECISION),
    }


def platform_notes(about: Record) -> list[str]:
    """Sentences about special features of this platform. ``about`` is an ``environment()``."""
    if about["platform"] == "cpu":
        return [
            "CPU: products of float32 are computed in float32. The device reports no memory statistics, so memory is "
            "what the compiler planned."
        ]
    precision = about["matmul_precision"]
    products = f"at {precision!r}"
    if precision in (None, "default"):
        products = "in bfloat16 passes" if about["platform"] == "tpu" else "in TF32 if the GPU has it"
    return [
        f"{about['device']}: float32 products are computed {products}, for the peaks and for the program. Set "
        "JAX_DEFAULT_MATMUL_PRECISION=highest in the environment for full float32."
    ]


def add_records(path: Path, records: Sequence[Record]) -> None:
    """Appends a line for each record. Existing lines are checked and kept. Several processes may do so at once.

    Raises:
        DataError: if the file has a line that is not a record. It is checked even if there is nothing to append.
        OSError: if the disk is full, or if the file is a pipe that no program reads. Then nothing is appended.
    """
    has_records = path.exists() and path.stat().st_size > 0
    if has_records:
        read_records(path)
    if not records:
        return
    content = "".join(json.dumps(finite_json(record)) + "\n" for record in records).encode()
    if has_records and not path.read_bytes().endswith(b"\n"):  # an editor may have left out the end of the last line
        content = b"\n" + content
    # Without a buffer this is one write at the end of the file, so that records of two processes do not mix.
    with open(path, "ab", buffering=0, opener=_without_waiting) as file:
        written = file.write(content)
        if written < len(content):
            file.truncate(file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_records(path: Path) -> list[Record]:
    """Reads the records of a file.

    Raises:
        DataError: if the file cannot be read, has no records, or has a line that is not a record. The error names it.
    """
    remedy = "Give a file that 'functional-nn bench --json' wrote."
    try:
        with open(path, encoding="utf-8", opener=regular_file) as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), "a file of JSON lines", error, remedy) from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}, line {number}", "a JSON object", shortened(line), remedy) from None
        if not isinstance(record, dict) or not {"date", "device", "what"} <= record.keys():
            raise DataError(f"{path}, line {number}", "a record with date, device and what", shortened(line), remedy)
        records.append(record)
    if not records:
        raise DataError(str(path), "at least one record", "an empty file", remedy)
    return records


def _without_waiting(path: str, flags: int) -> int:
    """An opener of files to write. A pipe that no program reads is an error: opening it would wait for ever."""
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "a pipe that no program reads", path) from None
        raise
    if os.name == "posix":
        os.set_blocking(descriptor, True)
    return descriptor


def key_of(record: Record) -> tuple[str, ...]:
    """The key that says what a record measures. Records with equal keys can be compared."""
    return tuple(json.dumps(finite_json(record.get(name, default))) for name, default in KEY.items())


def _commit() -> str | None:
    """The commit of the package's own repository; None if git does not track this file.

    An installed package may lie inside another repository, such as in the virtual environment of a project.
    """
    own_file = Path(__file__)
    try:
        _git(own_file.parent, "ls-files", "--error-unmatch", own_file.name)
        return _git(own_file.parent, "describe", "--always", "--dirty", "--abbrev=12") or None
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _versions() -> dict[str, str | None]:
    """The versions of Python and of libraries, and of the accelerator's libraries and driver, if there are any."""
    versions = {"python": platform.python_version()} | {name: installed_version(name) for name in LIBRARIES}
    found = {name: installed_version(name) for name in ACCELERATOR_LIBRARIES}
    with suppress(OSError):
        found["nvidia driver"] = DRIVER.read_text("ascii").strip()
    return versions | {name: number for name, number in found.items() if number}
