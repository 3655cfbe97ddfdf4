"""The programs of a run: the table of them, what they compute, their compilation and calls, and their fingerprints."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple
from weakref import ref

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from jax import lax
from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled
from jax.typing import ArrayLike

from functional_nn.core.functions import is_hashable
from functional_nn.core.masked import Value
from functional_nn.core.products import SEVERAL_PLATFORMS, tracing_for
from functional_nn.core.shapes import shape_of
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array
from functional_nn.data.dataset import Split
from functional_nn.data.preparation import number_of_examples
from functional_nn.jaxprs.walk import inner_programs
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
from functional_nn.training.devices import bytes_of, check_bytes, cores, divided, gigabytes, on_each, rows_of
from functional_nn.training.epoch import EpochResult, drawn_batches, named_metrics, of_rows, with_last_batch
from functional_nn.training.evaluate import (
    Evaluation,
    EvaluationTotals,
    check_metric_shapes,
    evaluation_of_totals,
    totals_of_examples,
)
from functional_nn.training.precision import Precision
from functional_nn.training.recipe import Hyperparameters, Recipe, RecipeMaker
from functional_nn.training.state import SETTING_OF_BITS, TrainState, create_train_state
from functional_nn.training.step import stays_finite, step_of, where

NO_HYPERPARAMETERS: Hyperparameters = {}
"""The traced hyper-parameters of a run of ``fit``. An empty dict adds nothing to a program."""


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

    def values(self) -> tuple[object, ...]:
        """All values, with the pytree of data as a tuple. A dict in the data could not be hashed."""
        others = (getattr(self, field.name) for field in fields(self) if field.name != "data")
        return (*others, *shapes_key(self.data))

    def recipe_for(self, hyperparameters: Hyperparameters) -> Recipe:
        """The recipe inside a program."""
        if isinstance(self.recipe, Recipe):
            return self.recipe
        return self.recipe(hyperparameters)


# What the programs compute, for one model


def draw_order(spec: ProgramSpec, key: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The order of the examples in an epoch."""
    return drawn_batches(key, number, number_of_examples(spec.data.train_x), spec.batch_size)


def start(spec: ProgramSpec, h: Hyperparameters, key: jax.Array) -> TrainState:
    """The train state before the first epoch."""
    recipe = _recipe(spec, h)
    in_shape = shape_of(spec.data.train_x)
    return create_train_state(recipe.net, recipe.optimizer, key, in_shape, spec.precision, recipe.start)


def full_batches(spec: ProgramSpec, h: Hyperparameters, state: TrainState, order: jax.Array, x: Value, labels: PyTree):
    """The steps of an epoch on all full batches."""
    return lax.scan(of_rows(step_of(_recipe(spec, h), spec.precision), x, labels), state, order)


def last_batch(
    spec: ProgramSpec, h: Hyperparameters, before: TrainState, state: TrainState, losses, rest, x: Value, labels: PyTree
):
    """The step on the remaining examples, and the result of the epoch.

    ``before`` is the train state before the epoch. The losses alone do not show whether all numbers are still finite,
    because the last update of an epoch has no loss after it. If only that update is bad, ``bad_step`` is 0: the caller
    runs the epoch again and so finds the step.
    """
    step = of_rows(step_of(_recipe(spec, h), spec.precision), x, labels)
    after, result = with_last_batch(step, state, losses, rest, spec.batch_size)
    bad_step = jnp.where(stays_finite(before, after), result.bad_step, jnp.maximum(result.bad_step, 0))
    return after, result._replace(bad_step=bad_step)


def careful_epoch(spec: ProgramSpec, h: Hyperparameters, state: TrainState, x: Value, labels: PyTree, number, steps):
    """An epoch of steps that change nothing if a value would become non-finite, as one program.

    Its checks make compilation longer, and few runs need it. After this number of ``steps`` the train state stays as it
    is: so the caller gets the train state before a bad step.
    """
    kept = of_rows(step_of(_recipe(spec, h), spec.precision, "kept"), x, labels)

    def step(carry: tuple[TrainState, jax.Array], rows: jax.Array) -> tuple[tuple[TrainState, jax.Array], PyTree]:
        before, taken = carry
        after, loss = kept(before, rows)
        # Keys cannot be selected by a condition. The key is the same in both states.
        chosen = where(taken < steps, after._replace(key=None), before._replace(key=None))
        return (chosen._replace(key=before.key), taken + 1), loss

    order, rest = draw_order(spec, state.key, number)
    reached, losses = lax.scan(step, (state, jnp.int32(0)), order)
    (state, _), result = with_last_batch(step, reached, losses, rest, spec.batch_size)
    return state, result


def streamed_step(spec: ProgramSpec, h: Hyperparameters, state: TrainState, x: Value, labels: PyTree):
    """A step on a batch of a stream, and whether its numbers stay finite.

    The program does not choose between the old train state and the new one, because that takes memory for a third one.
    The caller has both states, and goes on with the right one.
    """
    return step_of(_recipe(spec, h), spec.precision, "told")(state, x, labels)


def evaluate(spec: ProgramSpec, h: Hyperparameters, state: TrainState, x: Value, labels: PyTree) -> Evaluation:
    """The loss and the metrics on examples in memory."""
    recipe = _recipe(spec, h)
    return evaluation_of_totals(recipe, totals_of_examples(recipe, spec.precision, state, x, labels))


def batch_totals(spec: ProgramSpec, h: Hyperparameters, state: TrainState, x: Value, labels: PyTree):
    """The sums over one batch of streamed examples, from which the loss and the metrics are computed."""
    return totals_of_examples(_recipe(spec, h), spec.precision, state, x, labels)


def evaluation_of_sums(spec: ProgramSpec, h: Hyperparameters, totals: EvaluationTotals) -> Evaluation:
    """The loss and the metrics from the sums over all batches."""
    return evaluation_of_totals(_recipe(spec, h), totals)


def _recipe(spec: ProgramSpec, hyperparameters: Hyperparameters) -> Recipe:
    recipe = spec.recipe_for(hyperparameters)
    return recipe._replace(net=divided(recipe.net, on_each(spec.devices)))


# The table


class Program(NamedTuple):
    """A program of a run.

    Args:
        function: ``function(spec, *arguments)`` computes it for one model.
        arguments, results: their names, in order. ``h`` are the traced hyper-parameters.
        options: the options of XLA, besides those for its sums; or ``options(programs, jaxpr)`` gives them.
    """

    function: Callable[..., PyTree]
    arguments: str
    results: str
    options: Options | Callable[[Programs, ClosedJaxpr], Options]


def _steps(programs: Programs, jaxpr: ClosedJaxpr, loops: int = 1) -> Options:
    return step_options(jaxpr, loops)


def _last(programs: Programs, jaxpr: ClosedJaxpr) -> Options:
    """Those of the full batches. Without full batches, the last batch is the whole epoch and is optimized like one."""
    has_full_batches = number_of_examples(programs.spec.data.train_x) >= programs.spec.batch_size
    return step_options(programs.jaxprs["full"]) | (QUICK if has_full_batches else {})


PROGRAMS = {
    "order": Program(draw_order, "key number", "order rest", QUICK | FIRST_LEVEL),
    "init": Program(start, "h key", "state", QUICK | RUN_ONCE),
    "full": Program(full_batches, "h state order x labels", "state losses", _steps),
    "last": Program(last_batch, "h state state losses rest x labels", "state result", _last),
    "careful": Program(careful_epoch, "h state x labels number steps", "state result", _steps),
    "stream": Program(streamed_step, "h state batch_x batch_labels", "state result", partial(_steps, loops=0)),
    "evaluate": Program(evaluate, "h state evaluated_x evaluated_labels", "evaluation", QUICK | SUMS_AND_PRODUCTS),
    "totals": Program(batch_totals, "h state evaluated_x evaluated_labels", "totals", QUICK | SUMS_AND_PRODUCTS),
    "from_totals": Program(evaluation_of_sums, "h totals", "evaluation", QUICK | FIRST_LEVEL),
}
"""All programs by name. A run compiles those of its epoch and of its evaluation at its start, the others when it first
needs them."""

OWN = {"h", "key", "state", "order", "rest", "losses", "totals"}
"""The arguments that each member has for itself, along an axis of members; the others are shared."""

ROWS = {"batch_x", "batch_labels"}
"""The arguments whose examples are divided among devices; the others are whole on each device."""


class Made(NamedTuple):
    """A compiled program, its traced program, the shapes and types of its results, and JAX's report about its memory.

    To ask for the report takes half a millisecond, so it is kept. It is None on a platform that has none.
    """

    compiled: Compiled
    jaxpr: ClosedJaxpr
    results: PyTree
    memory: Any


class Programs:
    """The compiled programs of a specification: compiles them, and calls them.

    An epoch of examples in memory has three programs: one draws its order, one trains on the full batches, and one
    trains on the remaining examples. A stream has one program in place of them, which trains on one batch. Each program
    is compiled in a thread while the next one is traced. The shortest come first, so that all cores soon have work.
    Programs that were compiled before in this process are used again.

    The argument ``h`` of the methods are the traced hyper-parameters of a sweep's members, which share the programs.

    Args:
        spec: the specification.
        cache: the programs that were compiled before.

    Attributes:
        sharding, batch_sharding: those of the arguments, and of the batches of a stream; None for one device.
        train_state: the shapes and types of what ``start`` returns.
        jaxprs: the traced programs by name.
        compiled: the compiled programs by name, for the shapes that they were first needed for.
        compiled_now: whether one of the programs that a run starts with was not compiled before.
        metric_names: the names of the metrics of an epoch.
    """

    def __init__(self, spec: ProgramSpec, cache: ProgramCache | None = None):
        self.spec = spec
        self.sharding = on_each(spec.devices)
        self.batch_sharding = rows_of(self.sharding, spec.batch_size)
        self.jaxprs: dict[str, ClosedJaxpr] = {}
        self.compiled: dict[str, Compiled] = {}
        self._memory: dict[str, Any] = {}
        self._of_shapes: dict[tuple[Hashable, ...], Compiled] = {}
        self.compiled_now = False
        self._cache = CACHE if cache is None else cache
        self._making = threading.Lock()
        # Some programs are compiled later, perhaps in another thread or context, and must be for the same device.
        self._device = getattr(jax.config, "jax_default_device")  # noqa: B009 (type checkers do not know the name)
        self._settings = jax_settings()
        self._shapes = argument_shapes(spec)
        part = spec.data.evaluated_part
        is_streamed = part in spec.streamed
        evaluation_names = ["totals" if is_streamed else "evaluate"] if part else []
        self._make([*self._epoch_names, *evaluation_names], spec.data.part(part) if part else ())
        self.train_state: TrainState = self._shapes["state"]
        evaluation = self._shapes.get("evaluation")
        if is_streamed:
            evaluation = jax.eval_shape(mapped(spec, "from_totals"), self._shapes["h"], self._shapes["totals"])
        named = named_metrics(part, self._shapes["result"], evaluation)
        check_metric_shapes(named, spec.members)
        self.metric_names = tuple(named)

    def program(self, name: str, *examples: PyTree) -> Compiled:
        """A program that is not in ``compiled`` from the start, or one that evaluates these examples and labels.

        It is compiled now if it is needed for the first time, or for examples of new shapes. ``PROGRAMS`` lists the
        arguments of each.
        """
        key = (name, *shapes_key(examples))
        if key not in self._of_shapes:
            with self._making, jax.default_device(self._device):
                if key not in self._of_shapes:  # another thread may have made it meanwhile
                    self._make([name], examples)
        return self._of_shapes[key]

    def start(self, key: jax.Array, h: Hyperparameters = NO_HYPERPARAMETERS) -> TrainState:
        """The train state before the first epoch."""
        return self.compiled["init"](h, key)

    def epoch(
        self,
        state: TrainState,
        x: Value,
        labels: PyTree,
        number: ArrayLike,
        h: Hyperparameters = NO_HYPERPARAMETERS,
    ) -> tuple[TrainState, EpochResult]:
        """Trains for one epoch, which uses every example once."""
        order, rest = self.compiled["order"](state.key, number)
        after, losses = self.compiled["full"](h, state, order, x, labels)
        return self.compiled["last"](h, state, after, losses, rest, x, labels)

    def evaluate_batches(self, state: TrainState, batches: Iterable[tuple[Value, PyTree]]) -> Evaluation:
        """The loss and the metrics on examples that come batch by batch; the last batch may be smaller."""
        sums: EvaluationTotals | None = None
        running: EvaluationTotals | None = None
        for x, labels in batches:
            before, running = running, self.program("totals", x, labels)({}, state, x, labels)
            # The totals of the batch before are read while this batch is computed. Reading waits for them, so no more
            # than two batches are computed at a time.
            if before is not None:
                sums = _added(sums, before)
        assert running is not None  # a stream without batches is an error
        totals = jax.tree.map(lambda total, like: total.astype(like.dtype), _added(sums, running), running)
        return self.program("from_totals")({}, totals)

    @property
    def bytes_needed(self) -> int:
        """The bytes that training needs: the train state before and after a step, and the largest scratch memory.

        It is 0 on a platform that does not report what a program needs.
        """
        names = ("full", "last", "stream", "evaluate", "totals")
        sizes = [size for name, size in self._memory.items() if name in names]
        if None in sizes:
            return 0
        # The first program returns the whole train state. It is not donated, so the old and the new one exist together.
        return 2 * sizes[0].output_size_in_bytes + max(size.temp_size_in_bytes for size in sizes)

    def check_memory(self, data: PyTree) -> None:
        """Raises an InputError unless the model and its data fit in memory, or the system would kill the process."""
        needed = self.bytes_needed + sum(array.nbytes for array in jax.tree.leaves(data))
        # Virtual devices of a CPU share its memory, and each has a copy.
        if self.sharding is not None and jax.default_backend() == "cpu":
            needed *= len(self.sharding.addressable_devices)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.train_state.params))
        given = f"{parameters:,} parameters, which take {gigabytes(needed)} with gradients, optimizer state and data"
        check_bytes("net", needed, given, "Make the model or the batch smaller.")

    @property
    def member_state(self) -> TrainState:
        """The shapes and types of one member's train state: ``train_state`` without the axis of members."""
        return self.train_state if self.spec.members is None else _resized(self.train_state, lambda shape: shape[1:])

    @property
    def fingerprints(self) -> dict[str, str]:
        """A digest of what each part of the recipe computes, by the name that an error message uses for the part.

        They distinguish recipes with equal shapes of parameters: two learning rates, or two activations.
        """
        steps = [self.jaxprs[name] for name in self._epoch_names if name not in ("order", "init")]
        outputs = self.jaxprs.get("evaluate", self.jaxprs.get("totals", steps[0]))
        return {
            "initial values": fingerprint(self.jaxprs["init"]),
            "network or loss": fingerprint(outputs),
            "train step (optimizer, penalty, noise or gradient)": fingerprint(*steps),
        }

    @property
    def _epoch_names(self) -> tuple[str, ...]:
        return ("init", "stream") if "train" in self.spec.streamed else ("order", "init", "full", "last")

    def _make(self, names: Iterable[str], examples: tuple[PyTree, ...] = ()) -> None:
        """Traces programs one after another, and compiles each in a thread meanwhile, unless the cache has it.

        Args:
            names: of the programs.
            examples: examples that are evaluated, and their labels.
        """
        self._shapes |= zip(("evaluated_x", "evaluated_labels"), shapes_of(examples), strict=False)
        # Several of these programs run at the same time: in threads, or on several devices.
        are_several = self.spec.in_threads or self.spec.devices > 1
        entries: dict[str, _Entry] = {}
        compiling: dict[str, tuple[Future[Compiled], ClosedJaxpr, PyTree]] = {}
        # XLA releases Python's lock while it compiles, so the next program is traced at the same time.
        with ThreadPoolExecutor() as threads:
            for name in names:
                program = PROGRAMS[name]
                arguments = program.arguments.split()
                given = [self._shapes[argument] for argument in arguments]
                key = (name, *shapes_key(given), *self.spec.values(), *self._settings)
                entry = entries[name] = self._cache.entry(key)
                if entry.made is None:
                    places = tuple(self.batch_sharding if argument in ROWS else self.sharding for argument in arguments)
                    function = mapped(self.spec, name)
                    traced = jax.jit(function, in_shardings=places, out_shardings=self.sharding).trace(*given)
                    jaxpr, results = traced.jaxpr, shapes_of(traced.out_info)
                    check_bytes("net", bytes_of(results))  # XLA ends the process for an array that is far too large
                    options = program.options(self, jaxpr) if callable(program.options) else program.options
                    options = options | sum_options(jaxpr)
                    options = beside_others(options) if are_several else options
                    compiled = threads.submit(compile_lowered, traced.lower(), options)
                    compiling[name] = compiled, jaxpr, results
                else:
                    _, jaxpr, results, _ = entry.made
                self.jaxprs.setdefault(name, jaxpr)
                named = program.results.split()
                self._shapes |= zip(named, results if len(named) > 1 else [results], strict=True)
        for name, (future, jaxpr, results) in compiling.items():
            compiled = future.result()
            entries[name].made = Made(compiled, jaxpr, results, compiled.memory_analysis())
        self.compiled_now = self.compiled_now or bool(compiling)
        for name, entry in entries.items():
            self.compiled.setdefault(name, entry.made.compiled)
            self._memory.setdefault(name, entry.made.memory)
            self._of_shapes[(name, *shapes_key(examples))] = entry.made.compiled


def mapped(spec: ProgramSpec, name: str) -> Callable[..., PyTree]:
    """The function of a program for all members: with several, ``vmap`` maps it over the arguments in ``OWN``."""
    program = PROGRAMS[name]
    function = partial(program.function, spec)
    if spec.members is None:
        return function
    return jax.vmap(function, in_axes=tuple(0 if argument in OWN else None for argument in program.arguments.split()))


def traced_step(spec: ProgramSpec) -> tuple[ClosedJaxpr, TrainState]:
    """The traced program of a train step, and the shapes and types of its train state. Nothing is compiled.

    Convolutions are traced as such, and not as the matrix products by which a CPU may compute them.
    """
    shapes = argument_shapes(spec)
    train_state = jax.eval_shape(mapped(spec, "init"), shapes["h"], shapes["key"])
    batch = with_batches_of(spec.data, spec.batch_size).part("train")
    with tracing_for(SEVERAL_PLATFORMS):
        return jax.make_jaxpr(mapped(spec, "stream"))(shapes["h"], train_state, *batch), train_state


def argument_shapes(spec: ProgramSpec) -> dict[str, PyTree]:
    """The shapes and types of the arguments that a run starts with, by name."""
    key = shapes_of(jax.random.key(0))  # a trace for its shape would be repeated by every run
    hyperparameters = dict(spec.hyperparameters)
    if spec.members is not None:
        hyperparameters, key = _resized((hyperparameters, key), lambda shape: (spec.members, *shape))
    x, labels = spec.data.part("train")
    number = jax.ShapeDtypeStruct((), jnp.int32)
    own = {"h": hyperparameters, "key": key, "number": number, "steps": number, "x": x, "labels": labels}
    return own | {"batch_x": x, "batch_labels": labels}


def shapes_of(tree: PyTree) -> PyTree:
    """The pytree with the shape and type of each array in the place of the array."""
    return _resized(tree, lambda shape: shape)


def shapes_key(tree: PyTree) -> tuple[Hashable, ...]:
    """The structure, shapes and types of a pytree in a form that a dict can have as a key."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)


def with_batches_of(shapes: Split, examples: int) -> Split:
    """The shapes of a split with this number of training examples: those of a stream's batch in all processes."""
    x, labels = _resized(shapes.part("train"), lambda shape: (examples, *shape[1:]))
    return shapes._replace(train_x=x, train_labels=labels)


def _resized(tree: PyTree, resize: Callable[[tuple[int, ...]], tuple[int | None, ...]]) -> PyTree:
    """The types of a pytree of arrays with other shapes."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(resize(array.shape), array.dtype), tree)


def _added(sums: EvaluationTotals | None, totals: EvaluationTotals) -> EvaluationTotals:
    """The sums, or nothing if they are None, with the totals of one more batch.

    They are 64-bit numbers, since a 32-bit sum of very many batches would stop growing.
    """
    totals = jax.tree.map(lambda total: np.asarray(total).astype(np.float64), jax.device_get(totals))
    return totals if sums is None else jax.tree.map(np.add, sums, totals)


# The cache of programs

JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    SETTING_OF_BITS,
    "jax_default_matmul_precision",
    "jax_default_device",
)
"""The settings of JAX that change what is compiled. JAX's own caches depend on them, too."""


def jax_settings() -> tuple[Hashable, ...]:
    """The values of these settings."""
    return tuple(getattr(jax.config, name) for name in JAX_SETTINGS)


class _Entry:
    """What was made from some values, which hold functions weakly.

    If one of the functions no longer exists, nobody can give equal values again, and what was made is let go: the
    programs of a call such as ``fit(…, optax.adam(rate))`` are of no use after it.

    Attributes:
        made: None at first.
    """

    def __init__(self, values: tuple[Hashable, ...]):
        self.made: Any = None
        self._values = _with_weak_functions(values, self._let_go)
        self._hash = hash(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Entry) and self._values == other._values

    def _let_go(self, function: object) -> None:
        self.made = None


class ProgramCache:
    """The latest programs, by what they were made from."""

    def __init__(self):
        self._entries: dict[_Entry, _Entry] = {}
        self._lock = threading.Lock()

    def entry(self, values: tuple[Hashable, ...]) -> _Entry:
        """The entry for these values, which is a new one if there was none, or if a value cannot be compared."""
        if not is_hashable(values):  # such as a loss that holds an array
            return _Entry(())
        new = _Entry(values)
        with self._lock:
            entry = self._entries.pop(new, new)
            self._entries[entry] = entry
            if len(self._entries) > MOST_PROGRAMS:
                del self._entries[next(iter(self._entries))]
        return entry


CACHE = ProgramCache()
"""The programs of this process."""

MOST_PROGRAMS = 64
"""The largest number of programs in a cache: some eight specifications have room."""


def _with_weak_functions(value: Hashable, when_gone: Callable[[object], None]) -> Hashable:
    """The value with weak references to the functions in it and in its tuples, which compare as the functions do."""
    if isinstance(value, FunctionType):
        return ref(value, when_gone)
    if isinstance(value, tuple):
        return type(value), *(_with_weak_functions(entry, when_gone) for entry in value)
    return value


# Fingerprints

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


def surroundings() -> dict[str, str | int]:
    """What else the text of a program depends on: fingerprints are comparable only if all of this is equal."""
    versions = {module.__name__: module.__version__ for module in (jax, jaxlib, optax)}
    return {**versions, "device": jax.local_devices()[0].device_kind, "cores": cores()}


def _constants(program: ClosedJaxpr) -> Iterator[ArrayLike]:
    """The arrays in a program and in the programs inside it, in the order of its text."""
    yield from program.consts
    for equation in program.jaxpr.eqns:
        for inner in inner_programs(equation):
            yield from _constants(inner)
