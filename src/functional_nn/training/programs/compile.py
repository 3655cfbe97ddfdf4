"""Compilation of the programs of a run: initialization, the parts of an epoch, and evaluation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import jax
from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled, Lowered, Traced, Wrapped

from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.xla_options import (
    FIRST_LEVEL,
    QUICK,
    RUN_ONCE,
    SUMS_AND_PRODUCTS,
    Options,
    beside_others,
    compile_lowered,
    step_options,
    sum_options,
)
from functional_nn.training.epoch import EpochResult
from functional_nn.training.epoch_metrics import check_metric_shapes, named_metrics
from functional_nn.training.programs.devices import on_each, rows_of
from functional_nn.training.programs.fingerprint import fingerprints_of_parts
from functional_nn.training.programs.functions import ProgramFunctions, argument_shapes
from functional_nn.training.programs.spec import ProgramSpec, shapes_key, shapes_of
from functional_nn.training.state import TrainState

Tree = TypeVar("Tree", bound=PyTree)

StartCompilation: TypeAlias = Callable[[str, Traced, Options], PyTree]
"""Starts to compile a traced program, by its name, and returns the shapes and types of its results."""

EVALUATION: Options = QUICK | SUMS_AND_PRODUCTS
"""The options for a program that evaluates."""


def _made_once(make: Callable[[CompiledPrograms], Any]) -> Any:
    """A property that is made when it is first needed, once for all copies of the programs."""

    def get(programs: CompiledPrograms) -> Any:
        name = make.__name__
        if name not in programs._made_later:
            programs._made_later[name] = make(programs)
        return programs._made_later[name]

    return property(get, doc=make.__doc__)


class CompiledPrograms:
    """The compiled programs of a specification.

    An epoch of examples in memory has three programs: one draws its order, one trains on the full batches, and one
    trains on the remaining examples. A stream has one program in place of them, which trains on one batch. Each program
    is compiled in a thread while the next one is traced. The shortest come first, so that all cores soon have work.

    The first argument of each program but ``draw_order`` is a dict of traced hyper-parameters. A run of ``fit`` has
    none, and an empty dict adds nothing to a program. ``Programs`` passes them.

    Attributes:
        spec: the specification that they were compiled from.
        sharding, batch_sharding: those of the arguments, and of the batches of a stream; None for one device.
        train_state: the shapes and types of what ``start`` returns.
        jaxprs: the traced program of each compiled one, by name.
        metric_names: the names of the metrics of an epoch.
    """

    def __init__(self, spec: ProgramSpec):
        self.spec = spec
        self.sharding = on_each(spec.devices)
        self.batch_sharding = rows_of(self.sharding, spec.batch_size)
        self._functions = ProgramFunctions(spec, self.sharding)
        self._shapes = argument_shapes(spec)
        # Some programs are compiled later, perhaps in another thread or context, and must be for the same device.
        self._device = getattr(jax.config, "jax_default_device")  # noqa: B009 (type checkers do not know the name)
        self.metric_names: tuple[str, ...] = ()
        self.jaxprs: dict[str, ClosedJaxpr] = {}
        self._batch_totals: dict[tuple[Hashable, ...], Compiled] = {}
        self._made_later: dict[str, Any] = {}
        self._compiled = self._compile_all()
        part = spec.data.evaluated_part
        if part in spec.streamed:
            self._batch_totals[shapes_key(spec.data.part(part))] = self._compiled["evaluate"]
        self.train_state: TrainState = shapes_of(self.start.out_info)

    @property
    def start(self) -> Compiled:
        """The train state before the first epoch, from its key."""
        return self._compiled["start"]

    @property
    def draw_order(self) -> Compiled:
        """The order of the examples in an epoch."""
        return self._compiled["draw_order"]

    @property
    def full_batches(self) -> Compiled:
        """The steps of an epoch on all full batches."""
        return self._compiled["full_batches"]

    @property
    def last_batch(self) -> Compiled:
        """The step on the remaining examples of an epoch, and the epoch's result."""
        return self._compiled["last_batch"]

    @property
    def streamed_step(self) -> Compiled:
        """A step on one batch of a stream."""
        return self._compiled["streamed_step"]

    @property
    def evaluate(self) -> Compiled:
        """The evaluation after every epoch, for examples in memory. For a stream it is ``batch_totals``."""
        return self._compiled["evaluate"]

    @property
    def memory_users(self) -> list[Compiled]:
        """The programs that need the most memory; the first one returns a train state."""
        names = (*self._training_programs, "evaluate")
        return [self._compiled[name] for name in names if name in self._compiled]

    @property
    def _training_programs(self) -> tuple[str, ...]:
        return ("streamed_step",) if "train" in self.spec.streamed else ("full_batches", "last_batch")

    def with_spec(self, spec: ProgramSpec | None) -> CompiledPrograms:
        """These programs with an equal specification, or None to keep them without the functions that it holds.

        What one of them compiles later, all of them have.
        """
        other = copy.copy(self)
        other.spec = spec  # pyright: ignore[reportAttributeAccessIssue]
        other._functions = spec and ProgramFunctions(spec, self.sharding)  # pyright: ignore[reportAttributeAccessIssue]
        return other

    def with_start_of(self, spec: ProgramSpec) -> CompiledPrograms | None:
        """These programs with other initial values, for a specification whose network differs only in ``init``.

        Only the start is compiled. Returns None if the train state has other shapes or types.
        """
        other = self.with_spec(spec)
        with jax.default_device(self._device):
            traced = other._traced_start()
            if shapes_of(traced.out_info) != self.train_state:
                return None
            start = other._compile(traced.lower(), QUICK | RUN_ONCE | sum_options(traced.jaxpr))
        other._compiled = self._compiled | {"start": start}
        other.jaxprs = self.jaxprs | {"start": traced.jaxpr}
        # The fingerprint of the initial values differs.
        other._made_later = {name: made for name, made in self._made_later.items() if name != "fingerprints"}
        return other

    @_made_once
    def careful_epoch(self) -> Compiled:
        """An epoch of steps that keep the last finite state, as one program.

        It returns the train state after the epoch, the result, and, for a single model, the train state before the
        first bad step. It is compiled when a run first needs it: few runs do, and its checks make compilation longer.
        """
        x, labels = self.spec.data.part("train")
        shapes = self._shapes
        with jax.default_device(self._device):
            traced = self._functions.jit(self._functions.careful_epoch, own=2, shared=4).trace(
                shapes.hyperparameters, self.train_state, x, labels, shapes.number, shapes.order_key
            )
            return self._compile(traced.lower(), step_options(traced.jaxpr) | sum_options(traced.jaxpr))

    @_made_once
    def evaluate_test(self) -> Compiled:
        """The evaluation of the test examples, for a run that is evaluated on validation examples until its end."""
        with jax.default_device(self._device):
            return self._compile(self._trace_evaluate(self.train_state, "test").lower(), EVALUATION)

    def batch_totals(self, x: Value, labels: PyTree) -> Compiled:
        """The program that computes the totals of a streamed batch that is evaluated.

        It is compiled when it is first needed for a batch of this shape: the last batch may be smaller.
        """
        key = shapes_key((x, labels))
        if key not in self._batch_totals:
            with jax.default_device(self._device):
                lowered = self._trace_batch_totals(self.train_state, *shapes_of((x, labels))).lower()
                self._batch_totals[key] = self._compile(lowered, EVALUATION)
        return self._batch_totals[key]

    @_made_once
    def evaluation_of_totals(self) -> Compiled:
        """The loss and the metrics from the totals of all streamed batches."""
        (totals, *_) = self._batch_totals.values()
        with jax.default_device(self._device):
            traced = self._place(self._functions.evaluation_of_totals).trace(
                self._shapes.hyperparameters, shapes_of(totals.out_info)
            )
            return self._compile(traced.lower(), QUICK | FIRST_LEVEL)

    @property
    def member_state(self) -> TrainState:
        """The shapes and types of one member's train state: ``train_state`` without the axis of members."""
        return self._of_one_member(self.train_state)

    @_made_once
    def fingerprints(self) -> dict[str, str]:
        """A digest of what each part of the recipe computes, by the name that an error message uses for the part.

        They distinguish recipes with equal shapes of parameters: two learning rates, or two activations.
        """
        steps = [self.jaxprs[name] for name in self._training_programs]
        return fingerprints_of_parts(
            self.spec,
            # The parts of a recipe are those of one member.
            self._of_one_member(self._shapes.hyperparameters),
            self.member_state,
            start=self.jaxprs["start"],
            outputs=self.jaxprs.get("evaluate", steps[0]),
            steps=steps,
        )

    def _compile(self, lowered: Lowered, options: Options) -> Compiled:
        return compile_lowered(lowered, beside_others(options) if self.spec.runs_beside_others else options)

    def _compile_all(self) -> dict[str, Compiled]:
        """Traces the programs one after another, and compiles each in a thread meanwhile; returns them by name."""
        shapes = self._shapes
        train_x, train_labels = self.spec.data.part("train")
        part = self.spec.data.evaluated_part
        compiling: dict[str, Future[Compiled]] = {}
        # XLA releases Python's lock while it compiles, so the next program is traced at the same time.
        with ThreadPoolExecutor() as threads:

            def compile_program(name: str, traced: Traced, options: Options) -> PyTree:
                """Starts to compile a program, and returns the shapes of its results."""
                self.jaxprs[name] = traced.jaxpr
                compiling[name] = threads.submit(self._compile, traced.lower(), options | sum_options(traced.jaxpr))
                return traced.out_info

            if "train" in self.spec.streamed:
                train_state = compile_program("start", self._traced_start(), QUICK | RUN_ONCE)
                places = (self.sharding, self.sharding, self.batch_sharding, self.batch_sharding)
                step = jax.jit(self._functions.streamed_step, in_shardings=places, out_shardings=self.sharding).trace(
                    shapes.hyperparameters, train_state, train_x, train_labels
                )
                _, result = compile_program("streamed_step", step, step_options(step.jaxpr, loops=0))
            else:
                train_state, result = self._compile_epoch(compile_program)

            evaluation = None
            if part in self.spec.streamed:
                traced = self._trace_batch_totals(train_state, *self.spec.data.part(part))
                totals = compile_program("evaluate", traced, EVALUATION)
                evaluation = jax.eval_shape(self._functions.evaluation_of_totals, shapes.hyperparameters, totals)
            elif part:
                evaluation = compile_program("evaluate", self._trace_evaluate(train_state, part), EVALUATION)
            named = named_metrics(part, result, evaluation)
            check_metric_shapes(named, self.spec.members)
            self.metric_names = tuple(named)
            return {name: future.result() for name, future in compiling.items()}

    def _compile_epoch(self, compile_program: StartCompilation) -> tuple[TrainState, EpochResult]:
        """Traces the programs of an epoch of examples in memory; returns the shapes of what the epoch returns."""
        shapes, shared_order = self._shapes, self.spec.shared_order
        train_x, train_labels = self.spec.data.part("train")
        if shared_order:
            order = self._place(self._functions.draw_order).trace(shapes.order_key, shapes.number)
        else:
            order = self._functions.jit(self._functions.draw_order, own=1, shared=1).trace(shapes.key, shapes.number)
        full, rest = compile_program("draw_order", order, QUICK | FIRST_LEVEL)

        train_state = compile_program("start", self._traced_start(), QUICK | RUN_ONCE)

        # The order has a row for each member, unless all share one.
        own_order = 0 if shared_order else 1
        steps = self._functions.jit(self._functions.full_batches, own=2 + own_order, shared=3 - own_order).trace(
            shapes.hyperparameters, train_state, full, train_x, train_labels
        )
        options = step_options(steps.jaxpr)
        train_state_then, losses = compile_program("full_batches", steps, options)

        last = self._functions.jit(self._functions.last_batch, own=3 + own_order, shared=3 - own_order).trace(
            shapes.hyperparameters, train_state_then, losses, rest, train_x, train_labels
        )
        # full is (batches, batch_size), behind the axis of members if each has its own order. Without full batches,
        # the last batch is the whole epoch and is optimized like one.
        last_options = options | QUICK if full.shape[-2] else options
        _, epoch_result = compile_program("last_batch", last, last_options)
        return train_state, epoch_result

    def _of_one_member(self, shapes: Tree) -> Tree:
        """Shapes and types without their leading axis, if it is the axis of several members."""
        if self.spec.members is None:
            return shapes
        return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), shapes)

    def _place(self, function: Callable[..., PyTree]) -> Wrapped:
        return jax.jit(function, in_shardings=self.sharding, out_shardings=self.sharding)

    def _traced_start(self) -> Traced:
        return self._functions.jit(self._functions.start, own=2, shared=0).trace(
            self._shapes.hyperparameters, self._shapes.key
        )

    def _trace_evaluate(self, train_state: TrainState, part: str) -> Traced:
        evaluate = self._functions.jit(self._functions.evaluate, own=2, shared=2)
        return evaluate.trace(self._shapes.hyperparameters, train_state, *self.spec.data.part(part))

    def _trace_batch_totals(self, train_state: TrainState, x: Value, labels: PyTree) -> Traced:
        return self._place(self._functions.batch_totals).trace(self._shapes.hyperparameters, train_state, x, labels)
