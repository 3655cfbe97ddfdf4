"""A measurement against an older one: the ratio of their times, with its spread, and whether it is a regression."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from functional_nn.bench.compare.records import key_of
from functional_nn.core.errors import DataError

LIMIT = 1.05
"""What a program may be slower by: compilers lay out the same program differently by as much."""
DRAWS = 2000


class Ratio(NamedTuple):
    """New time divided by old time, and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


class Comparison(NamedTuple):
    """A new record beside an old one.

    Args:
        what: what both measure.
        date: of the old one.
        time: the ratio of seconds.
        relative: the ratio of seconds in multiples of the product that was measured in turns with each: a machine that
            is busier now changes the first ratio, and this one little.
        same_device: whether device, number of cores and platform are the same.
    """

    what: str
    date: str
    time: Ratio
    relative: Ratio
    same_device: bool

    @property
    def verdict(self) -> str:
        """``slower`` or ``faster`` where both ratios are so beyond their spread and the limit, else ``level``."""
        if not self.same_device:
            return "another device"
        ratios = (self.time, self.relative)
        if all(ratio.low > LIMIT for ratio in ratios):
            return "slower"
        return "faster" if all(ratio.high < 1 / LIMIT for ratio in ratios) else "level"


def pairs(
    path: Path, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each new record with the last old one that measures the same; of a new one only the key is looked at.

    Raises:
        DataError: where no old one measures the same as any; ``path`` is the old ones' file.
    """
    last = {key_of(record): record for record in old}
    found = [(record, last[key_of(record)]) for record in new if key_of(record) in last]
    if not found:
        known = ", ".join(sorted({described(record) for record in last.values()}))
        expected = f"a record of {' or '.join(map(described, new)) or 'a program'}"
        raise DataError(str(path), expected, f"records of {known}", "Give the flags that the old ones were made with.")
    return found


def against(path: Path, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[Comparison]:
    """Each new record beside the last old one that measures the same.

    Raises:
        DataError: as ``pairs`` does, and for a record without times.
    """
    return [_compared(path, record, before) for record, before in pairs(path, old, new)]


def described(record: dict[str, Any]) -> str:
    """What a record measures, in words."""
    members = f" of {record['members']}" if record.get("members", 1) != 1 else ""
    model, what, batch_size, precision = (record.get(name) for name in ("model", "what", "batch_size", "precision"))
    return f"{model} {what}{members}, batch {batch_size}, {precision}"


def ratio(new: Sequence[float], old: Sequence[float]) -> Ratio:
    """The ratio of medians, with an interval from drawing rounds anew, with replacement, on both sides.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    random = np.random.default_rng(0)
    sides = (np.asarray(side, float) for side in (new, old))
    drawn = [np.median(random.choice(side, (DRAWS, len(side))), axis=1) for side in sides]
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    return Ratio(statistics.median(new) / statistics.median(old), float(low), float(high))


def _compared(path: Path, new: dict[str, Any], old: dict[str, Any]) -> Comparison:
    try:
        (time_new, relative_new), (time_old, relative_old) = _rounds(new), _rounds(old)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(str(path), "records with the times of their rounds", f"one without ({error!r})") from None
    same = all(new.get(name) == old.get(name) for name in ("platform", "device", "cores"))
    time, relative = ratio(time_new, time_old), ratio(relative_new, relative_old)
    return Comparison(described(new), str(old["date"]), time, relative, same)


def _rounds(record: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Each round's seconds, and in multiples of the reference's."""
    own = [float(seconds) for seconds in (record["donated"] or record["steady"])["round_medians"]]
    reference = record["reference"]["round_medians"]
    return own, [seconds / beside for seconds, beside in zip(own, reference, strict=True)]
