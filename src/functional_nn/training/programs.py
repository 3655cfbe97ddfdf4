"""The compiled programs of a run, kept for the next run of the same network on data of the same shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.layer import Layer
from functional_nn.training.epoch import make_epoch, make_evaluate
from functional_nn.training.precision import Precision
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import LossFunction, PenaltyFunction, make_train_step


class Split(NamedTuple):
    """Training and test examples as arrays, for data that are not a ``Dataset``."""

    train_x: Any
    train_labels: Any
    test_x: Any
    test_labels: Any


RUN_ONCE: Any = {"xla_backend_optimization_level": 0}
"""For a program whose compilation takes far longer than its one run.

It may round differently: initial values here and from ``create_train_state`` can differ in the last bit.
"""


class Programs:
    """``start(key)``, ``epoch(train_state, x, labels, number)`` and ``evaluate(train_state, x, labels)``, compiled.

    ``careful_epoch`` is ``epoch`` with steps that keep the last finite state. It is compiled when a run first needs it,
    since looking at every gradient would lengthen every compilation for what few runs meet. The programs are compiled
    side by side, the longest first.
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

        def create(key: jax.Array) -> TrainState:
            return create_train_state(net, optimizer, key, in_shape, precision)

        train_state = jax.eval_shape(create, jax.random.key(0))

        def lowered_epoch(keep_finite: bool) -> Any:
            options: Any = {"penalty": penalty, "precision": precision, "keep_finite": keep_finite}
            epoch = make_epoch(make_train_step(net, loss, optimizer, **options), batch_size)
            number = jax.ShapeDtypeStruct((), jnp.int32)
            return jax.jit(epoch).lower(train_state, shapes.train_x, shapes.train_labels, number)

        with ThreadPoolExecutor() as threads:
            epoch = threads.submit(lowered_epoch(False).compile)
            start = threads.submit(jax.jit(create).lower(jax.random.key(0)).compile, RUN_ONCE)
            evaluate = jax.jit(make_evaluate(net, loss, precision=precision))
            lowered_evaluate = evaluate.lower(train_state, shapes.test_x, shapes.test_labels)
            self.evaluate: Any = lowered_evaluate.compile()
            self.epoch: Any = epoch.result()
            self.start: Any = start.result()
        self._careful = lambda: lowered_epoch(True).compile()

    @cached_property
    def careful_epoch(self) -> Any:
        """``epoch`` with ``keep_finite`` steps."""
        return self._careful()


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
