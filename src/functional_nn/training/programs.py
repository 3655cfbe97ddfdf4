"""The compiled programs of a run, kept for the next run of the same network on data of the same shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.layer import Layer
from functional_nn.training.epoch import EpochResult, make_epoch, make_epoch_parts, make_evaluate
from functional_nn.training.precision import Precision
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import LossFunction, PenaltyFunction, TrainStep, make_train_step


class Split(NamedTuple):
    """Training and test examples as arrays, for data that are not a ``Dataset``."""

    train_x: Any
    train_labels: Any
    test_x: Any
    test_labels: Any


QUICK: Any = {"xla_cpu_use_fusion_emitters": False}
"""For a program that is a small part of an epoch: XLA's older generator of kernels for the CPU, which takes two thirds
of the time. Programs may be slower for it."""

RUN_ONCE: Any = {"xla_backend_optimization_level": 0}
"""For a program whose compilation takes far longer than its one run.

It may round differently: initial values here and from ``create_train_state`` can differ in the last bit.
"""


class Programs:
    """``start(key)``, ``epoch(train_state, x, labels, number)`` and ``evaluate(train_state, x, labels)``, compiled.

    ``careful_epoch`` is ``epoch`` with steps that keep the last finite state. It is compiled when a run first needs it,
    since looking at every gradient would lengthen every compilation for what few runs meet. An epoch is two programs,
    one for the full batches and one for what is left over. Each is compiled as soon as it is traced, while the next one
    is traced; the first is the shortest, so that both cores are soon at work.
    """

    def __init__(
        self,
        net: Layer,
        loss: LossFunction,
        optimizer: optax.GradientTransformation,
        penalty: PenaltyFunction | None,
        batch_size: int,
        precision: Precision,
        shapes: Split,
    ):
        in_shape = shapes.train_x.shape[1:]
        number = jax.ShapeDtypeStruct((), jnp.int32)
        train_data, test_data = (shapes.train_x, shapes.train_labels), (shapes.test_x, shapes.test_labels)

        def create(key: jax.Array) -> TrainState:
            return create_train_state(net, optimizer, key, in_shape, precision)

        def train_step(keep_finite: bool) -> TrainStep:
            return make_train_step(net, loss, optimizer, penalty=penalty, precision=precision, keep_finite=keep_finite)

        full_batches, last_batch = make_epoch_parts(train_step(False), batch_size)
        with ThreadPoolExecutor() as threads:

            def compiling(function: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
                """The shapes that a function gives, and its program to come."""
                traced = jax.jit(function).trace(*arguments)
                return traced.out_info, threads.submit(_compile, traced.lower(), options)

            train_state, start = compiling(create, jax.random.key(0), **QUICK, **RUN_ONCE)
            reached, full = compiling(full_batches, train_state, *train_data, number)
            any_full = reached[1].size > 0
            _, last = compiling(last_batch, *reached, *train_data, **(QUICK if any_full else {}))
            evaluate = make_evaluate(net, loss, precision=precision)
            _, evaluation = compiling(evaluate, train_state, *test_data, **QUICK)
        self.start: Any = start.result()
        self.evaluate: Any = evaluation.result()
        self._full_batches, self._last_batch = full.result(), last.result()
        careful = make_epoch(train_step(True), batch_size)
        self._careful = lambda: jax.jit(careful).lower(train_state, *train_data, number).compile()

    def epoch(self, train_state: TrainState, x: Any, labels: Any, number: Any) -> tuple[TrainState, EpochResult]:
        """Every example once."""
        return self._last_batch(*self._full_batches(train_state, x, labels, number), x, labels)

    @cached_property
    def careful_epoch(self) -> Any:
        """``epoch`` with ``keep_finite`` steps."""
        return self._careful()


def _compile(lowered: Any, options: dict[str, Any]) -> Any:
    """With these options of XLA, without those of ``QUICK`` where its version does not have them."""
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError:
        return lowered.compile({name: value for name, value in options.items() if name not in QUICK})


def compiled(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    penalty: PenaltyFunction | None,
    batch_size: int,
    precision: Precision,
    split: Split,
) -> tuple[Programs, bool]:
    """The programs for these arguments, and whether they had to be compiled now; the last few are kept."""
    shapes = Split(*(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in split))
    arguments = (net, loss, optimizer, penalty, batch_size, precision, shapes)
    try:
        hash(arguments)
    except TypeError:
        return Programs(*arguments), True
    misses = _programs.cache_info().misses
    programs = _programs(*arguments, tuple(getattr(jax.config, name) for name in SETTINGS))
    return programs, _programs.cache_info().misses > misses


SETTINGS = ("jax_enable_x64", "jax_default_prng_impl", "jax_default_matmul_precision", "jax_default_device")
"""What JAX's own caches would look at besides the arguments."""


@lru_cache(maxsize=8)
def _programs(net, loss, optimizer, penalty, batch_size, precision, shapes, settings) -> Programs:
    return Programs(net, loss, optimizer, penalty, batch_size, precision, shapes)
