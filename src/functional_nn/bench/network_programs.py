"""Programs of a network, and their measurements: single steps, and the programs of fit and sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.stages import Compiled

from functional_nn.bench.benchmark import Benchmark, benchmark, measure_call
from functional_nn.bench.compiled_program import CompiledProgram, MeasuredCall, Timing, clocked, compile_empty_program
from functional_nn.bench.layer_times import LayerCost, layer_costs
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shape
from functional_nn.core.texts import suggest
from functional_nn.data.dataset import Split
from functional_nn.jaxprs.walk import trace
from functional_nn.jaxprs.xla_options import compiling_anew
from functional_nn.losses.classification import cross_entropy
from functional_nn.losses.loss import Loss
from functional_nn.models.named_models import model as make_model
from functional_nn.sweeps.plan import planned
from functional_nn.sweeps.static_groups import member_spec
from functional_nn.training.devices import Device, computing_on
from functional_nn.training.precision import as_precision, cast
from functional_nn.training.programs import ProgramCache, Programs, ProgramSpec
from functional_nn.training.recipe import Hyperparameters, Recipe, with_gradient
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import TrainStep, forward, make_train_step

FUNCTIONS = ("step", "predict", "gradient", "hand")
PROGRAMS = ("train", *FUNCTIONS, "sweep")
"""The programs that ``measure`` knows: those of ``fit`` and of ``sweep``, and the functions of ``workload``."""


class BenchmarkCase(NamedTuple):
    """A program of a network to measure, or to compile for a chip.

    Args:
        what: one of ``PROGRAMS``.
        batch_size: the number of examples in a batch.
        precision: its name.
        members: the number of models that a sweep trains; 1 for other programs.
    """

    what: str
    batch_size: int
    precision: str
    members: int = 1

    @property
    def steps(self) -> int:
        """The number of steps that one call runs."""
        return STEPS if self.what in ("train", "sweep") else 1

    def to_dict(self) -> dict[str, object]:
        """The case, ready for JSON."""
        return {**self._asdict(), "steps": self.steps}


class Measured(NamedTuple):
    """A case and its measurements."""

    case: BenchmarkCase
    result: Benchmark

    @property
    def step(self) -> Timing:
        """The timing of one step of all models. One call of ``fit``'s program runs several steps."""
        return self.result.timing.divided_by(self.case.steps)

    @property
    def seconds_per_example(self) -> float:
        """Seconds for one example of one model."""
        return self.step.median / self.case.batch_size / self.case.members

    def to_dict(self) -> dict[str, object]:
        """The case and the measurements, ready for JSON."""
        return {**self.case.to_dict(), **self.result.to_dict()}


def cases_of(
    what: Sequence[str], batch_sizes: Sequence[int], precisions: Sequence[str], members: Sequence[int] = (1,)
) -> list[BenchmarkCase]:
    """Makes the cases of all combinations. Only sweeps use ``members``."""
    return [
        BenchmarkCase(name, batch_size, precision, count)
        for precision in precisions
        for batch_size in batch_sizes
        for name in what
        for count in (members if name == "sweep" else (1,))
    ]


def measure(network: MeasuredNetwork, case: BenchmarkCase, *, seconds: float = 2.0, layers: bool = False) -> Measured:
    """Measures a case for about ``seconds``; with ``layers``, also a train step layer by layer."""
    what, batch_size, precision, members = case
    if what == "train":
        costs = _layers_of_a_step(network, batch_size, precision, seconds) if layers else ()
        result = measure_call(what, fit_call(network, batch_size, precision), seconds, costs)
    elif what == "sweep":
        call = sweep_call(network, batch_size, precision, members)
        result = measure_call(f"sweep of {members}", call, seconds, ())
    else:
        made = workload(what, network, batch_size, precision)
        result = benchmark(made.function, *made.arguments, name=made.name, donate=made.donate, seconds=seconds)
    return Measured(case, result)


def _layers_of_a_step(
    network: MeasuredNetwork, batch_size: int, precision: str, seconds: float
) -> tuple[LayerCost, ...]:
    """Measures the layers of a single step, because layers cannot be taken out of the loop over steps."""
    step = workload("step", network, batch_size, precision)
    return layer_costs(trace(step.function, *step.arguments), step.arguments, seconds / 2)


class Workload(NamedTuple):
    """A function, its arguments, and the numbers of the arguments that may be donated."""

    name: str
    function: Callable[..., object]
    arguments: tuple[object, ...]
    donate: tuple[int, ...]


class MeasuredNetwork(NamedTuple):
    """The network to measure, and how it is trained.

    Args:
        net: the network.
        loss: the loss.
        make_optimizer: makes the optimizer from a learning rate, which a sweep gives as a traced value.
        in_shape: the shape of one example.
        classes: the number of classes.
        learning_rate: the learning rate of all runs.
    """

    net: Layer
    loss: Loss
    make_optimizer: Callable[[float | jax.Array], optax.GradientTransformation]
    in_shape: Shape
    classes: int
    learning_rate: float = 1e-3

    @property
    def trained_net(self) -> Layer:
        """The network as ``fit`` and ``sweep`` train it by default, by its formula if that is faster."""
        return with_gradient(self.net, "auto")[0]

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with the learning rate of all runs."""
        return self.make_optimizer(self.learning_rate)


def named_network(model: str, hidden: tuple[int, ...] | None = None) -> MeasuredNetwork:
    """A named model on images of 28 × 28 in ten classes.

    Args:
        model: the name of the model.
        hidden: its hidden sizes; None for the model's own.

    Raises:
        InputError: for an unknown name, or sizes that the model does not take.
    """
    net = make_model(model, 10) if hidden is None else make_model(model, 10, hidden=hidden)
    return MeasuredNetwork(net, cross_entropy, optax.adam, (28, 28, 1), 10)


def workload(what: str, network: MeasuredNetwork, batch_size: int, precision: str = "float32") -> Workload:
    """Makes one of ``FUNCTIONS`` with a batch of random examples.

    ``step`` is a train step with its optimizer, ``predict`` the outputs in evaluation, ``gradient`` the gradient of the
    loss by ``jax.grad``, and ``hand`` the same gradient by the hand-derived backward pass.

    Raises:
        InputError: for an unknown name or precision.
    """
    if what not in FUNCTIONS:
        raise InputError("what", "a known name", repr(what), suggest(what, FUNCTIONS))
    step, (train_state, x, labels) = step_and_arguments(network, batch_size, precision)
    if what == "step":
        return Workload(what, step, (train_state, x, labels), (0,))

    policy = as_precision(precision)
    net, loss = network.net, network.loss
    params, state, key = train_state.params, train_state.state, train_state.key

    def predict(params, state, x):
        return forward(net, policy, params, state, x, train=False)[0]

    def value(params, state, x, labels, key):
        return loss(forward(net, policy, params, state, x, train=True, key=key)[0], labels)

    def hand(params, state, x, labels, key):
        # The casts are those of forward and of its backward pass, so both gradients do the same work.
        compute_params, x = cast(params, policy.compute), cast(x, policy.compute)
        y, _, pullback = net.vjp(compute_params, state, x, train=True, key=key)
        y_bar = loss.gradient(cast(y, policy.output), labels)
        params_bar, _ = pullback(cast(y_bar, y.dtype))
        return cast(params_bar, policy.parameters)

    if what == "predict":
        return Workload(what, predict, (params, state, x), ())
    function = hand if what == "hand" else jax.grad(value)
    return Workload(what, function, (params, state, x, labels, key), ())


def step_and_arguments(
    network: MeasuredNetwork, batch_size: int, precision: str
) -> tuple[TrainStep, tuple[TrainState, jax.Array, jax.Array]]:
    """Makes a train step and its arguments: a train state, a batch and its labels."""
    policy = as_precision(precision)
    key_start, key_x, key_labels = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(key_x, (batch_size, *network.in_shape), policy.parameters)
    labels = jax.random.randint(key_labels, (batch_size,), 0, network.classes, jnp.int32)
    net, optimizer = network.trained_net, network.optimizer

    def start(key):
        return create_train_state(net, optimizer, key, network.in_shape, policy)

    step = make_train_step(net, network.loss, optimizer, precision=policy, keep_finite=False)
    return step, (jax.jit(start)(key_start), x, labels)


STEPS = 32
"""The number of train steps in the measured program: an epoch of this many full batches."""
TRAIN_STATE = 1
"""The number of the train state among the program's arguments. ``fit`` and ``sweep`` do not donate it: if an epoch
produces a non-finite value, it is rerun from the state before."""


def fit_call(network: MeasuredNetwork, batch_size: int, precision: str) -> MeasuredCall:
    """The program that ``fit`` runs in each epoch for all full batches."""
    spec = fit_spec(network, batch_size, precision)
    execution = _execution(spec, None, {}, jax.random.key(0), _random_split(network, batch_size))
    return _call([execution], [execution], execution.run, execution.run_empty)


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
    executions = [on_devices[number % len(on_devices)] for number in range(math.ceil(members / plan.members))]
    threads = ThreadPoolExecutor(plan.workers)
    return _call(
        on_devices,
        executions,
        run=lambda: list(threads.map(_Execution.run, executions)),
        run_empty=lambda: list(threads.map(_Execution.run_empty, executions)),
    )


@lru_cache(maxsize=1)
def _sweep_executions(
    network: MeasuredNetwork, batch_size: int, precision: str, mapped: int | None, device_count: int, workers: int
) -> tuple[_Execution, ...]:
    """The programs of a sweep on each device.

    The latest programs are cached. On a CPU, all sweeps with at least as many members as cores use the same programs.
    """
    learning_rate = np.asarray(network.learning_rate, as_precision(precision).parameters)
    rates = {"learning_rate": learning_rate if mapped is None else np.full(mapped, learning_rate)}
    key = jax.random.key(0)
    keys = key if mapped is None else jax.random.split(key, mapped)
    split = _random_split(network, batch_size)
    spec = sweep_spec(network, batch_size, precision, mapped, workers)
    devices = jax.local_devices()[:device_count]
    return tuple(_execution(spec, device, rates, keys, split) for device in devices)


def fit_spec(network: MeasuredNetwork, batch_size: int, precision: str) -> ProgramSpec:
    """The specification of the programs of ``fit``, for an epoch of ``STEPS`` batches."""
    recipe = _recipe(network, network.learning_rate)
    shapes = _data_shapes(network, batch_size)
    return ProgramSpec(recipe, batch_size, as_precision(precision), shapes)


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


class _Execution(NamedTuple):
    """The programs on one device, and the arguments of an execution there."""

    programs: Programs
    arguments: tuple[object, ...]
    empty: Compiled
    compile_seconds: float

    def run(self) -> None:
        jax.block_until_ready(self.programs.compiled["full"](*self.arguments))

    def run_empty(self) -> None:
        jax.block_until_ready(self.empty(*self.arguments))


def _execution(
    spec: ProgramSpec, device: Device, hyperparameters: Mapping[str, np.ndarray], keys: jax.Array, split: Split
) -> _Execution:
    """Compiles the programs for a device, and makes the arguments of the first epoch's full batches there."""
    with compiling_anew():
        with computing_on(device):
            seconds, programs = clocked(lambda: Programs(spec, ProgramCache()))
        hyperparameters, keys, x, labels = jax.device_put((hyperparameters, keys, *split.part("train")), device)
        train_state = programs.start(keys, hyperparameters)
        order, _ = programs.order(train_state.key, np.int32(0))
        arguments = hyperparameters, train_state, order, x, labels
        return _Execution(programs, arguments, compile_empty_program(arguments), seconds)


def _call(
    on_devices: Sequence[_Execution],
    executions: Sequence[_Execution],
    run: Callable[[], object],
    run_empty: Callable[[], object],
) -> MeasuredCall:
    """The call that runs executions, of programs that were compiled for several devices."""
    first = on_devices[0]
    executable: Compiled = first.programs.compiled["full"]
    first_run, _ = clocked(executable, *first.arguments)
    stages = {"compile": sum(one.compile_seconds for one in on_devices), "first_run": first_run}
    return MeasuredCall(
        CompiledProgram(first.programs.jaxprs["full"], executable, stages),
        first.arguments,
        run,
        run_empty,
        executions=len(executions),
        kept=(TRAIN_STATE,),
        program_copies=min(len(on_devices), len(executions)),
    )
