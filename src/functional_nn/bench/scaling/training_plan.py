"""What a train step on many devices would cost, from the rates of one device and of a network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

from functional_nn.bench.scaling.rates import Network, Rates
from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_count, check_flag, shown

MOST_DEVICES = 4096
"""Up to how many devices ``scaling_limits`` searches."""
WORTHWHILE = 0.5
"""Below this efficiency, more than half of the devices' time is lost."""


@dataclass(frozen=True)
class TrainingPlan:
    """The predicted cost of a train step on several devices, which share each batch.

    Args:
        devices: D, the number of devices.
        batch_size: B, the number of examples in a step of all devices.
        share: the examples of the device with the most: ⌈B / D⌉.
        compute_seconds: the seconds in which each device computes its share.
        all_reduce_seconds: the seconds in which the devices add up gradients, loss, and statistics of batch norms.
        epoch_seconds: the seconds of an epoch, without its evaluation.
        speedup: how many times more examples a second there are than on one device. If the batch is fixed, one device
            computes the same batch; if it grows, one device computes batches of B / D examples.
        memory: the bytes that each device needs, with its copy of the data.
    """

    devices: int
    batch_size: int
    share: int
    compute_seconds: float
    all_reduce_seconds: float
    epoch_seconds: float
    speedup: float
    memory: float

    @property
    def step_seconds(self) -> float:
        """The seconds of a step: first all devices compute, then they exchange."""
        return self.compute_seconds + self.all_reduce_seconds

    @property
    def efficiency(self) -> float:
        """The speedup divided by the number of devices: 1 if no time is lost."""
        return self.speedup / self.devices

    @property
    def all_reduce_share(self) -> float:
        """The share of a step in which devices exchange numbers."""
        return self.all_reduce_seconds / self.step_seconds

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        derived = ("step_seconds", "efficiency", "all_reduce_share")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


class ScalingLimits(NamedTuple):
    """Where more devices stop paying for a fixed batch.

    Args:
        fastest: the number of devices with the shortest step. With more of them, a step gets slower.
        worthwhile: the largest number of devices, of 1, 2, 4, 8, …, up to which the efficiency is at least one half.
    """

    fastest: int
    worthwhile: int


def training_plan(
    rates: Rates,
    batch_size: int,
    devices: int,
    network: Network,
    *,
    weak: bool = False,
    examples: int = 60_000,
    cores: int | None = None,
) -> TrainingPlan:
    """Predicts the cost of a train step of ``fit`` on ``devices`` devices.

    With t(b) for the measured seconds of a step of b examples, n₁, n₂, … for the bytes of the arrays that are added
    up, and R(n, D) for the seconds of an all-reduce, a step takes

        t(⌈B / D⌉) + Σᵢ R(nᵢ, D)

    Devices that share ``cores`` cores take turns: with c for the number of cores that the measured device had, the
    first term is multiplied by D · c / cores if this is above 1. A message then also waits until its receiver is given
    a core, so the latency of ``network`` has to be one that as many devices on these cores were seen to have.
    The formula assumes equal devices that wait for each other, and that an exchange begins when the gradient is
    complete.

    Args:
        rates: those of one device.
        batch_size: the examples of a step; with ``weak`` those of each device.
        devices: D, the number of devices.
        network: how fast the devices exchange numbers.
        weak: whether the batch grows with the number of devices (weak scaling). Otherwise it is fixed (strong scaling).
        examples: the training examples of an epoch.
        cores: the number of cores that all devices share, as on one CPU; None if each device has its own.

    Raises:
        InputError: for arguments of the wrong type, or numbers that are not positive integers.

    >>> rates = Rates("mlp", "CPU", 1, (1, 11), (0.002, 0.012), (1000,), 0, 0, 0)
    >>> network = Network(latency=0.0001, bandwidth=1e6)
    >>> plan = training_plan(rates, batch_size=20, devices=2, network=network)
    >>> plan.share, round(plan.compute_seconds, 6), round(plan.all_reduce_seconds, 6)
    (10, 0.011, 0.0012)
    >>> round(plan.efficiency, 3)  # one device takes 0.021 s
    0.861
    """
    _check(rates, batch_size, network, cores)
    check_count("devices", devices)
    check_count("examples", examples)
    check_flag("weak", weak)

    whole_batch = batch_size * devices if weak else batch_size
    share = math.ceil(whole_batch / devices)
    compute = _turns(rates, devices, cores) * rates.step(share)
    exchange = sum(network.all_reduce(size, devices) for size in rates.all_reduces)
    # One device computes steps of batch_size examples in both kinds of scaling.
    examples_a_second_alone = batch_size / (_turns(rates, 1, cores) * rates.step(batch_size))
    return TrainingPlan(
        devices=devices,
        batch_size=whole_batch,
        share=share,
        compute_seconds=compute,
        all_reduce_seconds=exchange,
        epoch_seconds=math.ceil(examples / whole_batch) * (compute + exchange),
        speedup=whole_batch / (compute + exchange) / examples_a_second_alone,
        memory=rates.state_bytes + share * rates.example_bytes + examples * rates.input_bytes,
    )


def scaling_limits(rates: Rates, batch_size: int, network: Network, *, cores: int | None = None) -> ScalingLimits:
    """Where more devices stop paying, if the batch is fixed: the fastest number, and the last worthwhile one.

    All numbers up to 4,096 devices are tried. More devices than examples are of no use.

    Args:
        rates, batch_size, network, cores: those of ``training_plan``.

    Raises:
        InputError: for arguments of the wrong type.

    >>> rates = Rates("mlp", "CPU", 1, (1, 11), (0.002, 0.012), (1000,), 0, 0, 0)
    >>> scaling_limits(rates, batch_size=32, network=Network(latency=0.0001, bandwidth=1e6))
    ScalingLimits(fastest=11, worthwhile=8)
    """
    _check(rates, batch_size, network, cores)
    numbers = range(1, min(batch_size, MOST_DEVICES) + 1)
    plans = {devices: training_plan(rates, batch_size, devices, network, cores=cores) for devices in numbers}
    fastest = min(plans, key=lambda devices: plans[devices].step_seconds)
    worthwhile = 1
    while 2 * worthwhile in plans and plans[2 * worthwhile].efficiency >= WORTHWHILE:
        worthwhile *= 2
    return ScalingLimits(fastest, worthwhile)


def _turns(rates: Rates, devices: int, cores: int | None) -> float:
    """How many times longer devices take that share cores than devices with their own ones."""
    return 1.0 if cores is None else max(1.0, devices * rates.cores / cores)


def _check(rates: object, batch_size: object, network: object, cores: object) -> None:
    if not isinstance(rates, Rates):
        raise InputError("rates", "Rates, such as measure_rates returns", shown(rates))
    check_count("batch_size", batch_size)
    if not isinstance(network, Network):
        raise InputError("network", "a Network(latency, bandwidth)", shown(network))
    if cores is not None:
        check_count("cores", cores)
