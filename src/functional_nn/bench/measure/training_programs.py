"""The compiled programs of ``fit`` and of ``sweep``, with arguments to measure them.

They are made from a ``ProgramSpec`` in the same way as by ``fit`` and ``sweep``: from the same functions, with the same
compile options. A sweep uses the plan that ``sweep`` chooses on this device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from jax.stages import Compiled

from functional_nn.bench.measure.compiled_program import CompiledProgram, MeasuredCall, compile_empty_program
from functional_nn.bench.measure.timing import clocked
from functional_nn.bench.measure.workloads import MeasuredNetwork
from functional_nn.data.dataset import Split
from functional_nn.jaxprs.xla_options import compiling_anew
from functional_nn.sweeps.plan import planned
from functional_nn.sweeps.static_groups import member_spec
from functional_nn.training.devices import computing_on, put_everywhere
from functional_nn.training.precision import as_precision
from functional_nn.training.programs import CompiledPrograms, ProgramSpec
from functional_nn.training.recipe import Hyperparameters, Recipe

STEPS = 32
"""The number of train steps in the measured program: an epoch of this many full batches."""
TRAIN_STATE = 1
"""The number of the train state among the program's arguments. ``fit`` and ``sweep`` do not donate it: if an epoch
produces a non-finite value, it is rerun from the state before."""


def fit_call(network: MeasuredNetwork, batch_size: int, precision: str, devices: int = 1) -> MeasuredCall:
    """The program that ``fit`` runs in each epoch for all full batches, which ``devices`` share."""
    split = _random_split(network, batch_size)
    spec = fit_spec(network, batch_size, precision, devices)
    with compiling_anew():
        seconds, programs = clocked(lambda: CompiledPrograms(spec))
        key, split = put_everywhere((jax.random.key(0), split), programs.sharding)
        arguments = _epoch_arguments(programs, {}, key, split)
        empty = compile_empty_program(arguments)
    program = _with_first_run(programs, arguments, seconds)
    return MeasuredCall(
        program,
        arguments,
        run=lambda: program.compiled(*arguments),
        run_empty=lambda: empty(*arguments),
        kept=(TRAIN_STATE,),
    )


def sweep_call(network: MeasuredNetwork, batch_size: int, precision: str, members: int) -> MeasuredCall:
    """An epoch of a sweep over learning rates, with the plan that ``sweep`` chooses by default.

    On a CPU each member has its own execution of the program, and threads run several of them at the same time. On an
    accelerator one execution trains many members, mapped by ``vmap``.
    """
    plan = planned("auto", members)
    mapped = plan.members if plan.members > 1 else None
    device_count = min(plan.workers, jax.local_device_count())
    on_devices = _sweep_executions(network, batch_size, precision, mapped, device_count, plan.workers)
    # All members of one device do the same work, so they share their arguments. Devices take turns, as in a sweep.
    count = math.ceil(members / plan.members)
    executions = [on_devices[number % len(on_devices)] for number in range(count)]
    threads = ThreadPoolExecutor(plan.workers)
    first = on_devices[0]
    return MeasuredCall(
        _with_first_run(first.programs, first.arguments, sum(one.compile_seconds for one in on_devices)),
        first.arguments,
        run=lambda: list(threads.map(_Execution.run, executions)),
        run_empty=lambda: list(threads.map(_Execution.run_empty, executions)),
        executions=count,
        kept=(TRAIN_STATE,),
        program_copies=min(len(on_devices), count),
    )


@lru_cache(maxsize=1)
def _sweep_executions(
    network: MeasuredNetwork, batch_size: int, precision: str, mapped: int | None, device_count: int, workers: int
) -> tuple[_Execution, ...]:
    """The programs of a sweep on each device.

    The latest programs are cached. On a CPU, all sweeps with at least as many members as cores use the same programs.
    """
    learning_rate = np.asarray(network.learning_rate, as_precision(precision).parameters)
    rates = learning_rate if mapped is None else np.full(mapped, learning_rate)
    split = _random_split(network, batch_size)
    spec = sweep_spec(network, batch_size, precision, mapped, workers)
    executions = []
    with compiling_anew():
        for device in jax.local_devices()[:device_count]:
            with computing_on(device):
                seconds, programs = clocked(lambda: CompiledPrograms(spec))
            hyperparameters = jax.device_put({"learning_rate": rates}, device)
            keys, device_split = jax.device_put((_keys(mapped), split), device)
            arguments = _epoch_arguments(programs, hyperparameters, keys, device_split)
            executions.append(_Execution(programs, arguments, compile_empty_program(arguments), seconds))
    return tuple(executions)


def fit_spec(network: MeasuredNetwork, batch_size: int, precision: str, devices: int = 1) -> ProgramSpec:
    """The specification of the programs of ``fit``, for an epoch of ``STEPS`` batches that ``devices`` share."""
    recipe = _recipe(network, network.learning_rate)
    shapes = _data_shapes(network, batch_size)
    return ProgramSpec(recipe, batch_size, as_precision(precision), shapes, devices=devices)


def sweep_spec(
    network: MeasuredNetwork, batch_size: int, precision: str, mapped: int | None, workers: int = 1
) -> ProgramSpec:
    """The same for a sweep over learning rates. ``workers`` threads run the programs at the same time.

    ``mapped`` members are trained by one program; None: one member.
    """

    def make_recipe(hyperparameters: Hyperparameters) -> Recipe:
        return _recipe(network, hyperparameters["learning_rate"])

    return member_spec(
        make_recipe,
        batch_size,
        as_precision(precision),
        _data_shapes(network, batch_size),
        ("learning_rate",),
        workers=workers,
        members=mapped,
    )


class _Execution(NamedTuple):
    """The programs on one device, and the arguments of an execution there."""

    programs: CompiledPrograms
    arguments: tuple[object, ...]
    empty: Compiled
    compile_seconds: float

    def run(self) -> None:
        jax.block_until_ready(self.programs.full_batches(*self.arguments))

    def run_empty(self) -> None:
        jax.block_until_ready(self.empty(*self.arguments))


def _recipe(network: MeasuredNetwork, learning_rate: float | jax.Array) -> Recipe:
    return Recipe(network.trained_net, network.loss, network.make_optimizer(learning_rate))


def _data_shapes(network: MeasuredNetwork, batch_size: int) -> Split:
    """The shapes and types of the examples for an epoch. They are bytes, like the images of a data set."""
    examples = STEPS * batch_size
    x = jax.ShapeDtypeStruct((examples, *network.in_shape), np.uint8)
    labels = jax.ShapeDtypeStruct((examples,), np.int32)
    return Split(x, labels, x, labels)


def _random_split(network: MeasuredNetwork, batch_size: int) -> Split:
    """Random examples for an epoch."""
    random = np.random.default_rng(0)
    shapes = _data_shapes(network, batch_size)
    x = random.integers(0, 256, shapes.train_x.shape, np.uint8)
    labels = random.integers(0, network.classes, shapes.train_labels.shape, np.int32)
    return Split(x, labels, x, labels)


def _keys(mapped: int | None) -> jax.Array:
    return jax.random.key(0) if mapped is None else jax.random.split(jax.random.key(0), mapped)


def _epoch_arguments(
    programs: CompiledPrograms,
    hyperparameters: Mapping[str, jax.Array],
    keys: jax.Array,
    split: Split,
) -> tuple[object, ...]:
    """Makes the arguments for the program of the first epoch's full batches."""
    train_state = programs.start(hyperparameters, keys)
    order, _ = programs.draw_order(train_state.key, np.int32(0))
    x, labels = jax.tree.map(jax.numpy.asarray, (split.train_x, split.train_labels))
    return hyperparameters, train_state, order, x, labels


def _with_first_run(
    programs: CompiledPrograms, arguments: tuple[object, ...], compile_seconds: float
) -> CompiledProgram:
    executable: Compiled = programs.full_batches
    first_run, _ = clocked(executable, *arguments)
    stages = {"compile": compile_seconds, "first_run": first_run}
    return CompiledProgram(programs.jaxprs["full_batches"], executable, stages)
