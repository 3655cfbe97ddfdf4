"""Records of measurements as JSON lines, and their comparison with older records."""

from __future__ import annotations

import datetime
import errno
import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from functional_nn.core.errors import DataError, reading, shortened, versions
from functional_nn.storage.arrays import listed
from functional_nn.storage.files import (
    MOST_BYTES,
    JsonValue,
    device_at,
    finite_json,
    opened_device,
    parsed,
    read_file,
    regular_file,
)
from functional_nn.training.devices import cores, device_name

Record: TypeAlias = Mapping[str, JsonValue]
"""The results of one measurement by name, ready for JSON."""

MATMUL_PRECISION = "jax_default_matmul_precision"
MOST_ROUNDS = 10_000
"""A record with more rounds is not compared."""
OF_ACCELERATORS = ("jax-cuda", "nvidia-", "libtpu")
"""How the names of accelerators' libraries begin."""
DRIVER = Path("/sys/module/nvidia/version")
"""On Linux, the file with the version of NVIDIA's driver."""
KEY = ("model", "hidden", "what", "batch_size", "precision", "members", "target", "steps")
"""Two records measure the same thing if they are equal in these entries. ``target`` is the chip, if nothing was run."""


def environment() -> dict[str, object]:
    """The date, commit, device, cores, load, versions and settings of a measurement.

    ``commit`` is the commit of the package's checkout, or None for an installed package. If ``matmul_precision`` is
    None, the platform's default applies to float32 products: TF32 on many GPUs, bfloat16 passes on TPUs, float32 on a
    CPU.
    """
    device = jax.devices()[0]
    of_accelerators = {one.name: one.version for one in distributions() if (one.name or "").startswith(OF_ACCELERATORS)}
    with suppress(OSError):
        of_accelerators["nvidia driver"] = DRIVER.read_text("ascii").strip()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "platform": device.platform,
        "device": device_name(device),
        "devices": jax.device_count(),
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions() | of_accelerators,
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "matmul_precision": getattr(jax.config, MATMUL_PRECISION),
    }


def platform_note(about: Record) -> str:
    """What is special about this platform, in words. ``about`` is an ``environment()``."""
    if about["platform"] == "cpu":
        about_memory = "The device reports no memory statistics, so memory is what the compiler planned."
        return f"CPU: products of float32 are computed in float32. {about_memory}"
    precision = about["matmul_precision"]
    products = f"at {precision!r}"
    if precision in (None, "default"):
        products = "in bfloat16 passes" if about["platform"] == "tpu" else "in TF32 if the GPU has it"
    remedy = "Set JAX_DEFAULT_MATMUL_PRECISION=highest in the environment for full float32."
    return f"{about['device']}: float32 products are computed {products}, for the peaks and for the program. {remedy}"


def add_records(path: Path, records: Sequence[Record]) -> None:
    """Appends a line for each record. Existing lines are checked and kept. Several processes may do so at once.

    Raises:
        DataError: if the file has a line that is not a record. It is checked even if there is nothing to append.
        OSError: if the disk is full. Then nothing is appended.
    """
    content = "".join(json.dumps(finite_json(record)) + "\n" for record in records).encode()
    if (device := device_at(path)) is not None:
        with opened_device(path, device) as file:
            file.write(content)
        return
    flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if records else 0)

    def opener(name: str, _: int) -> int:
        return regular_file(name, flags, follow_links=False, most=MOST_BYTES)

    # What is checked is the file that is written to, whatever gets its name meanwhile. Without a buffer, there is one
    # write at the end of the file, so that records of two processes do not mix.
    with suppress(FileNotFoundError), open(path, "a+b", buffering=0, opener=opener) as file:
        file.seek(0)
        if known := file.read():
            _parsed_records(path, known)
        if content and file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # an editor may have left out the end of the last line
                content = b"\n" + content
        written = file.write(content)
        if written < len(content):
            file.truncate(file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_records(path: Path) -> list[Record]:
    """Reads the records of a file.

    Raises:
        DataError: if the file cannot be read, has no records, or has a line that is not a record. The error names it.
    """
    with reading(path, "a file of JSON lines", OF_BENCH):
        return _parsed_records(path, read_file(path, follow_links=True))


OF_BENCH = "Give a file that 'functional-nn bench --json' wrote."


def _parsed_records(path: Path, content: bytes) -> list[Record]:
    with reading(path, "a file of JSON lines", OF_BENCH):
        lines = content.decode().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        record = None
        with suppress(ValueError, RecursionError):
            record = parsed(line.encode())
        if not isinstance(record, dict) or not {"date", "device", "what"} <= record.keys():
            expected = "a JSON object with date, device and what"
            raise DataError(f"{path}, line {number}", expected, shortened(line), OF_BENCH)
        records.append(record)
    if not records:
        raise DataError(str(path), "at least one record", "an empty file", OF_BENCH)
    return records


def key_of(record: Record) -> tuple[str, ...]:
    """The key that says what a record measures. Records with equal keys can be compared."""
    return tuple(json.dumps(finite_json(record.get(name))) for name in KEY)


def _commit() -> str | None:
    """The commit of the package's own checkout; None for an installed package.

    An installed package may lie inside another repository, such as in the virtual environment of a project. git is not
    asked there: it runs the programs that a repository's settings name, and a stranger may have made them.
    """
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return None
    command = ("git", "-c", "core.fsmonitor=false", "describe", "--always", "--dirty", "--abbrev=12")
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


LIMIT = 1.05
"""A smaller ratio is not a regression: two compilations of the same program can differ by this much."""
DRAWS = 2000


class Ratio(NamedTuple):
    """New time divided by old time, and the 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


class RecordComparison(NamedTuple):
    """A new record compared with an old one.

    Args:
        what: a text that says what both records measure.
        date: the old record's date.
        time: the ratio of the seconds.
        relative: the same ratio, after each time was divided by the time of the matrix product that took turns with the
            program. A busier machine changes ``time``, but hardly this ratio.
        other: why they are not judged: "another device" (platform, device, and on a CPU the number of cores), or
            "another precision of products" of float32 (``jax_default_matmul_precision``); otherwise empty.
        differences: the settings and versions that differ, such as ``jax: 0.10.2, was 0.10.1``.
    """

    what: str
    date: str
    time: Ratio
    relative: Ratio
    other: str = ""
    differences: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``slower`` or ``faster`` if the intervals of both ratios are beyond the limit, ``unclear`` or ``level``.

        It is ``unclear`` if one interval is so wide that it includes both limits, unless the other one lies between
        them.
        """
        if self.other:
            return self.other
        ratios = (self.time, self.relative)
        if all(ratio.low > LIMIT for ratio in ratios):
            return "slower"
        if all(ratio.high < 1 / LIMIT for ratio in ratios):
            return "faster"
        is_wide = any(ratio.low < 1 / LIMIT and ratio.high > LIMIT for ratio in ratios)
        is_level = any(ratio.low >= 1 / LIMIT and ratio.high <= LIMIT for ratio in ratios)
        return "unclear" if is_wide and not is_level else "level"


def check_matching(path: Path, old: Sequence[Record], new: Sequence[Record]) -> None:
    """Checks that a new record measures the same as an old one. New records need only the names in ``KEY``.

    Raises:
        DataError: if there is no such pair. The error names ``path``, the file of the old records.
    """
    if len(without_match(old, new)) < len(new):
        return
    known = listed(sorted({shortened(describe(record)) for record in old}))
    expected = f"a record of {' or '.join(map(describe, new))}"
    remedy = "Give the flags of the old records, and records of this version."
    raise DataError(str(path), expected, f"records of {known}", remedy)


def without_match(old: Sequence[Record], new: Sequence[Record]) -> list[str]:
    """Describes the new records that measure what no old record measures."""
    known = {key_of(record) for record in old}
    return [describe(record) for record in new if key_of(record) not in known]


def compare_records(path: Path, old: Sequence[Record], new: Sequence[Record]) -> list[RecordComparison]:
    """Compares each new record with the last old record of the same key. Without such an old record, it is left out.

    Raises:
        DataError: if a record has no times.
    """
    last = {key_of(record): record for record in old}
    return [_compare(path, record, last[key_of(record)]) for record in new if key_of(record) in last]


def describe(record: Record) -> str:
    """Describes in words what a record measures."""
    members = f" of {record['members']}" if record.get("members", 1) != 1 else ""
    model, what, batch_size, precision = (record.get(name) for name in ("model", "what", "batch_size", "precision"))
    return f"{model} {what}{members}, batch {batch_size}, {precision}"


def ratio(new: Sequence[float], old: Sequence[float]) -> Ratio:
    """The ratio of the medians with its bootstrap interval: both samples are resampled with replacement.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    random = np.random.default_rng(0)

    def medians(times: Sequence[float]) -> np.ndarray:
        samples = random.choice(np.asarray(times, float), (DRAWS, len(times)))
        return np.median(samples, axis=1)

    # The two samples are independent, so their resampled medians are paired by chance.
    low, high = np.quantile(medians(new) / medians(old), (0.025, 0.975))
    return Ratio(statistics.median(new) / statistics.median(old), float(low), float(high))


def _compare(path: Path, new: Record, old: Record) -> RecordComparison:
    try:
        (time_new, relative_new), (time_old, relative_old) = _round_times(new), _round_times(old)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(str(path), "records with the times of their rounds", f"one without ({error!r})") from None
    # The cores of the host hardly matter to a program on an accelerator.
    device = ("platform", "device", "cores") if new.get("platform") == "cpu" else ("platform", "device")
    settings, before = _settings(new), _settings(old)
    differing = [name for name in (settings | before) if settings.get(name) != before.get(name)]
    other = "another precision of products" if "matmul_precision" in differing else ""
    if any(new.get(name) != old.get(name) for name in device):
        other = "another device"
    ratios = ratio(time_new, time_old), ratio(relative_new, relative_old)
    changes = [
        f"{shortened(name)}: {settings.get(name) or 'none'}, was {shortened(before.get(name) or 'none')}"
        for name in differing
    ]
    return RecordComparison(describe(new), str(old["date"]), *ratios, other, tuple(changes))


def _settings(record: Record) -> dict[str, JsonValue]:
    """The settings and versions that can change a time. The version of this package is what is compared."""
    settings = {name: record.get(name) for name in ("cores", "devices", "xla_flags", "matmul_precision")}
    if settings["matmul_precision"] is None:
        settings["matmul_precision"] = "default"
    versions = record.get("versions")
    others = {} if not isinstance(versions, dict) else versions
    return settings | {name: number for name, number in others.items() if name != "functional-nn"}


def _round_times(record: Record) -> tuple[list[float], list[float]]:
    """The seconds of each round, and these seconds divided by the seconds of the reference."""
    timing = record["donated"] or record["steady"]
    seconds, reference = timing["round_medians"], record["reference"]["round_medians"]
    if not 1 <= len(seconds) <= MOST_ROUNDS or not all(1e-18 < second < 1e18 for second in (*seconds, *reference)):
        raise ValueError(f"1 to {MOST_ROUNDS:,} rounds of some seconds are expected")
    return seconds, [own / beside for own, beside in zip(seconds, reference, strict=True)]
