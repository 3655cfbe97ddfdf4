"""The programs of a run, which are kept for later runs, and the memory that they need."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from types import FunctionType
from typing import NamedTuple, NoReturn
from weakref import ref

import jax
from jax.typing import ArrayLike

from functional_nn.core.errors import InputError
from functional_nn.core.functions import is_hashable
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.training.epoch import EpochResult
from functional_nn.training.evaluate import Evaluation, EvaluationTotals
from functional_nn.training.programs import CompiledPrograms, ProgramSpec
from functional_nn.training.recipe import Hyperparameters, Recipe
from functional_nn.training.state import SETTING_OF_BITS, TrainState
from functional_nn.training.step import StepResult

NO_HYPERPARAMETERS: Hyperparameters = {}


class Programs(NamedTuple):
    """The compiled programs of one run, or of a sweep's members with their hyper-parameters."""

    compiled: CompiledPrograms
    hyperparameters: Hyperparameters = NO_HYPERPARAMETERS

    def start(self, key: jax.Array) -> TrainState:
        """The train state before the first epoch."""
        return self.compiled.start(self.hyperparameters, key)

    def epoch(
        self, train_state: TrainState, x: Value, labels: PyTree, number: ArrayLike
    ) -> tuple[TrainState, EpochResult]:
        """Trains for one epoch, which uses every example once."""
        full, rest = self.compiled.draw_order(train_state.key, number)
        train_state, losses = self.compiled.full_batches(self.hyperparameters, train_state, full, x, labels)
        return self.compiled.last_batch(self.hyperparameters, train_state, losses, rest, x, labels)

    def streamed_step(self, train_state: TrainState, x: Value, labels: PyTree) -> tuple[TrainState, StepResult]:
        """Trains on one batch of a stream. If the result is not finite, the old train state is the one to keep."""
        return self.compiled.streamed_step(self.hyperparameters, train_state, x, labels)

    def careful_epoch(
        self, train_state: TrainState, x: Value, labels: PyTree, number: ArrayLike
    ) -> tuple[TrainState, EpochResult, TrainState | None]:
        """The same epoch with steps that change nothing if a value would become non-finite.

        Returns the train state after the epoch, the result, and, for a single model, the train state before the first
        bad step.
        """
        return self.compiled.careful_epoch(self.hyperparameters, train_state, x, labels, number)

    def evaluate(self, train_state: TrainState, x: Value, labels: PyTree) -> Evaluation:
        """The loss and the metrics on the examples that are evaluated after every epoch."""
        return self.compiled.evaluate(self.hyperparameters, train_state, x, labels)

    def evaluate_test(self, train_state: TrainState, x: Value, labels: PyTree) -> Evaluation:
        """The loss and the metrics on the test examples, if others are evaluated after every epoch."""
        return self.compiled.evaluate_test(self.hyperparameters, train_state, x, labels)

    def batch_totals(self, train_state: TrainState, x: Value, labels: PyTree) -> EvaluationTotals:
        """The totals of a streamed batch that is evaluated."""
        return self.compiled.batch_totals(x, labels)(self.hyperparameters, train_state, x, labels)

    def evaluation_of_totals(self, totals: EvaluationTotals) -> Evaluation:
        """The loss and the metrics from the sums of the totals of all streamed batches."""
        return self.compiled.evaluation_of_totals(self.hyperparameters, totals)


JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    SETTING_OF_BITS,
    "jax_default_matmul_precision",
    "jax_default_device",
)
"""The settings of JAX that change what is compiled. JAX's own caches depend on them, too."""


class _Key:
    """A specification and the settings of JAX, which hold functions weakly; and the programs that belong to them.

    If one of the functions no longer exists, nobody can give an equal specification again, and the programs are let
    go: those of a call such as ``fit(…, optax.adam(rate))`` are of no use after it.

    Attributes:
        programs: the programs, without their specification; empty at first.
    """

    def __init__(self, spec: ProgramSpec, settings: tuple[Hashable, ...]):
        self.programs: list[CompiledPrograms] = []
        self._values = _with_weak_functions((*spec.values(), *settings), self.programs.clear)
        self._hash = hash(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._values == other._values


def compiled_programs(spec: ProgramSpec) -> tuple[CompiledPrograms, bool]:
    """The programs of a specification, and whether they were compiled now. The last eight specifications are kept.

    So a second run of the same network on data of the same shape compiles nothing. If the network has another ``init``,
    only the program of the initial values is compiled.
    """
    if not is_hashable(spec):  # a part of it, such as a loss that holds an array, cannot be compared
        return CompiledPrograms(spec), True
    settings = tuple(getattr(jax.config, name) for name in JAX_SETTINGS)
    kept = _first_equal(_Key(spec, settings)).programs
    if kept:
        return kept[0].with_spec(spec), False
    for_any_start = _first_equal_for_any_start(_Key(_without_init(spec), settings)).programs
    programs = for_any_start[0].with_start_of(spec) if for_any_start else None
    if programs is None:
        programs = CompiledPrograms(spec)
        for_any_start[:] = [programs.with_spec(None)]
    kept[:] = [programs.with_spec(None)]
    return programs, True


def program_bytes(programs: CompiledPrograms) -> int:
    """The bytes that training needs: the train state before and after a step, and the largest scratch memory.

    It is 0 on a platform that does not report what a program needs.
    """
    executables = programs.memory_users
    sizes = [size for executable in executables if (size := executable.memory_analysis()) is not None]
    if len(sizes) < len(executables):
        return 0
    # The first program returns the whole train state. It is not donated, so the old and the new one exist together.
    return 2 * sizes[0].output_size_in_bytes + max(size.temp_size_in_bytes for size in sizes)


def system_bytes(*names: str) -> float:
    """The memory that the system states by the first of these names that it knows; infinite if it knows none of them.

    macOS does not state its free memory, and Windows states neither.
    """
    for name in names:
        with suppress(AttributeError, ValueError, OSError):
            return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def memory_statistics() -> Mapping[str, int]:
    """What the first device says about its memory; empty for a CPU, and for a device that does not say it."""
    return {} if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats() or {}


def total_bytes() -> float:
    """The memory of the device in bytes; for a CPU, the memory of the machine. It is infinite if it is not known."""
    statistics = memory_statistics()
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return system_bytes("SC_PHYS_PAGES")


def check_memory(programs: CompiledPrograms, data: PyTree) -> None:
    """Raises an InputError unless the model and its data fit in memory. Otherwise the system would kill the process."""
    needed = program_bytes(programs) + sum(array.nbytes for array in jax.tree.leaves(data))
    # Virtual devices of a CPU share its memory, and each has a copy.
    if programs.sharding is not None and jax.default_backend() == "cpu":
        needed *= len(programs.sharding.addressable_devices)
    available = total_bytes()
    if needed > available:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(programs.train_state.params))
        given = f"{parameters:,} parameters, which take {_gigabytes(needed)} with gradients, optimizer state and data"
        remedy = "Make the model or the batch smaller."
        raise InputError("net", f"a model that fits in {_gigabytes(available)} of memory", given, remedy)


@lru_cache(maxsize=8)
def _first_equal(key: _Key) -> _Key:
    """The first of equal keys, which has the programs."""
    return key


@lru_cache(maxsize=8)
def _first_equal_for_any_start(key: _Key) -> _Key:
    """The same for specifications that differ only in ``init``."""
    return key


def _with_weak_functions(value: Hashable, when_gone: Callable[[], None]) -> Hashable:
    """The value with weak references to the functions in it and in its tuples, which compare as the functions do."""
    if isinstance(value, FunctionType):
        return ref(value, lambda _: when_gone())
    if isinstance(value, tuple):
        return type(value), *(_with_weak_functions(entry, when_gone) for entry in value)
    return value


def _without_init(spec: ProgramSpec) -> ProgramSpec:
    if not isinstance(spec.recipe, Recipe):
        return spec
    return replace(spec, recipe=spec.recipe._replace(net=spec.recipe.net._replace(init=_no_init)))


def _no_init(key: object, in_shape: object) -> NoReturn:
    """Replaces ``init`` when two networks are compared without it."""
    raise AssertionError("never called")


def check_bytes(argument: str, needed: int) -> None:
    """Raises an InputError for a network or a program that needs more bytes than there are."""
    if needed > (available := total_bytes()):
        expected = f"a network that fits in {_gigabytes(available)} of memory"
        raise InputError(argument, expected, f"one that needs {_gigabytes(needed)}")


def bytes_of(tree: PyTree) -> int:
    """The bytes of all arrays of a tree, which may be shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB"
