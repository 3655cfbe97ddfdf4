"""What a sweep of many models on many machines would cost, from the rates of one machine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from functional_nn.bench.scaling.rates import Rates, SweepRates
from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_count, shown

FILES_OF_A_PART = 2
"""The files of a part that are not a member's: ``sweep.json``, and the lock of its writer."""


@dataclass(frozen=True)
class SweepPlan:
    """The predicted cost of a sweep that is divided into parts, one for each machine.

    Args:
        members: the number of models.
        machines: the number of machines.
        members_of_a_part: the models that the machine with the most of them trains.
        seconds: from the start of all machines to the end of the last one.
        machine_seconds: the time of all machines together, the start included.
        files: the number of files in the folders of all parts. Each member has one.
        size: the bytes of these files.
        merge_seconds: the seconds in which one machine puts the parts together.
        merged_size: the bytes of the folder of the whole sweep.
    """

    members: int
    machines: int
    members_of_a_part: int
    seconds: float
    machine_seconds: float
    files: int
    size: float
    merge_seconds: float
    merged_size: float

    @property
    def members_a_second(self) -> float:
        """The models that all machines together train in a second."""
        return self.members / self.seconds

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        return {**asdict(self), "members_a_second": self.members_a_second}


def sweep_plan(
    rates: Rates,
    members: int,
    machines: int = 1,
    *,
    epochs: int = 10,
    examples: int = 60_000,
    cores: int | None = None,
) -> SweepPlan:
    """Predicts the cost of a sweep whose members differ in numbers only, such as learning rates and seeds.

    A machine with ⌈M / machines⌉ of the M members takes

        start + ⌈M / machines⌉ · (member · (epochs · examples) / (measured epochs · examples) + file)

    seconds. The machines do not wait for each other. Each one writes a file for each of its members, and a
    ``sweep.json`` that lists all members of the sweep.

    Args:
        rates: those of one machine, with the rates of a sweep.
        members: M, the number of models.
        machines: the number of machines.
        epochs: the epochs of each member.
        examples: the training examples of an epoch.
        cores: the number of cores that all "machines" share, if they are processes on one CPU; None if each is a
            machine of its own.

    Raises:
        InputError: if the rates are without a sweep, or a number is not a positive integer.

    >>> measured = SweepRates(1, 100, 5.0, 0.5, 0.1, 4000, 100, 0.01)
    >>> rates = Rates("mlp", "CPU", 1, (1, 2), (0.1, 0.2), (4,), 0, 0, 0, measured)
    >>> plan = sweep_plan(rates, members=1000, machines=10, epochs=2, examples=100)
    >>> round(plan.seconds)  # 5 + 100 · (2 · 0.5 + 0.1)
    115
    >>> plan.files, plan.size  # 1000 + 10 · 2; 1000 · 4000 + 10 · (1000 · 100)
    (1020, 5000000)
    """
    if not isinstance(rates, Rates) or not isinstance(rates.sweep, SweepRates):
        raise InputError("rates", "Rates with those of a sweep, such as measure_rates returns", shown(rates))
    check_count("members", members)
    check_count("machines", machines)
    check_count("epochs", epochs)
    check_count("examples", examples)
    if cores is not None:
        check_count("cores", cores)
    sweep = rates.sweep
    # Machines without a member do nothing.
    machines = min(machines, members)
    of_a_part = math.ceil(members / machines)
    turns = 1.0 if cores is None else max(1.0, machines * rates.cores / cores)
    work = epochs * examples / (sweep.epochs * sweep.examples)
    of_a_member = turns * (work * sweep.member_seconds + sweep.file_seconds)
    start = turns * sweep.start_seconds
    grid = members * sweep.grid_bytes
    return SweepPlan(
        members=members,
        machines=machines,
        members_of_a_part=of_a_part,
        seconds=start + of_a_part * of_a_member,
        machine_seconds=machines * start + members * of_a_member,
        files=members + machines * FILES_OF_A_PART,
        size=members * sweep.file_bytes + machines * grid,
        merge_seconds=members * sweep.merge_seconds,
        merged_size=members * sweep.file_bytes + grid,
    )
