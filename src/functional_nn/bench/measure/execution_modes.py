"""The same train step in four ways: operation by operation, compiled, an epoch at a time, and a whole run at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.bench.measure.timing import Timing, clocked, race
from functional_nn.bench.measure.workloads import Subject, workload
from functional_nn.jaxprs.xla_options import compile_lowered, step_options, sum_options
from functional_nn.training.epoch import make_epoch
from functional_nn.training.evaluate import make_evaluate
from functional_nn.training.whole_run import make_run

STEPS = 32
"""In an epoch."""
EPOCHS = 2
"""In a run."""


class Mode(NamedTuple):
    """A way to run steps, and the seconds of one.

    Args:
        name: ``eager`` (each operation by itself, from Python), ``step`` (a compiled step, from a loop in Python),
            ``epoch`` (a compiled ``scan`` over the steps of an epoch) or ``run`` (a scan over epochs, each with an
            evaluation of one batch).
        compile: seconds until the first call was back.
        timing: seconds of a step.
    """

    name: str
    compile: float
    timing: Timing

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"mode": self.name, "compile": self.compile, "timing": self.timing.to_dict()}


def modes(subject: Subject, batch_size: int, precision: str = "float32", *, seconds: float = 2.0) -> tuple[Mode, ...]:
    """Times a step in every mode, in turns for so many seconds, at least 5 rounds.

    An epoch has 32 batches and shuffles them; the other modes take one batch again and again. Every mode starts from
    the same state. Epoch and run are compiled with the options that ``fit`` gives its loops.
    """
    made = workload("train", subject, batch_size, precision)
    state, x, labels = made.arguments
    all_x, all_labels = (jnp.concatenate([array] * STEPS) for array in (x, labels))
    epoch = make_epoch(made.function, batch_size)
    evaluate = make_evaluate(subject.net, subject.loss, precision=precision, batch_size=batch_size)
    run = make_run(epoch, evaluate, EPOCHS)
    step = jax.jit(made.function, donate_argnums=0)
    start = state, all_x, all_labels

    def eager():
        with jax.disable_jit():
            return made.function(state, x, labels)

    def steps():
        own, loss = jax.tree.map(jnp.copy, state), None
        for _ in range(STEPS):
            own, loss = step(own, x, labels)
        return own, loss

    compiled: dict[str, Any] = {}

    def looped(name, loops, function, *arguments):
        """With what ``fit`` compiles its loops with, when first called."""
        if name not in compiled:
            traced = jax.jit(function).trace(*arguments)
            compiled[name] = compile_lowered(
                traced.lower(), step_options(traced.jaxpr, loops) | sum_options(traced.jaxpr)
            )
        return compiled[name](*arguments)

    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "eager": (1, eager),
        "step": (STEPS, steps),
        "epoch": (STEPS, lambda: looped("epoch", 1, epoch, *start, 0)),
        "run": (STEPS * EPOCHS, lambda: looped("run", 2, run, *start, x, labels)),
    }
    first = {name: clocked(call)[0] for name, (_, call) in ways.items()}
    times = race({name: lambda call=call: clocked(call)[0] for name, (_, call) in ways.items()}, seconds)
    return tuple(
        Mode(name, first[name], Timing(tuple(tuple(s / count for s in calls) for calls in times[name].rounds)))
        for name, (count, _) in ways.items()
    )
