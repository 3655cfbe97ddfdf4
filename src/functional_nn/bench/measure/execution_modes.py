"""Times of a train step run in four modes: operation by operation, compiled, an epoch at once, and a run at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from functional_nn.bench.measure.timing import Timing, clocked, race
from functional_nn.bench.measure.training_programs import STEPS
from functional_nn.bench.measure.workloads import MeasuredNetwork, step_and_arguments
from functional_nn.jaxprs.xla_options import compile_lowered, compiling_anew, step_options, sum_options
from functional_nn.training.epoch import make_epoch
from functional_nn.training.evaluate import make_evaluate
from functional_nn.training.whole_run import make_run

EPOCHS = 2
"""The number of epochs in a run."""


class Mode(NamedTuple):
    """A mode of running train steps, and the seconds of one step.

    Args:
        name: ``eager`` (each operation by itself, from Python), ``step`` (a compiled step, in a loop in Python),
            ``epoch`` (a compiled ``scan`` over the steps of an epoch) or ``run`` (a ``scan`` over epochs, each with an
            evaluation of one batch).
        compile: seconds until the first call has returned its results.
        timing: the timing of a step.
    """

    name: str
    compile: float
    timing: Timing

    def to_dict(self) -> dict[str, object]:
        """The mode and its times, ready for JSON."""
        return {"mode": self.name, "compile": self.compile, "timing": self.timing.to_dict()}


def modes(
    network: MeasuredNetwork, batch_size: int, precision: str = "float32", *, seconds: float = 2.0
) -> tuple[Mode, ...]:
    """Times a step in every mode. The modes take turns for about ``seconds``, in at least 5 rounds.

    An epoch has 32 batches and shuffles them; the modes ``eager`` and ``step`` use one batch again and again. Every
    mode starts from the same state. ``epoch`` and ``run`` are compiled with the options of ``fit``.
    """
    train_step, (state, x, labels) = step_and_arguments(network, batch_size, precision)
    # The content of the batches does not change the time.
    all_x, all_labels = (jnp.concatenate([array] * STEPS) for array in (x, labels))
    epoch = make_epoch(train_step, batch_size)
    evaluate = make_evaluate(network.net, network.loss, precision=precision, batch_size=batch_size)
    run = make_run(epoch, evaluate, EPOCHS)
    compiled_step = jax.jit(train_step, donate_argnums=0)

    def run_eagerly():
        with jax.disable_jit():
            return train_step(state, x, labels)

    def run_steps():
        # The step donates its train state, and the next call needs it again.
        train_state, loss = jax.tree.map(jnp.copy, state), None
        for _ in range(STEPS):
            train_state, loss = compiled_step(train_state, x, labels)
        return train_state, loss

    run_epoch = CompiledWhenCalled(epoch, (state, all_x, all_labels, 0), loops=1)
    run_all = CompiledWhenCalled(run, (state, all_x, all_labels, x, labels), loops=2)
    calls: dict[str, Callable[[], object]] = {
        "eager": run_eagerly,
        "step": run_steps,
        "epoch": run_epoch,
        "run": run_all,
    }
    steps = {"eager": 1, "step": STEPS, "epoch": STEPS, "run": STEPS * EPOCHS}

    with compiling_anew():
        first_seconds = {name: clocked(call)[0] for name, call in calls.items()}
    times = race({name: lambda call=call: clocked(call)[0] for name, call in calls.items()}, seconds)
    return tuple(Mode(name, first_seconds[name], times[name].divided_by(steps[name])) for name in calls)


class CompiledWhenCalled:
    """A call of a function that is compiled with the options of ``fit`` when it is first called.

    Args:
        function: the function.
        arguments: its arguments.
        loops: the number of loops around a train step.
    """

    def __init__(self, function: Callable[..., object], arguments: tuple[object, ...], loops: int):
        self._function, self._arguments, self._loops = function, arguments, loops

    def __call__(self) -> object:
        return self._executable(*self._arguments)

    @cached_property
    def _executable(self) -> Compiled:
        traced = jax.jit(self._function).trace(*self._arguments)
        options = step_options(traced.jaxpr, self._loops) | sum_options(traced.jaxpr)
        return compile_lowered(traced.lower(), options)
