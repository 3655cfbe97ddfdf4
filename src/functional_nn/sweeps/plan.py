"""Plans: how many members a sweep trains at a time, in parallel threads or together by ``vmap``, and the threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import TypeAlias

import jax

from functional_nn.core.errors import InputError, shown
from functional_nn.core.functions import settings_of_this_thread
from functional_nn.core.texts import suggest
from functional_nn.core.validation import check_count
from functional_nn.jaxprs.counts import flops_by_scope, uncounted
from functional_nn.jaxprs.walk import all_equations
from functional_nn.sweeps.member_batch import MemberBatch
from functional_nn.training.devices import Device, cores
from functional_nn.training.programs import CACHE, ProgramSpec, jax_settings, traced_step

PLANS = ("auto", "sequential", "map", "vmap", "vmap:N")

# When a CPU trains members together under the plan "auto". Decision 8 has the measurements.

MOST_FLOPS = 2**20
"""A step of such a member has at most this many floating-point operations. A CPU needs about as long to start the
operations of such a step as to compute them, and ``vmap`` starts them once for all members. So if several workers
share the members, a step of each has at least as many."""

MOST_WEIGHTS = 2**16
"""The members of a program have at most this many parameters in all. With the gradient and Adam's two averages they
take 1 MiB, which fits in the L2 cache of a core."""

FEWEST_MEMBERS = 8
"""Fewer members are trained alone, with exactly the bits of a run alone."""

FEWEST_TOGETHER, MOST_TOGETHER = 4, 128
"""The least and the greatest number of members in a program."""


@dataclass(frozen=True)
class Plan:
    """The number of worker threads, and the number of members that each of them trains at once.

    The devices are distributed among the workers; on a CPU there is one worker per core. If a worker trains one member
    at once, the member has the program and the bits of a run by itself. Several members at once are trained by one
    program, mapped over the members by ``vmap``.

    Args:
        workers: the number of worker threads.
        members: the number of members that each worker trains at once.

    >>> import functional_nn as fnn
    >>> print(fnn.sweeps.Plan(workers=2, members=1), "|", fnn.sweeps.Plan(1, 64))
    map, 2 at a time | vmap over 64
    """

    workers: int
    members: int

    def __str__(self) -> str:
        at_a_time = f", {self.workers} at a time" if self.workers > 1 else ""
        if self.members > 1:
            return f"vmap over {self.members}{at_a_time}"
        if self.workers > 1:
            return f"map{at_a_time}"
        return "one after another"


def on_cpu() -> bool:
    """Whether JAX computes on the CPU."""
    return jax.default_backend() == "cpu"


def most_workers() -> int:
    """The largest number of workers: one per device, and on a CPU one per core."""
    return max(jax.local_device_count(), cores() if on_cpu() else 1)


def maps_keys_alone() -> bool:
    """Whether ``vmap`` over keys draws the same numbers as each key alone. ``rbg`` uses only the first key."""
    return "rbg" not in str(jax.random.key(0).dtype)


def planned(plan: str | Plan, sizes: Sequence[int], specs: Sequence[ProgramSpec] = ()) -> Plan:
    """The plan for a sweep.

    ``"sequential"`` trains one member after another; ``"map"`` one per worker; ``"vmap"`` all, shared among devices;
    ``"vmap:16"`` trains sixteen at once. ``"auto"`` is ``"vmap"``, except with the random generator ``rbg``. On a CPU
    it is ``"map"``, unless the members are many and so small that ``vmap`` is faster.

    Args:
        plan: its name, or a ``Plan``.
        sizes: the numbers of members that have a program and the data in common.
        specs: the specifications of the programs of a single member, one for each static group. They say how small the
            members are. Without them, ``"auto"`` is ``"map"`` on a CPU.

    Raises:
        InputError: for an unknown plan; for a plan with ``vmap`` if JAX's random generator would not use each member's
            own key.
    """
    devices, workers, members = jax.local_device_count(), most_workers(), max(sizes)
    if isinstance(plan, str) and plan == "auto":
        if not maps_keys_alone():
            plan = "map"
        elif on_cpu():
            plan = Plan(workers, _together_on_cpu(min(sizes), workers, specs))
        else:
            plan = "vmap"
    if isinstance(plan, str):
        name, _, count = plan.partition(":")
        if plan == "sequential":
            plan = Plan(1, 1)
        elif plan == "map":
            plan = Plan(workers, 1)
        elif plan == "vmap":
            plan = Plan(devices, math.ceil(members / devices))
        elif name == "vmap" and count.isdecimal() and int(count) > 0:
            plan = Plan(workers, int(count))
    if not isinstance(plan, Plan):
        raise InputError("plan", "a known name, or a Plan(workers, members)", shown(plan), suggest(str(plan), PLANS))
    plan = Plan(check_count("plan.workers", plan.workers), check_count("plan.members", plan.members))
    if plan.members > 1 and not maps_keys_alone():
        expected = "one that runs each member alone, because the generator rbg uses one key for all mapped members"
        remedy = "Use the plan auto, or set jax_default_prng_impl to threefry2x32."
        raise InputError("plan", expected, str(plan), remedy)
    # More members at once, or more workers, than there is work for would only take memory.
    at_once = min(plan.members, members)
    batches = sum(math.ceil(size / at_once) for size in sizes)
    return Plan(min(plan.workers, batches), at_once)


def _together_on_cpu(members: int, workers: int, specs: Sequence[ProgramSpec]) -> int:
    """The number of members that a program on a CPU trains, for the plan ``"auto"``: 1 unless the members are small.

    Args:
        members: the smallest number of members that can be trained together.
        workers, specs: as for ``planned``.
    """
    if not specs or members < FEWEST_MEMBERS:
        return 1
    most, fewest_flops = MOST_TOGETHER, MOST_FLOPS
    for spec in specs:
        flops, weights = _size_of_step(spec)
        if flops > MOST_FLOPS:
            return 1
        fewest_flops = min(fewest_flops, int(flops))
        most = min(most, MOST_WEIGHTS // max(weights, 1))
    if most < FEWEST_TOGETHER:
        return 1
    # Workers share the members only if each then has as much to compute as to start. They get equally many programs,
    # and these have equally many members.
    enough = max(1, members * fewest_flops // MOST_FLOPS)
    workers = min(workers, enough, members // FEWEST_TOGETHER)
    return math.ceil(members / (workers * math.ceil(members / (workers * most))))


def _size_of_step(spec: ProgramSpec) -> tuple[float, int]:
    """The operations of a train step, infinite if ``vmap`` would not make it faster; and the number of parameters."""
    entry = CACHE.entry(("size of a step", *spec.values(), *jax_settings()))
    if entry.made is None:
        step, train_state = traced_step(spec)
        # Under vmap, convolutions were slower. What has no count, such as a call of Python, may not be mapped at all.
        has_convolution = any(equation.primitive.name == "conv_general_dilated" for equation in all_equations(step))
        flops = math.inf if has_convolution or uncounted(step) else flops_by_scope(step).total()
        entry.made = flops, sum(leaf.size for leaf in jax.tree.leaves(train_state.params))
    return entry.made


def fitting(plan: Plan, batch_bytes: int, limit: int) -> Plan:
    """The plan with fewer workers, or with fewer members at once, if memory has no room for more.

    Args:
        plan: the plan.
        batch_bytes: the bytes that the members of one worker need.
        limit: the bytes that the sweep may use.

    >>> fitting(Plan(4, 1), 300, 1000), fitting(Plan(1, 100), 4000, 1000)
    (Plan(workers=3, members=1), Plan(workers=1, members=25))
    """
    workers = max(1, min(plan.workers, limit // max(batch_bytes, 1)))
    # The memory of a batch is nearly proportional to its members.
    if batch_bytes <= limit:
        return Plan(workers, plan.members)
    return Plan(workers, max(1, plan.members * limit // batch_bytes))


Step: TypeAlias = tuple[MemberBatch, bool]
"""A batch that has run an epoch, and whether it is done."""


def in_threads(devices: Sequence[Device], batches: Sequence[MemberBatch]) -> Generator[Step, None, None]:
    """Trains batches of members in parallel threads, and yields after each epoch of a batch.

    XLA's programs release Python's lock while they run. Settings of JAX that hold in the caller's thread only, such as
    ``with jax.enable_x64(True)``, hold in these, too. If the caller stops iterating, as after Ctrl-C, the threads end
    after their current epoch.

    Args:
        devices: the device of each thread; several threads may share one.
        batches: the batches, each of which is trained up to its last epoch.
    """
    remaining = iter(batches)  # the threads share it: each takes the next one
    stop = threading.Event()
    # Each thread sends its steps, and at its end None, or the error that ended it.
    events: Queue[Step | BaseException | None] = Queue()
    settings = settings_of_this_thread()

    def work(device: Device) -> None:
        try:
            with settings():
                for batch in remaining:
                    if stop.is_set():
                        break
                    batch.begin(device)
                    while not batch.done and not stop.is_set():
                        batch.run_epoch()
                        events.put((batch, batch.done))
            events.put(None)
        except BaseException as error:
            events.put(error)

    # Daemons do not keep a process alive that ends without joining them, as after a second Ctrl-C.
    threads = [threading.Thread(target=work, args=(device,), daemon=True) for device in devices]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        stop.set()
        for thread in threads:
            thread.join()
