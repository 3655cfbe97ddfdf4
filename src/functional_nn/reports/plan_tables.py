"""Text tables of plans for many devices and of sweeps, at most 80 characters wide."""

from __future__ import annotations

from collections.abc import Sequence

from functional_nn.bench.scaling.sweep_plan import SweepPlan
from functional_nn.bench.scaling.training_plan import ScalingLimits, TrainingPlan
from functional_nn.bench.units import in_bytes, in_seconds
from functional_nn.core.counts import counted
from functional_nn.core.texts import aligned

UNITS_OF_TIME = ((86_400, "days"), (3600, "h"), (60, "min"))


def training(plans: Sequence[TrainingPlan]) -> str:
    """A row for each number of devices: the times of a step and of an epoch, efficiency, and memory."""
    rows = [("devices", "batch", "a step", "all-reduce", "an epoch", "speedup", "efficiency", "memory")]
    for plan in plans:
        rows.append(
            (
                f"{plan.devices:,}",
                f"{plan.batch_size:,}",
                in_seconds(plan.step_seconds),
                f"{plan.all_reduce_share:.0%}",
                in_seconds(plan.epoch_seconds),
                f"{plan.speedup:.3g}",
                f"{plan.efficiency:.1%}",
                in_bytes(plan.memory),
            )
        )
    return "\n".join(aligned(rows))


def limits(found: ScalingLimits) -> str:
    """Where more devices stop paying, in a sentence."""
    if found.fastest == 1:
        return "One device is the fastest: a step on two is already slower."
    worthwhile = counted(found.worthwhile, "device")
    return (
        f"A step is shortest on {counted(found.fastest, 'device')}. "
        f"At least half of the devices' time is used on up to {worthwhile}."
    )


def sweeps(plans: Sequence[SweepPlan]) -> str:
    """A row for each number of machines: time until the end, time of all machines together, files, and bytes."""
    rows = [("machines", "it takes", "of all", "models/s", "files", "bytes", "merge")]
    for plan in plans:
        rows.append(
            (
                f"{plan.machines:,}",
                duration(plan.seconds),
                duration(plan.machine_seconds),
                f"{plan.members_a_second:.3g}",
                f"{plan.files:,}",
                in_bytes(plan.size),
                duration(plan.merge_seconds),
            )
        )
    return "\n".join(aligned(rows))


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are at least two.

    >>> duration(90), duration(400), duration(20_000), duration(1e6)
    ('90.0 s', '6.7 min', '5.6 h', '11.6 days')
    """
    for length, unit in UNITS_OF_TIME:
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return in_seconds(seconds)
