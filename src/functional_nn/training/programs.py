"""The compiled programs of a run: their specification, functions, compilation and fingerprints."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr
from jax.sharding import NamedSharding
from jax.stages import Compiled, Lowered, Traced, Wrapped
from jax.typing import ArrayLike

from functional_nn.core.masked import Value
from functional_nn.core.shapes import shape_of
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array
from functional_nn.data.dataset import Split
from functional_nn.data.examples import number_of_examples
from functional_nn.jaxprs.walk import TracedProgram
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
from functional_nn.storage.arrays import add_to_digest, as_stored
from functional_nn.training.devices import cores, divided, on_each, rows_of
from functional_nn.training.epoch import EpochResult, drawn_batches, make_epoch_parts
from functional_nn.training.evaluate import check_metric_shapes, named_metrics
from functional_nn.training.optimizers import update_with
from functional_nn.training.precision import Precision
from functional_nn.training.recipe import Hyperparameters, Recipe, RecipeMaker
from functional_nn.training.state import TrainState
from functional_nn.training.step import StepResult, TrainStep, where

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
            traced = self._functions.jit(self._functions.careful_epoch, own=2, shared=3).trace(
                shapes.hyperparameters, self.train_state, x, labels, shapes.number
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
        shapes = self._shapes
        train_x, train_labels = self.spec.data.part("train")
        order = self._functions.jit(self._functions.draw_order, own=1, shared=1).trace(shapes.key, shapes.number)
        full, rest = compile_program("draw_order", order, QUICK | FIRST_LEVEL)

        train_state = compile_program("start", self._traced_start(), QUICK | RUN_ONCE)

        steps = self._functions.jit(self._functions.full_batches, own=3, shared=2).trace(
            shapes.hyperparameters, train_state, full, train_x, train_labels
        )
        options = step_options(steps.jaxpr)
        train_state_then, losses = compile_program("full_batches", steps, options)

        last = self._functions.jit(self._functions.last_batch, own=4, shared=2).trace(
            shapes.hyperparameters, train_state_then, losses, rest, train_x, train_labels
        )
        # full is (batches, batch_size), behind the axis of members. Without full batches, the last batch is the whole
        # epoch and is optimized like one.
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


@dataclass(frozen=True, eq=False)
class ProgramSpec:
    """Everything that the programs of a run are compiled from. Equal specifications share their compiled programs.

    Args:
        recipe: the recipe of a run; or, for the members of a sweep, the function that makes each member's recipe from
            its hyper-parameters. That function is called inside each program, with traced values.
        batch_size, precision: as ``fit`` takes them.
        data: the shapes and types of a split. For a part that is streamed, they are those of one batch.
        hyperparameters: for a sweep, the shapes and types of the traced hyper-parameters by name.
        members: the number of members that one program trains together by ``vmap``. Hyper-parameters, keys and train
            states then have a leading axis; data do not. None: the programs train one model.
        devices: the number of devices that share each batch.
        streamed: the parts of the data that come batch by batch: any of ``"train"``, ``"test"`` and ``"validation"``.
        in_threads: whether several threads run the programs at the same time.
    """

    recipe: Recipe | RecipeMaker
    batch_size: int
    precision: Precision
    data: Split
    hyperparameters: tuple[tuple[str, jax.ShapeDtypeStruct], ...] = ()
    members: int | None = None
    devices: int = 1
    streamed: tuple[str, ...] = ()
    in_threads: bool = False

    @property
    def runs_beside_others(self) -> bool:
        """Whether several of these programs run at the same time: in threads, or on several devices."""
        return self.in_threads or self.devices > 1

    def values(self) -> tuple[object, ...]:
        """All values, with the pytree of data as a tuple. A dict in the data could not be hashed."""
        leaves, structure = jax.tree.flatten(self.data)
        others = (getattr(self, field.name) for field in fields(self) if field.name != "data")
        return (*others, structure, *leaves)

    def __hash__(self) -> int:
        return hash(self.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProgramSpec) and self.values() == other.values()

    def recipe_for(self, hyperparameters: Hyperparameters) -> Recipe:
        """The recipe inside a program."""
        if isinstance(self.recipe, Recipe):
            return self.recipe
        return self.recipe(hyperparameters)


def shapes_of(tree: PyTree) -> PyTree:
    """The pytree with the shape and type of each array in the place of the array."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)


def shapes_key(tree: PyTree) -> tuple[Hashable, ...]:
    """The structure, shapes and types of a pytree in a form that a dict can have as a key."""
    leaves, structure = jax.tree.flatten(shapes_of(tree))
    return structure, *leaves


def with_batches_of(shapes: Split, examples: int) -> Split:
    """The shapes of a split with this number of training examples: those of a stream's batch in all processes."""

    def of_all(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((examples, *array.shape[1:]), array.dtype)

    train_x, train_labels = jax.tree.map(of_all, (shapes.train_x, shapes.train_labels))
    return shapes._replace(train_x=train_x, train_labels=train_labels)


@dataclass(frozen=True)
class ProgramFunctions:
    """The functions of a specification. Their first argument is a dict of traced hyper-parameters.

    Args:
        spec: what the functions depend on.
        sharding: puts whole arrays on each of several devices; None for one device.
    """

    spec: ProgramSpec
    sharding: NamedSharding | None

    def jit(self, function: Callable[..., PyTree], *, own: int, shared: int) -> Wrapped:
        """The function to compile, mapped as by ``mapped``."""
        mapped = self.mapped(function, own=own, shared=shared)
        return jax.jit(mapped, in_shardings=self.sharding, out_shardings=self.sharding)

    def mapped(self, function: Callable[..., PyTree], *, own: int, shared: int) -> Callable[..., PyTree]:
        """The function for all members: with several, ``vmap`` maps it over its first ``own`` arguments."""
        if self.spec.members is None:
            return function
        return jax.vmap(function, in_axes=(0,) * own + (None,) * shared)

    def start(self, hyperparameters, key):
        """The train state before the first epoch."""
        in_shape = shape_of(self.spec.data.train_x)
        return self._recipe(hyperparameters).train_state(key, in_shape, self.spec.precision)

    def draw_order(self, key, number):
        """The order of the examples in an epoch."""
        return drawn_batches(key, number, number_of_examples(self.spec.data.train_x), self.spec.batch_size)

    def full_batches(self, hyperparameters, train_state, full, x, labels):
        """The steps of an epoch on all full batches."""
        full_batches, _ = self._epoch_parts(hyperparameters)
        return full_batches(train_state, full, x, labels)

    def last_batch(self, hyperparameters, train_state, losses, rest, x, labels):
        """The step on the remaining examples, and the result of the epoch."""
        _, last_batch = self._epoch_parts(hyperparameters)
        return last_batch(train_state, losses, rest, x, labels)

    def careful_epoch(self, hyperparameters, train_state, x, labels, number):
        """An epoch of steps that change nothing if a value would become non-finite."""
        step = self._recipe(hyperparameters).train_step(self.spec.precision, keep_finite=True)
        full_batches, last_batch = make_epoch_parts(remembering(step), self.spec.batch_size)
        full, rest = self.draw_order(train_state.key, number)
        # Several members do not need the state before the bad step, which would take memory.
        kept = train_state if self.spec.members is None else None
        first = Remembered(train_state, kept, jnp.bool_(False))
        reached, losses = full_batches(first, full, x, labels)
        reached, result = last_batch(reached, losses, rest, x, labels)
        return reached.train_state, result, reached.before_bad_step

    def streamed_step(self, hyperparameters, train_state, x, labels):
        """A step on a batch of a stream, and whether its numbers stay finite. If they do not, the loss is NaN.

        The program does not choose between the old train state and the new one, as steps with ``keep_finite`` do,
        because that takes memory for a third one. The caller has both states, and goes on with the right one.
        """
        step = self._recipe(hyperparameters).checked_step(self.spec.precision)
        after, loss, reports, is_finite = step(train_state, x, labels)
        finite = is_finite()
        result = StepResult(jnp.where(finite, loss, jnp.nan), finite, reports)
        return after._replace(key=train_state.key), result

    def evaluate(self, hyperparameters, train_state, x, labels):
        """The loss and the metrics on examples in memory."""
        return self._recipe(hyperparameters).evaluate(self.spec.precision)(train_state, x, labels)

    def batch_totals(self, hyperparameters, train_state, x, labels):
        """The sums over one batch of streamed examples, from which the loss and the metrics are computed."""
        return self._recipe(hyperparameters).evaluation_parts(self.spec.precision).totals(train_state, x, labels)

    def evaluation_of_totals(self, hyperparameters, sums):
        """The loss and the metrics from the sums over all batches."""
        return self._recipe(hyperparameters).evaluation_parts(self.spec.precision).result(sums)

    def _recipe(self, hyperparameters: Hyperparameters) -> Recipe:
        recipe = self.spec.recipe_for(hyperparameters)
        return recipe._replace(net=divided(recipe.net, self.sharding))

    def _epoch_parts(self, hyperparameters: Hyperparameters):
        train_step = self._recipe(hyperparameters).train_step(self.spec.precision, keep_finite=False)
        return make_epoch_parts(train_step, self.spec.batch_size)


class ArgumentShapes(NamedTuple):
    """The shapes and types of the programs' arguments other than data and train state."""

    hyperparameters: dict[str, jax.ShapeDtypeStruct]
    key: jax.ShapeDtypeStruct
    number: jax.ShapeDtypeStruct


def argument_shapes(spec: ProgramSpec) -> ArgumentShapes:
    """The shapes and types of these arguments."""
    key: PyTree = jax.eval_shape(lambda: jax.random.key(0))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    hyperparameters = dict(spec.hyperparameters)
    if spec.members is not None:

        def of_all_members(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((spec.members, *one.shape), one.dtype)

        hyperparameters, key = jax.tree.map(of_all_members, (hyperparameters, key))
    return ArgumentShapes(hyperparameters, key, number)


class Remembered(NamedTuple):
    """A train state, and the one before the first step whose loss was not finite.

    Args:
        train_state: the current train state.
        before_bad_step: the train state before the first bad step, or before the last step if there is none yet;
            None if it is not needed.
        is_found: whether there was a bad step.
    """

    train_state: TrainState
    before_bad_step: TrainState | None
    is_found: jax.Array


def remembering(train_step: TrainStep) -> Callable[[Remembered, PyTree, PyTree], tuple[Remembered, PyTree]]:
    """The same train step for ``Remembered`` train states."""

    def step(before: Remembered, x: PyTree, labels: PyTree) -> tuple[Remembered, PyTree]:
        train_state, kept = before.train_state, before.before_bad_step
        after, loss = train_step(train_state, x, labels)
        if kept is None:
            return Remembered(after, None, before.is_found), loss
        # Keys cannot be selected by a condition. The key is the same in both states.
        now = train_state._replace(key=None)
        kept = where(before.is_found, kept._replace(key=None), now)._replace(key=train_state.key)
        is_bad = ~jnp.isfinite(loss[0] if isinstance(loss, tuple) else loss)
        return Remembered(after, kept, before.is_found | is_bad), loss

    return step


ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""The memory address of a Python object in a program's text. It differs between processes."""


def fingerprint(*traced: ClosedJaxpr) -> str:
    """The SHA-256 of traced programs: of their text, and of the arrays that they contain.

    >>> double, triple = (jax.make_jaxpr(lambda x, factor=factor: factor * x)(1.0) for factor in (2.0, 3.0))
    >>> fingerprint(double) == fingerprint(triple)
    False
    """
    digest = hashlib.sha256()
    for program in traced:
        # In a terminal and in a notebook, JAX would put colors into the text.
        digest.update(ADDRESS.sub("", program.pretty_print(use_color=False)).encode())
        # The text names constants and does not contain their numbers.
        for constant in _constants(program):
            add_to_digest(digest, as_stored(constant if is_array(constant) else np.asarray(constant)))
    return digest.hexdigest()


def fingerprints_of_parts(
    spec: ProgramSpec,
    hyperparameters: Hyperparameters,
    train_state: TrainState,
    *,
    start: ClosedJaxpr,
    outputs: ClosedJaxpr,
    steps: Iterable[ClosedJaxpr],
) -> dict[str, str]:
    """A digest of what each part of a recipe computes, by the name that an error message uses for the part.

    Args:
        spec: the specification with the recipe.
        hyperparameters, train_state: the shapes and types of one model's.
        start: the traced program of the initial values.
        outputs: a traced program that computes the network's output and the loss.
        steps: the traced programs that train.
    """
    params, optimizer_state = train_state.params, train_state.optimizer_state

    def update(hyperparameters, params, optimizer_state):
        """An update with the parameters in place of the gradient, their squares in place of the loss."""

        def loss(params, *, obj_fn=None, grad_fn=None):
            return sum((jnp.sum(jnp.square(leaf.astype(float))) for leaf in jax.tree.leaves(params)), jnp.zeros(()))

        value, gradient = loss(params), lambda params, step=0: jax.grad(loss)(params)
        extra = {"value": value, "grad": params, "value_fn": loss, "obj_fn": loss, "grad_fn": gradient}
        optimizer = spec.recipe_for(hyperparameters).optimizer
        return update_with(optimizer, params, optimizer_state, params, extra)

    def penalty(hyperparameters, params):
        function = spec.recipe_for(hyperparameters).penalty
        return 0.0 if function is None else function(params)

    return {
        "initial values": fingerprint(start),
        "network or loss": fingerprint(outputs),
        "optimizer": fingerprint(jax.make_jaxpr(update)(hyperparameters, params, optimizer_state)),
        "penalty": fingerprint(jax.make_jaxpr(penalty)(hyperparameters, params)),
        "train step": fingerprint(*steps),
    }


def surroundings() -> dict[str, str | int]:
    """What else the text of a program depends on: fingerprints are comparable only if all of this is equal."""
    versions = {module.__name__: module.__version__ for module in (jax, jaxlib, optax)}
    return {**versions, "device": jax.local_devices()[0].device_kind, "cores": cores()}


def _constants(program: TracedProgram) -> Iterator[ArrayLike]:
    """The arrays in a program and in the programs inside it, in the order of its text."""
    yield from getattr(program, "consts", ())
    for equation in getattr(program, "jaxpr", program).eqns:
        for parameter in equation.params.values():
            # Some operations, such as cond, have several programs in a tuple. A program may be closed, with constants,
            # or not.
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if hasattr(inner, "eqns") or hasattr(getattr(inner, "jaxpr", None), "eqns"):
                    yield from _constants(inner)
