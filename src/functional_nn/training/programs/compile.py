"""Compilation of the programs of a run: initialization, the parts of an epoch, and evaluation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled, Traced, Wrapped
from jax.typing import ArrayLike

from functional_nn.core.masked import Value
from functional_nn.core.shapes import shape_of
from functional_nn.core.trees import PyTree
from functional_nn.data.examples import number_of_examples
from functional_nn.jaxprs.xla_options import (
    FIRST_LEVEL,
    QUICK,
    RUN_ONCE,
    SUMS_AND_PRODUCTS,
    Options,
    compile_lowered,
    step_options,
    sum_options,
)
from functional_nn.training.epoch import EpochResult, drawn_batches, make_epoch_parts
from functional_nn.training.epoch_metrics import check_metric_shapes, named_metrics
from functional_nn.training.evaluate import Evaluation
from functional_nn.training.optimizers.wrapping import update_with
from functional_nn.training.programs.devices import divided, on_each
from functional_nn.training.programs.fingerprint import fingerprint
from functional_nn.training.programs.recipe import Hyperparameters, Recipe
from functional_nn.training.programs.remembering import Remembered, remembering
from functional_nn.training.programs.spec import ProgramSpec, shapes_of
from functional_nn.training.state import TrainState

Tree = TypeVar("Tree", bound=PyTree)


class CompiledPrograms:
    """The compiled programs of a specification.

    An epoch has three programs: one draws its order, one trains on the full batches, and one trains on the remaining
    examples. Each program is compiled in a thread as soon as it is traced, while the next one is traced. The shortest
    ones are traced first, so that all cores soon have work.

    The first argument of each program but ``draw_order`` is a dict of traced hyper-parameters. A run of ``fit`` has
    none, and an empty dict adds nothing to a program. ``Programs`` passes them.

    Attributes:
        spec: the specification that they were compiled from.
        sharding: the sharding of the arguments; None for one device.
        train_state: the shapes and types of what ``start`` returns.
        jaxprs: the traced program of each compiled one, by name.
        metric_names: the names of the metrics of an epoch.
    """

    def __init__(self, spec: ProgramSpec):
        self.spec = spec
        self.sharding = on_each(spec.devices)
        self._shapes = _argument_shapes(spec)
        # Some programs are compiled later, perhaps in another thread or context, and must be for the same device.
        self._device = getattr(jax.config, "jax_default_device")  # noqa: B009 (type checkers do not know the name)
        self.metric_names: tuple[str, ...] = ()
        self.jaxprs: dict[str, ClosedJaxpr] = {}
        compiled = self._compile_all()
        self.start = compiled["start"]
        self.draw_order = compiled["draw_order"]
        self.full_batches = compiled["full_batches"]
        self.last_batch = compiled["last_batch"]
        self.evaluate = compiled.get("evaluate")
        self.train_state: TrainState = shapes_of(self.start.out_info)

    def with_start_of(self, spec: ProgramSpec) -> CompiledPrograms | None:
        """These programs with other initial values, for a specification whose network differs only in ``init``.

        Only the start is compiled. Returns None if the train state has other shapes or types.
        """
        other = copy.copy(self)
        other.spec = spec
        with jax.default_device(self._device):
            traced = other._traced_start()
            if shapes_of(traced.out_info) != self.train_state:
                return None
            other.start = compile_lowered(traced.lower(), QUICK | RUN_ONCE | sum_options(traced.jaxpr))
        other.jaxprs = self.jaxprs | {"start": traced.jaxpr}
        # The fingerprint of the initial values differs.
        vars(other).pop("fingerprints", None)
        return other

    @cached_property
    def careful_epoch(self) -> Compiled:
        """An epoch of steps that keep the last finite state, as one program.

        It returns the train state after the epoch, the result, and, for a single model, the train state before the
        first bad step.
        It is compiled when a run first needs it, because few runs do, and its checks make compilation longer.
        """
        x, labels = self.spec.data.part("train")
        shapes = self._shapes
        with jax.default_device(self._device):
            traced = self._jit(self._careful_epoch, own=2, shared=4).trace(
                shapes.hyperparameters, self.train_state, x, labels, shapes.number, shapes.order_key
            )
            return compile_lowered(traced.lower(), step_options(traced.jaxpr) | sum_options(traced.jaxpr))

    @cached_property
    def evaluate_test(self) -> Compiled:
        """The evaluation of the test examples, for a run that is evaluated on validation examples until its end."""
        with jax.default_device(self._device):
            return compile_lowered(self._trace_evaluate(self.train_state, "test").lower(), QUICK | SUMS_AND_PRODUCTS)

    @property
    def member_state(self) -> TrainState:
        """The shapes and types of one member's train state: ``train_state`` without the axis of members."""
        return self._of_one_member(self.train_state)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A digest of what each part of the recipe computes, by the name that an error message uses for the part.

        They distinguish recipes with equal shapes of parameters: two learning rates, or two activations.
        """
        # The parts of a recipe are those of one member.
        hyperparameters = self._of_one_member(self._shapes.hyperparameters)
        params, optimizer_state = self.member_state.params, self.member_state.optimizer_state

        def update(hyperparameters, params, optimizer_state):
            """An update with the parameters in place of the gradient, their squares in place of the loss."""

            def loss(params, *, obj_fn=None, grad_fn=None):
                return sum((jnp.sum(jnp.square(leaf.astype(float))) for leaf in jax.tree.leaves(params)), jnp.zeros(()))

            value, gradient = loss(params), lambda params, step=0: jax.grad(loss)(params)
            extra = {"value": value, "grad": params, "value_fn": loss, "obj_fn": loss, "grad_fn": gradient}
            optimizer = self.spec.recipe_for(hyperparameters).optimizer
            return update_with(optimizer, params, optimizer_state, params, extra)

        def penalty(hyperparameters, params):
            function = self.spec.recipe_for(hyperparameters).penalty
            return 0.0 if function is None else function(params)

        traced_update = jax.make_jaxpr(update)(hyperparameters, params, optimizer_state)
        return {
            "initial values": fingerprint(self.jaxprs["start"]),
            "network or loss": fingerprint(self.jaxprs.get("evaluate", self.jaxprs["full_batches"])),
            "optimizer": fingerprint(traced_update),
            "penalty": fingerprint(jax.make_jaxpr(penalty)(hyperparameters, params)),
            "train step": fingerprint(self.jaxprs["full_batches"], self.jaxprs["last_batch"]),
        }

    def _compile_all(self) -> dict[str, Compiled]:
        """Traces the programs one after another, and compiles each in a thread meanwhile; returns them by name."""
        shapes, shared_order = self._shapes, self.spec.shared_order
        train_x, train_labels = self.spec.data.part("train")
        part = self.spec.data.evaluated_part
        compiling: dict[str, Future[Compiled]] = {}
        # XLA releases Python's lock while it compiles, so the next program is traced at the same time.
        with ThreadPoolExecutor() as threads:

            def compile_program(name: str, traced: Traced, options: Options) -> PyTree:
                """Starts to compile a program, and returns the shapes of its results."""
                self.jaxprs[name] = traced.jaxpr
                compiling[name] = threads.submit(compile_lowered, traced.lower(), options | sum_options(traced.jaxpr))
                return traced.out_info

            if shared_order:
                order = self._place(self._draw_order).trace(shapes.order_key, shapes.number)
            else:
                order = self._jit(self._draw_order, own=1, shared=1).trace(shapes.key, shapes.number)
            full, rest = compile_program("draw_order", order, QUICK | FIRST_LEVEL)

            train_state = compile_program("start", self._traced_start(), QUICK | RUN_ONCE)

            # The order has a row for each member, unless all share one.
            own_order = 0 if shared_order else 1
            steps = self._jit(self._full_batches, own=2 + own_order, shared=3 - own_order).trace(
                shapes.hyperparameters, train_state, full, train_x, train_labels
            )
            options = step_options(steps.jaxpr)
            train_state_then, losses = compile_program("full_batches", steps, options)

            last = self._jit(self._last_batch, own=3 + own_order, shared=3 - own_order).trace(
                shapes.hyperparameters, train_state_then, losses, rest, train_x, train_labels
            )
            # full is (batches, batch_size), behind the axis of members if each has its own order. Without full batches,
            # the last batch is the whole epoch and is optimized like one.
            number_of_full_batches = full.shape[-2]
            last_options = dict(options)
            if number_of_full_batches:
                last_options |= QUICK
            _, epoch_result = compile_program("last_batch", last, last_options)

            evaluation = None
            if part:
                traced = self._trace_evaluate(train_state, part)
                evaluation = compile_program("evaluate", traced, QUICK | SUMS_AND_PRODUCTS)
            named = named_metrics(part, epoch_result, evaluation)
            check_metric_shapes(named, self.spec.members)
            self.metric_names = tuple(named)
            return {name: future.result() for name, future in compiling.items()}

    def _of_one_member(self, shapes: Tree) -> Tree:
        """Shapes and types without their leading axis, if it is the axis of several members."""
        if self.spec.members is None:
            return shapes
        return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), shapes)

    def _place(self, function: Callable[..., PyTree]) -> Wrapped:
        return jax.jit(function, in_shardings=self.sharding, out_shardings=self.sharding)

    def _jit(self, function: Callable[..., PyTree], *, own: int, shared: int) -> Wrapped:
        """The function to compile. With several members, ``vmap`` maps it over its first ``own`` arguments."""
        if self.spec.members is not None:
            function = jax.vmap(function, in_axes=(0,) * own + (None,) * shared)
        return self._place(function)

    def _traced_start(self) -> Traced:
        return self._jit(self._start, own=2, shared=0).trace(self._shapes.hyperparameters, self._shapes.key)

    # The functions that are compiled, for one model.

    def _trace_evaluate(self, train_state: TrainState, part: str) -> Traced:
        evaluate = self._jit(self._evaluate, own=2, shared=2)
        return evaluate.trace(self._shapes.hyperparameters, train_state, *self.spec.data.part(part))

    def _recipe(self, hyperparameters: Hyperparameters) -> Recipe:
        recipe = self.spec.recipe_for(hyperparameters)
        return recipe._replace(net=divided(recipe.net, self.sharding))

    def _start(self, hyperparameters, key):
        in_shape = shape_of(self.spec.data.train_x)
        return self._recipe(hyperparameters).train_state(key, in_shape, self.spec.precision)

    def _draw_order(self, key, number):
        return drawn_batches(key, number, number_of_examples(self.spec.data.train_x), self.spec.batch_size)

    def _epoch_parts(self, hyperparameters):
        keep_finite = self.spec.keep_finite
        train_step = self._recipe(hyperparameters).train_step(self.spec.precision, keep_finite=keep_finite)
        return make_epoch_parts(train_step, self.spec.batch_size, self.spec.unroll)

    def _full_batches(self, hyperparameters, train_state, full, x, labels):
        full_batches, _ = self._epoch_parts(hyperparameters)
        return full_batches(train_state, full, x, labels)

    def _last_batch(self, hyperparameters, train_state, losses, rest, x, labels):
        _, last_batch = self._epoch_parts(hyperparameters)
        return last_batch(train_state, losses, rest, x, labels)

    def _careful_epoch(self, hyperparameters, train_state, x, labels, number, order_key):
        step = self._recipe(hyperparameters).train_step(self.spec.precision, keep_finite=True)
        full_batches, last_batch = make_epoch_parts(remembering(step), self.spec.batch_size, self.spec.unroll)
        full, rest = self._draw_order(train_state.key if order_key is None else order_key, number)
        # Several members do not need the state before the bad step, which would take memory.
        kept = train_state if self.spec.members is None else None
        first = Remembered(train_state, kept, jnp.bool_(False))
        reached, losses = full_batches(first, full, x, labels)
        reached, result = last_batch(reached, losses, rest, x, labels)
        return reached.train_state, result, reached.before_bad_step

    def _evaluate(self, hyperparameters, train_state, x, labels):
        return self._recipe(hyperparameters).evaluate(self.spec.precision)(train_state, x, labels)


NO_HYPERPARAMETERS: Hyperparameters = {}


class Programs(NamedTuple):
    """The compiled programs of one run, or of a sweep's members with their hyper-parameters."""

    compiled: CompiledPrograms
    hyperparameters: Hyperparameters = NO_HYPERPARAMETERS

    def start(self, key: jax.Array) -> TrainState:
        """The train state before the first epoch."""
        return self.compiled.start(self.hyperparameters, key)

    def epoch(
        self, train_state: TrainState, x: Value, labels: PyTree, number: ArrayLike, order_key: jax.Array | None = None
    ) -> tuple[TrainState, EpochResult]:
        """Trains for one epoch, which uses every example once."""
        full, rest = self.compiled.draw_order(train_state.key if order_key is None else order_key, number)
        train_state, losses = self.compiled.full_batches(self.hyperparameters, train_state, full, x, labels)
        return self.compiled.last_batch(self.hyperparameters, train_state, losses, rest, x, labels)

    def batch(self, train_state: TrainState, x: Value, labels: PyTree) -> tuple[TrainState, EpochResult]:
        """Trains on one batch of a stream: an epoch of one full batch, whose examples keep their order."""
        # The program gathers rows of its data. Here the data are the batch, and its rows are taken as they are.
        rows = jnp.arange(self.compiled.spec.batch_size, dtype=jnp.int32)
        train_state, losses = self.compiled.full_batches(self.hyperparameters, train_state, rows[None], x, labels)
        return self.compiled.last_batch(self.hyperparameters, train_state, losses, rows[:0], x, labels)

    def careful_epoch(
        self, train_state: TrainState, x: Value, labels: PyTree, number: ArrayLike, order_key: jax.Array | None = None
    ) -> tuple[TrainState, EpochResult, TrainState | None]:
        """The same epoch with steps that change nothing if a value would become non-finite.

        Returns the train state after the epoch, the result, and, for a single model, the train state before the first
        bad step.
        """
        return self.compiled.careful_epoch(self.hyperparameters, train_state, x, labels, number, order_key)

    def evaluate(self, train_state: TrainState, x: Value, labels: PyTree) -> Evaluation:
        """The loss and the metrics on the examples that are evaluated after every epoch."""
        assert self.compiled.evaluate is not None  # it is called only if there are such examples
        return self.compiled.evaluate(self.hyperparameters, train_state, x, labels)

    def evaluate_test(self, train_state: TrainState, x: Value, labels: PyTree) -> Evaluation:
        """The loss and the metrics on the test examples, if others are evaluated after every epoch."""
        return self.compiled.evaluate_test(self.hyperparameters, train_state, x, labels)


class _ArgumentShapes(NamedTuple):
    """The shapes and types of the programs' arguments other than data and train state."""

    hyperparameters: dict[str, jax.ShapeDtypeStruct]
    key: jax.ShapeDtypeStruct
    number: jax.ShapeDtypeStruct
    order_key: jax.ShapeDtypeStruct | None


def _argument_shapes(spec: ProgramSpec) -> _ArgumentShapes:
    key: PyTree = jax.eval_shape(lambda: jax.random.key(0))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    order_key = key if spec.shared_order else None
    hyperparameters = dict(spec.hyperparameters)
    if spec.members is not None:

        def of_all_members(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((spec.members, *one.shape), one.dtype)

        hyperparameters, key = jax.tree.map(of_all_members, (hyperparameters, key))
    return _ArgumentShapes(hyperparameters, key, number, order_key)
