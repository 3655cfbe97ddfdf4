"""The compiled programs of a run, kept for the next run of the same network on data of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.layer import Layer
from functional_nn.training.compiler import BOTH_CORES, QUICK, RUN_ONCE, compile_lowered
from functional_nn.training.devices import divided, of_each, on_each
from functional_nn.training.epoch import EpochResult, drawn_batches, make_epoch_parts, make_evaluate
from functional_nn.training.kept_programs import keeper_of
from functional_nn.training.precision import Precision
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import LossFunction, PenaltyFunction, make_train_step


class Split(NamedTuple):
    """Training and test examples as arrays, for data that are not a ``Dataset``."""

    train_x: Any
    train_labels: Any
    test_x: Any
    test_labels: Any


class Recipe(NamedTuple):
    """What a run trains: the network, its loss, the optimizer, and the penalty or None."""

    net: Layer
    loss: LossFunction
    optimizer: optax.GradientTransformation
    penalty: PenaltyFunction | None = None

    def __call__(self, hyperparameters: Mapping[str, Any]) -> Recipe:
        """Itself: the recipe of a run alone, which has no hyper-parameters."""
        return self


MANY_BATCHES = 50
"""From so many full batches on what is left over is compiled as if it ran once: that takes a quarter of the time, and a
run two to five times as long, up to 5% of an epoch.
"""


class Programs:
    """``start(h, key)``, ``epoch(h, train_state, …)`` and ``evaluate(h, train_state, x, labels)``, compiled.

    ``h`` are the traced hyper-parameters, of which ``recipe_of`` makes the recipe inside each program; a run alone has
    none. With ``members`` every program is mapped over so many models: hyper-parameters, keys and train states have a
    leading axis, data have not. With ``shared_order`` an epoch's order is drawn from the key that it is given last.
    ``unroll`` steps stand in the body of an epoch's loop. ``train_state`` has the shapes of what ``start`` gives. With
    several ``devices`` everything lies on each of them, as ``sharding`` says, and each computes its share of a batch.

    ``careful_epoch`` is ``epoch`` with steps that keep the last finite state. It is compiled when a run first needs it,
    since looking at every gradient would lengthen every compilation for what few runs meet. An epoch is three programs,
    for its order, for the full batches and for what is left over. Each is compiled as soon as it is traced, while the
    next one is traced; the first two are the shortest, so that both cores are soon at work.
    """

    def __init__(
        self,
        recipe_of: Callable[[Mapping[str, Any]], Recipe],
        hyperparameters: Mapping[str, Any],
        batch_size: int,
        precision: Precision,
        shapes: Split,
        members: int | None = None,
        shared_order: bool = False,
        unroll: int = 1,
        devices: int = 1,
    ):
        self.sharding = sharding = on_each(devices)
        in_shape = shapes.train_x.shape[1:]
        number, key = jax.ShapeDtypeStruct((), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
        train_data, test_data = (shapes.train_x, shapes.train_labels), (shapes.test_x, shapes.test_labels)
        h, keys, order_key = hyperparameters, key, key if shared_order else None
        examples = shapes.train_x.shape[0]
        if members is not None:
            h, keys = jax.tree.map(lambda a: jax.ShapeDtypeStruct((members, *a.shape), a.dtype), (h, keys))

        def create(h, key):
            recipe = recipe_of(h)
            return create_train_state(recipe.net, recipe.optimizer, key, in_shape, precision)

        def parts(h, keep_finite: bool) -> Any:
            net, loss, optimizer, penalty = recipe_of(h)
            train_step = make_train_step(
                divided(net, sharding), loss, optimizer, penalty=penalty, precision=precision, keep_finite=keep_finite
            )
            return make_epoch_parts(train_step, batch_size, unroll)

        def draw(key, number):
            return drawn_batches(key, number, examples, batch_size)

        def full_batches(h, train_state, full, x, labels):
            return parts(h, False)[0](train_state, full, x, labels)

        def last_batch(h, train_state, losses, left, x, labels):
            return parts(h, False)[1](train_state, losses, left, x, labels)

        def careful(h, train_state, x, labels, number, order_key):
            full_batches, last_batch = parts(h, True)
            full, left = draw(train_state.key if order_key is None else order_key, number)
            return last_batch(*full_batches(train_state, full, x, labels), left, x, labels)

        def evaluate(h, train_state, x, labels):
            recipe = recipe_of(h)
            return make_evaluate(divided(recipe.net, sharding), recipe.loss, precision=precision)(
                train_state, x, labels
            )

        def placed(function: Any) -> Any:
            return jax.jit(function, in_shardings=sharding, out_shardings=sharding)

        def program(function: Any, mapped: int, shared: int) -> Any:
            """The function, mapped over the members along its first arguments, of which each member has its own."""
            axes = (0,) * mapped + (None,) * shared
            return placed(function if members is None else jax.vmap(function, in_axes=axes))

        def compile_all() -> dict[str, Any]:
            made: dict[str, Any] = {}
            with keeper.compiling(circumstances, of_each(sharding)) as compiled, ThreadPoolExecutor() as threads:

                def make(name: str, program: Any, *arguments: Any, **options: Any) -> Any:
                    """Has a program compiled, and gives the shapes of what it gives."""
                    traced = program.trace(*arguments)
                    made[name] = threads.submit(compiled, name, traced.lower(), options)
                    return traced.out_info

                train_state = make("start", program(create, 2, 0), h, keys, **QUICK, **RUN_ONCE)
                own = 0 if shared_order else 1
                order = placed(draw) if shared_order else program(draw, 1, 1)
                full, left = make("draw", order, key if shared_order else keys, number, **QUICK)
                steps = program(full_batches, 2 + own, 3 - own)
                reached = make("full_batches", steps, h, train_state, full, *train_data, **BOTH_CORES)
                rest, count = program(last_batch, 3 + own, 3 - own), full.shape[-2]
                options = BOTH_CORES | (QUICK if count else {}) | (RUN_ONCE if count >= MANY_BATCHES else {})
                make("last_batch", rest, h, *reached, left, *train_data, **options)
                make("evaluate", program(evaluate, 2, 2), h, train_state, *test_data, **QUICK)
                return {name: future.result() for name, future in made.items()}

        keeper = keeper_of(recipe_of)
        circumstances = (h, batch_size, precision, shapes, members, shared_order, unroll, devices)
        made = keeper.run(circumstances, of_each(sharding)) or compile_all()
        self.start: Any = made["start"]
        self.train_state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self.start.out_info)
        self.evaluate: Any = made["evaluate"]
        self._draw: Any = made["draw"]
        self.full_batches: Any = made["full_batches"]
        self.last_batch: Any = made["last_batch"]
        careful_data = (*train_data, number, order_key)
        self._careful = lambda: compile_lowered(
            program(careful, 2, 4).lower(h, self.train_state, *careful_data), BOTH_CORES
        )

    def epoch(
        self,
        hyperparameters: Mapping[str, Any],
        train_state: TrainState,
        x: Any,
        labels: Any,
        number: Any,
        order_key: jax.Array | None = None,
    ) -> tuple[TrainState, EpochResult]:
        """Every example once."""
        full, left = self._draw(train_state.key if order_key is None else order_key, number)
        reached = self.full_batches(hyperparameters, train_state, full, x, labels)
        return self.last_batch(hyperparameters, *reached, left, x, labels)

    @cached_property
    def careful_epoch(self) -> Any:
        """``epoch`` with ``keep_finite`` steps; the key of a shared order, or None, has to be given."""
        return self._careful()


def compiled(
    recipe_of: Callable[[Mapping[str, Any]], Recipe],
    hyperparameters: Mapping[str, Any],
    batch_size: int,
    precision: Precision,
    split: Split,
    members: int | None = None,
    shared_order: bool = False,
    unroll: int = 1,
    devices: int = 1,
) -> tuple[Programs, bool]:
    """The programs for these arguments, and whether they had to be compiled now; the last few are kept."""
    h, shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), (hyperparameters, split))
    arguments = (recipe_of, tuple(h.items()), batch_size, precision, shapes, members, shared_order, unroll, devices)
    try:
        hash(arguments)
    except TypeError:
        return Programs(recipe_of, h, *arguments[2:]), True
    misses = _programs.cache_info().misses
    programs = _programs(*arguments, tuple(getattr(jax.config, name) for name in SETTINGS))
    return programs, _programs.cache_info().misses > misses


SETTINGS = ("jax_enable_x64", "jax_default_prng_impl", "jax_default_matmul_precision", "jax_default_device")
"""What JAX's own caches would look at besides the arguments."""


@lru_cache(maxsize=8)
def _programs(recipe_of, hyperparameters, *arguments) -> Programs:
    *choices, _settings = arguments
    return Programs(recipe_of, dict(hyperparameters), *choices)
