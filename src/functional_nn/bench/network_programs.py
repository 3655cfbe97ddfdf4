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
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shape, cast
from functional_nn.data.dataset import Split
from functional_nn.jaxprs.walk import trace
from functional_nn.jaxprs.xla_options import compiling_anew
from functional_nn.losses.classification import cross_entropy
from functional_nn.losses.loss import Loss
from functional_nn.models.named_models import model as make_model
from functional_nn.sweeps.plan import planned
from functional_nn.training.devices import Device, computing_on
from functional_nn.training.precision import as_precision
from functional_nn.training.programs import ProgramCache, Programs, ProgramSpec
from functional_nn.training.recipe import Recipe, with_gradient
from functional_nn.training.state import create_train_state
from functional_nn.training.step import forward, make_train_step

STEPS = 32
"""The number of train steps in the measured program: an epoch of this many full batches."""
LEARNING_RATE = 1e-3
TRAIN_STATE = 1
"""The number of the train state among the program's arguments. ``fit`` and ``sweep`` do not donate it: if an epoch
produces a non-finite value, it is rerun from the state before."""


class BenchmarkCase(NamedTuple):
    """A program of a network to measure, or to compile for a chip.

    Args:
        what: one of ``names.PROGRAMS``.
        batch_size: the number of examples in a batch.
        precision: its name.
        members: the number of models that a sweep trains; 1 for other programs.
    """

    what: str
    batch_size: int
    precision: str
    members: int = 1

    @property
    def name(self) -> str:
        """The program in words."""
        return f"sweep of {self.members}" if self.what == "sweep" else self.what

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
    if case.steps == 1:
        made = workload(case.what, network, case.batch_size, case.precision)
        result = benchmark(made.function, *made.arguments, name=case.what, donate=made.donate, seconds=seconds)
        return Measured(case, result)
    costs: tuple[LayerCost, ...] = ()
    if layers and case.what == "train":  # of a single step, because layers cannot be taken out of the loop over steps
        step = workload("step", network, case.batch_size, case.precision)
        costs = layer_costs(trace(step.function, *step.arguments), step.arguments, seconds / 2)
    return Measured(case, measure_call(case.name, epoch_call(network, case), seconds, costs))


class Workload(NamedTuple):
    """A function, its arguments, and the numbers of the arguments that may be donated."""

    function: Callable[..., object]
    arguments: tuple[object, ...]
    donate: tuple[int, ...] = ()


class MeasuredNetwork(NamedTuple):
    """The network to measure, and how it is trained.

    Args:
        net: the network.
        loss: the loss.
        make_optimizer: makes the optimizer from a learning rate, which a sweep gives as a traced value.
        in_shape: the shape of one example.
        classes: the number of classes.
    """

    net: Layer
    loss: Loss
    make_optimizer: Callable[[float | jax.Array], optax.GradientTransformation]
    in_shape: Shape
    classes: int

    def recipe(self, learning_rate: float | jax.Array = LEARNING_RATE) -> Recipe:
        """What ``fit`` and ``sweep`` train by default: the network by its formula if that is faster."""
        return Recipe(with_gradient(self.net, "auto")[0], self.loss, self.make_optimizer(learning_rate))


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
    """A function that is called from Python, with a batch of random examples.

    ``step`` is a train step with its optimizer, ``predict`` the outputs in evaluation, ``gradient`` the gradient of the
    loss by ``jax.grad``, and ``hand`` the same gradient by the hand-derived backward pass.
    """
    policy = as_precision(precision)
    key_start, key_x, key_labels = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(key_x, (batch_size, *network.in_shape), policy.parameters)
    labels = jax.random.randint(key_labels, (batch_size,), 0, network.classes, jnp.int32)
    recipe = network.recipe()

    def start(key):
        return create_train_state(recipe.net, recipe.optimizer, key, network.in_shape, policy)

    train_state = jax.jit(start)(key_start)
    if what == "step":
        step = make_train_step(recipe.net, recipe.loss, recipe.optimizer, precision=policy, keep_finite=False)
        return Workload(step, (train_state, x, labels), (0,))

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
        return Workload(predict, (params, state, x))
    return Workload(hand if what == "hand" else jax.grad(value), (params, state, x, labels, key))


def epoch_spec(network: MeasuredNetwork, case: BenchmarkCase, workers: int = 1) -> ProgramSpec:
    """The specification of the programs of ``fit``, or of a sweep over learning rates, for ``STEPS`` batches.

    Several members are trained by one program. ``workers`` threads run the programs at the same time.
    """
    # The examples are bytes, like the images of a data set.
    x = jax.ShapeDtypeStruct((STEPS * case.batch_size, *network.in_shape), np.uint8)
    labels = jax.ShapeDtypeStruct((STEPS * case.batch_size,), np.int32)
    precision, shapes = as_precision(case.precision), Split(x, labels, x, labels)
    if case.what == "train":
        return ProgramSpec(network.recipe(), case.batch_size, precision, shapes)

    def recipe(hyperparameters):
        return network.recipe(hyperparameters["learning_rate"])

    return ProgramSpec(
        recipe,
        case.batch_size,
        precision,
        data=shapes,
        hyperparameters=(("learning_rate", jax.ShapeDtypeStruct((), np.dtype(precision.parameters))),),
        members=case.members if case.members > 1 else None,
        in_threads=workers > 1,
    )


def epoch_call(network: MeasuredNetwork, case: BenchmarkCase) -> MeasuredCall:
    """The program that ``fit`` runs in each epoch for all full batches, or an epoch of a sweep with its default plan.

    In a sweep on a CPU each member has its own execution of the program, and threads run several of them at the same
    time. On an accelerator, and for small members on a CPU, one execution trains many members, mapped by ``vmap``.
    """
    in_turn = map
    if case.what == "train":
        one = _execution(epoch_spec(network, case), network.classes, None, {}, jax.random.key(0))
        on_devices = executions = (one,)
    else:
        plan = planned("auto", [case.members], [epoch_spec(network, case._replace(members=1))])
        on_devices = _sweep_executions(network, case._replace(members=plan.members), plan.workers)
        # All members of one device do the same work, so they share their arguments. Devices take turns, as in a sweep.
        count = math.ceil(case.members / plan.members)
        executions = tuple(on_devices[number % len(on_devices)] for number in range(count))
        in_turn = ThreadPoolExecutor(plan.workers).map
    first = on_devices[0]
    executable: Compiled = first.programs.compiled["full"]
    first_run, _ = clocked(executable, *first.arguments)
    stages = {"compile": sum(one.compile_seconds for one in on_devices), "first_run": first_run}
    return MeasuredCall(
        CompiledProgram(first.programs.jaxprs["full"], executable, stages),
        first.arguments,
        run=lambda: list(in_turn(_Execution.run, executions)),
        run_empty=lambda: list(in_turn(_Execution.run_empty, executions)),
        executions=len(executions),
        kept=(TRAIN_STATE,),
        program_copies=min(len(on_devices), len(executions)),
    )


@lru_cache(maxsize=1)
def _sweep_executions(network: MeasuredNetwork, case: BenchmarkCase, workers: int) -> tuple[_Execution, ...]:
    """The program of a sweep on each device. On a CPU it is often the same for any number of models: it is kept."""
    spec, key = epoch_spec(network, case, workers), jax.random.key(0)
    rate = np.asarray(LEARNING_RATE, spec.precision.parameters)
    rates = {"learning_rate": rate if spec.members is None else np.full(spec.members, rate)}
    keys = key if spec.members is None else jax.random.split(key, spec.members)
    devices = jax.local_devices()[:workers]
    return tuple(_execution(spec, network.classes, device, rates, keys) for device in devices)


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
    spec: ProgramSpec, classes: int, device: Device, hyperparameters: Mapping[str, np.ndarray], keys: jax.Array
) -> _Execution:
    """Compiles the programs for a device, and makes the arguments of the first epoch's full batches there."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, spec.data.train_x.shape, np.uint8)
    labels = random.integers(0, classes, spec.data.train_labels.shape, np.int32)
    with compiling_anew():
        with computing_on(device):
            seconds, programs = clocked(lambda: Programs(spec, ProgramCache()))
        hyperparameters, keys, x, labels = jax.device_put((hyperparameters, keys, x, labels), device)
        train_state = programs.start(keys, hyperparameters)
        order, _ = programs.compiled["order"](train_state.key, np.int32(0))
        arguments = hyperparameters, train_state, order, x, labels
        return _Execution(programs, arguments, compile_empty_program(arguments), seconds)
