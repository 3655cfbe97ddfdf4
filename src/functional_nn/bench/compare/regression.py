"""Comparison of a measurement with an older record: ratios of times with intervals, and a verdict."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from functional_nn.bench.compare.records import Record, key_of
from functional_nn.core.errors import DataError
from functional_nn.storage.files import JsonValue

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
        same_device: whether platform and device are the same, and on a CPU the number of cores.
        same_products: whether products of float32 have the same precision (``jax_default_matmul_precision``).
        differences: the settings and versions that differ, such as ``jax: 0.10.2, was 0.10.1``.
    """

    what: str
    date: str
    time: Ratio
    relative: Ratio
    same_device: bool
    same_products: bool = True
    differences: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``slower`` or ``faster`` if the intervals of both ratios are beyond the limit, ``unclear`` or ``level``.

        It is ``unclear`` if one interval is so wide that it includes both limits, unless the other one lies between
        them.
        """
        if not self.same_device:
            return "another device"
        if not self.same_products:
            return "another precision of products"
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
    known = ", ".join(sorted({describe(record) for record in old}))
    expected = f"a record of {' or '.join(map(describe, new)) or 'a program'}"
    remedy = "Give the flags of the old records, and records of this version."
    if not new:
        remedy = "Modes are not compared: name other programs with --what."
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
    return RecordComparison(
        describe(new),
        str(old["date"]),
        ratio(time_new, time_old),
        ratio(relative_new, relative_old),
        same_device=all(new.get(name) == old.get(name) for name in device),
        same_products=_settings(new)["matmul_precision"] == _settings(old)["matmul_precision"],
        differences=tuple(_differences(_settings(new), _settings(old))),
    )


def _settings(record: Record) -> dict[str, JsonValue]:
    """The settings and versions that can change a time. The version of this package is what is compared."""
    settings = {name: record.get(name) for name in ("cores", "devices", "xla_flags", "matmul_precision")}
    if settings["matmul_precision"] is None:
        settings["matmul_precision"] = "default"
    versions = record.get("versions")
    others = {} if not isinstance(versions, dict) else versions
    return settings | {name: number for name, number in others.items() if name != "functional-nn"}


def _differences(new: Mapping[str, JsonValue], old: Mapping[str, JsonValue]) -> Iterator[str]:
    for name in dict.fromkeys((*new, *old)):
        if new.get(name) != old.get(name):
            yield f"{name}: {_or_none(new.get(name))}, was {_or_none(old.get(name))}"


def _or_none(value: JsonValue) -> str:
    return "none" if value is None else str(value)


def _round_times(record: Record) -> tuple[list[float], list[float]]:
    """The seconds of each round, and these seconds divided by the seconds of the reference."""
    timing = record["donated"] or record["steady"]
    seconds = [float(median) for median in timing["round_medians"]]
    reference = record["reference"]["round_medians"]
    return seconds, [own / beside for own, beside in zip(seconds, reference, strict=True)]
