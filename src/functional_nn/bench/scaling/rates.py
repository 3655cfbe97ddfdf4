"""Rates of one device and of a network, from which the cost of many devices is computed."""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from functional_nn.core.errors import DataError, InputError
from functional_nn.core.validation import check_choice, check_count, check_number, shown
from functional_nn.storage.files import check_path, write_json


def _sequence(argument: str, value: object) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(argument, "a tuple of numbers", shown(value))
    return value


def _check_positive(argument: str, value: object, unit: str) -> None:
    check_number(argument, value, f"{unit}, a number above 0", lambda number: 0 < number < math.inf)


ALGORITHMS = ("ring", "halving")


@dataclass(frozen=True)
class Network:
    """How fast devices exchange numbers: α and β of Hockney's model, in which n bytes take α + n/β seconds.

    An all-reduce adds up arrays of n bytes that D devices have, and gives each device the sum. Its seconds are

    - ``ring``: 2(D-1) α + 2(D-1)/D n/β. Each device sends 2(D-1) times a D-th of the array to its neighbor.
    - ``halving``: 2⌈log₂ D⌉ α + 2(D-1)/D n/β. Pairs of devices exchange halves, then quarters, and so on, and back.

    Args:
        latency: α, the seconds of a message without contents.
        bandwidth: β, the bytes that a device sends in a second.
        algorithm: ``ring`` or ``halving``.

    Raises:
        InputError: if a number is not positive, or the algorithm is unknown.

    >>> Network(latency=0.001, bandwidth=1e6).all_reduce(1000, devices=2)
    0.003
    >>> Network(latency=0.001, bandwidth=1e6).all_reduce(1000, devices=1)
    0.0

    References:
        Hockney 1994, "The communication challenge for MPP"; Thakur, Rabenseifner, Gropp 2005, "Optimization of
        collective communication operations in MPICH".
    """

    latency: float
    bandwidth: float
    algorithm: str = "ring"

    def __post_init__(self):
        _check_positive("latency", self.latency, "seconds")
        _check_positive("bandwidth", self.bandwidth, "bytes a second")
        check_choice("algorithm", self.algorithm, ALGORITHMS)

    def all_reduce(self, size: float, devices: int) -> float:
        """The seconds of one all-reduce of an array of ``size`` bytes; 0 for one device.

        Args:
            size: n, the bytes of the array.
            devices: D.

        Raises:
            InputError: if ``size`` is negative, or ``devices`` is not a positive integer.
        """
        size = check_number("size", size, "bytes, a number not below 0", lambda number: 0 <= number < math.inf)
        devices = check_count("devices", devices)
        if devices == 1:
            return 0.0
        messages = 2 * math.ceil(math.log2(devices)) if self.algorithm == "halving" else 2 * (devices - 1)
        return messages * self.latency + 2 * (devices - 1) / devices * size / self.bandwidth


NETWORKS = {
    "ethernet-10g": Network(20e-6, 1.25e9),
    "ethernet-100g": Network(10e-6, 12.5e9),
    "infiniband-400g": Network(2e-6, 50e9),
}
"""Networks of clusters by name. The numbers are assumed: the nominal bandwidth, and a typical latency."""


@dataclass(frozen=True)
class SweepRates:
    """What a sweep needs for each of its members on one machine.

    Args:
        epochs, examples: the epochs of a member and the training examples of an epoch, with which it was measured.
        start_seconds: the seconds to compile the programs, once on each machine.
        member_seconds: the seconds of the whole machine for a member. If it trains several at a time, it is the time
            from the end of one member to the end of the next.
        file_seconds: the seconds to write the file of a member.
        file_bytes: the bytes of this file.
        grid_bytes: the bytes that a member needs in ``sweep.json``, which lists all members.
        merge_seconds: the seconds of ``merge`` for a member.

    Raises:
        InputError: if a number is negative, or ``epochs`` or ``examples`` is not a positive integer.
    """

    epochs: int
    examples: int
    start_seconds: float
    member_seconds: float
    file_seconds: float
    file_bytes: float
    grid_bytes: float
    merge_seconds: float

    def __post_init__(self):
        for name, value in asdict(self).items():
            if name in ("epochs", "examples"):
                check_count(name, value)
            else:
                check_number(name, value, "a number not below 0", lambda number: 0 <= number < math.inf)


@dataclass(frozen=True)
class Rates:
    """What was measured on one device, for one model. ``measure_rates`` measures it.

    Args:
        model: the name of the model.
        device: the name of the device.
        cores: the number of cores that the device computed with, if it is a CPU; else 1.
        batch_sizes: the measured numbers of examples in a step, in rising order.
        step_seconds: the seconds of a train step with each of these batch sizes.
        all_reduces: the bytes of each array that devices add up in a step: the gradient of each parameter, the loss,
            and the statistics of batch norms.
        state_bytes: the bytes in memory that do not depend on the batch: parameters and optimizer state before and
            after a step.
        example_bytes: the bytes of scratch memory for each example of a batch.
        input_bytes: the bytes of one example in the data set, of which each device has a copy.
        sweep: the rates of a sweep; None if they were not measured.

    Raises:
        InputError: if the batch sizes do not rise, if there is not one time for each, or if a number is negative.

    >>> rates = Rates("mlp", "CPU", 1, (1, 11), (0.002, 0.012), (4000,), 0, 0, 0)
    >>> rates.fixed_seconds, rates.example_seconds
    (0.001, 0.001)
    >>> rates.step(6), rates.step(21)
    (0.007, 0.022)
    """

    model: str
    device: str
    cores: int
    batch_sizes: Sequence[int]
    step_seconds: Sequence[float]
    all_reduces: Sequence[int]
    state_bytes: float
    example_bytes: float
    input_bytes: float
    sweep: SweepRates | None = None

    def __post_init__(self):
        check_count("cores", self.cores)
        sizes = [check_count("batch_sizes", size) for size in _sequence("batch_sizes", self.batch_sizes)]
        if len(sizes) < 2 or sizes != sorted(set(sizes)):
            raise InputError("batch_sizes", "two or more different sizes in rising order", shown(self.batch_sizes))
        if len(_sequence("step_seconds", self.step_seconds)) != len(sizes):
            raise InputError("step_seconds", f"a time for each of {len(sizes)} batch sizes", shown(self.step_seconds))
        for seconds in self.step_seconds:
            _check_positive("step_seconds", seconds, "seconds")
        for size in _sequence("all_reduces", self.all_reduces):
            check_count("all_reduces", size)
        for name in ("state_bytes", "example_bytes", "input_bytes"):
            check_number(name, getattr(self, name), "a number not below 0", lambda number: 0 <= number < math.inf)
        if not isinstance(self.sweep, SweepRates | None):
            raise InputError("sweep", "SweepRates, or None", shown(self.sweep))

    @property
    def example_seconds(self) -> float:
        """The seconds that each further example adds to a step, between the smallest and the largest batch."""
        added = self.step_seconds[-1] - self.step_seconds[0]
        return max(added / (self.batch_sizes[-1] - self.batch_sizes[0]), 0.0)

    @property
    def fixed_seconds(self) -> float:
        """The part of a step that does not depend on the batch, such as the optimizer, by the smallest batch."""
        return max(self.step_seconds[0] - self.batch_sizes[0] * self.example_seconds, 0.0)

    def step(self, examples: int) -> float:
        """The seconds of a train step of one device, on a straight line between the two nearest batch sizes.

        Outside of the measured sizes, the line through the two nearest ones goes on. A step of fewer examples than
        measured takes no less time than half of the shortest measured one.
        """
        sizes, seconds = self.batch_sizes, self.step_seconds
        right = min(max(bisect_left(sizes, examples), 1), len(sizes) - 1)
        slope = (seconds[right] - seconds[right - 1]) / (sizes[right] - sizes[right - 1])
        return max(seconds[right - 1] + slope * (examples - sizes[right - 1]), min(seconds) / 2)

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rates:
        """The rates that ``to_dict`` gave, also after JSON has made lists of the tuples."""
        lists = {name: tuple(values[name]) for name in ("batch_sizes", "step_seconds", "all_reduces")}
        given: dict[str, Any] = {**values, **lists}
        if given.get("sweep") is not None:
            given["sweep"] = SweepRates(**given["sweep"])
        return cls(**given)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the rates as JSON, which ``load_rates`` reads."""
        write_json(check_path("path", path), self.to_dict())


def load_rates(path: str | os.PathLike[str]) -> Rates:
    """Reads the rates that ``Rates.save`` or ``functional-nn plan --save-rates`` wrote.

    Raises:
        DataError: if the file is missing or is not such a file.
    """
    path = check_path("path", path)
    expected = "a file of rates that functional-nn plan --save-rates wrote"
    try:
        return Rates.from_dict(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise DataError(str(path), expected, error.strerror) from None
    except KeyError as error:
        raise DataError(str(path), expected, f"a file without {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(str(path), expected, f"another file ({error})") from None
