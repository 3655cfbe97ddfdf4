"""The compiled programs of a run, kept for the next run of the same network on data of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.data.dataset import Split
from functional_nn.jaxprs.xla_options import (
    FIRST_LEVEL,
    QUICK,
    RUN_ONCE,
    SUMS_AND_PRODUCTS,
    compile_lowered,
    step_options,
    sum_options,
)
from functional_nn.training.epoch import EpochResult, drawn_batches, make_epoch_parts, make_evaluate
from functional_nn.training.optimizers.precision import Precision
from functional_nn.training.programs.devices import divided, on_each
from functional_nn.training.programs.fingerprint import fingerprint
from functional_nn.training.programs.recipe import Recipe
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import make_train_step

MANY_BATCHES = 50
"""From so many full batches on what is left over is compiled as if it ran once: that takes a quarter of the time, and a
run two to five times as long, up to 5% of an epoch.
"""


class Circumstances(NamedTuple):
    """What a run's programs are compiled for.

    Args:
        recipe_of: makes the recipe inside each program, of the traced hyper-parameters.
        hyperparameters: the shapes of those, by their names; a run alone has none.
        batch_size, precision: as ``fit`` has them.
        data: the shapes of a split.
        members: so many models, over which every program is mapped: hyper-parameters, keys and train states have a
            leading axis, data have not.
        shared_order: whether an epoch's order is drawn from a key that is given, for all members.
        unroll: so many steps stand in the body of an epoch's loop.
        devices: on so many everything lies, and each computes its share of a batch.
    """

    recipe_of: Callable[[Mapping[str, Any]], Recipe]
    hyperparameters: tuple[tuple[str, Any], ...]
    batch_size: int
    precision: Precision
    data: Split
    members: int | None = None
    shared_order: bool = False
    unroll: int = 1
    devices: int = 1


class Programs:
    """``start(h, key)``, ``epoch(h, train_state, …)`` and ``evaluate(h, train_state, x, labels)``, compiled.

    ``h`` are the hyper-parameters, ``train_state`` has the shapes of what ``start`` gives, and ``sharding`` says where
    arguments lie, or is None for one device.

    ``careful_epoch`` is ``epoch`` with steps that keep the last finite state. It is compiled when a run first needs it,
    since looking at every gradient would lengthen every compilation for what few runs meet. An epoch is three programs,
    for its order, for the full batches and for what is left over. Each is compiled as soon as it is traced, while the
    next one is traced; the first two are the shortest, so that both cores are soon at work.
    """

    def __init__(self, about: Circumstances):
        self._about = about
        self.sharding = on_each(about.devices)
        number, key = jax.ShapeDtypeStruct((), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
        h = dict(about.hyperparameters)
        self._arguments = _Arguments(h, key, number, key if about.shared_order else None)
        if about.members is not None:
            several = lambda a: jax.ShapeDtypeStruct((about.members, *a.shape), a.dtype)  # noqa: E731
            self._arguments = self._arguments._replace(h=jax.tree.map(several, h), keys=several(key))
        self.jaxprs: dict[str, Any] = {}
        made = self._compile()
        self.start: Any = made["start"]
        self.train_state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self.start.out_info)
        self.evaluate: Any = made["evaluate"]
        self._draw: Any = made["draw"]
        self.full_batches: Any = made["full_batches"]
        self.last_batch: Any = made["last_batch"]

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
        h, _, number, order_key = self._arguments
        x, labels, *_ = self._about.data
        traced = self._program(self._careful, 2, 4).trace(h, self.train_state, x, labels, number, order_key)
        return compile_lowered(traced.lower(), step_options(traced.jaxpr) | sum_options(traced.jaxpr))

    def _compile(self) -> dict[str, Any]:
        """All of them, by name."""
        (h, keys, number, order_key), own = self._arguments, 0 if self._about.shared_order else 1
        train_x, train_labels, test_x, test_labels = self._about.data
        futures: dict[str, Any] = {}
        with ThreadPoolExecutor() as threads:

            def make(name: str, traced: Any, options: dict[str, Any]) -> Any:
                """Has a program compiled, and gives the shapes of what it gives."""
                self.jaxprs[name] = traced.jaxpr
                futures[name] = threads.submit(compile_lowered, traced.lower(), options | sum_options(traced.jaxpr))
                return traced.out_info

            order = self._program(self._order, 1, 1) if own else self._placed(self._order)
            full, left = make("draw", order.trace(keys if own else order_key, number), QUICK | FIRST_LEVEL)
            create = self._program(self._create, 2, 0).trace(h, keys)
            train_state = make("start", create, QUICK | RUN_ONCE)
            steps = self._program(self._full_batches, 2 + own, 3 - own)
            traced_steps = steps.trace(h, train_state, full, train_x, train_labels)
            options = step_options(traced_steps.jaxpr)
            reached = make("full_batches", traced_steps, options)
            rest = self._program(self._last_batch, 3 + own, 3 - own)
            count = full.shape[-2]
            quick = (QUICK if count else {}) | (RUN_ONCE if count >= MANY_BATCHES else {})
            make("last_batch", rest.trace(h, *reached, left, train_x, train_labels), options | quick)
            evaluate = self._program(self._evaluate, 2, 2)
            make("evaluate", evaluate.trace(h, train_state, test_x, test_labels), QUICK | SUMS_AND_PRODUCTS)
            return {name: future.result() for name, future in futures.items()}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A digest of what each part of the recipe computes, by the name that an error gives the part.

        They tell recipes apart whose parameters have the same shapes: two learning rates, two activations.
        """
        recipe, h, train_state = self._about.recipe_of, self._arguments.h, self.train_state
        if self._about.members is not None:
            one = lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype)  # noqa: E731
            h, train_state = jax.tree.map(one, (h, train_state))
        params, optimizer_state = train_state.params, train_state.optimizer_state
        update = jax.make_jaxpr(lambda h, *arguments: recipe(h).optimizer.update(*arguments))
        penalty = jax.make_jaxpr(lambda h, params: (recipe(h).penalty or (lambda params: 0.0))(params))
        return {
            "initial values": fingerprint(self.jaxprs["start"]),
            "network or loss": fingerprint(self.jaxprs["evaluate"]),
            "optimizer": fingerprint(update(h, params, optimizer_state, params)),
            "penalty": fingerprint(penalty(h, params)),
            "train step": fingerprint(self.jaxprs["full_batches"], self.jaxprs["last_batch"]),
        }

    def _placed(self, function: Any) -> Any:
        return jax.jit(function, in_shardings=self.sharding, out_shardings=self.sharding)

    def _program(self, function: Any, mapped: int, shared: int) -> Any:
        """The function, mapped over the members along its first arguments, of which each member has its own."""
        axes = (0,) * mapped + (None,) * shared
        return self._placed(function if self._about.members is None else jax.vmap(function, in_axes=axes))

    def _recipe(self, h) -> Recipe:
        recipe = self._about.recipe_of(h)
        return recipe._replace(net=divided(recipe.net, self.sharding))

    def _create(self, h, key):
        recipe, in_shape = self._recipe(h), self._about.data.train_x.shape[1:]
        return create_train_state(recipe.net, recipe.optimizer, key, in_shape, self._about.precision)

    def _order(self, key, number):
        return drawn_batches(key, number, self._about.data.train_x.shape[0], self._about.batch_size)

    def _parts(self, h, keep_finite: bool) -> Any:
        net, loss, optimizer, penalty = self._recipe(h)
        precision = self._about.precision
        train_step = make_train_step(
            net, loss, optimizer, penalty=penalty, precision=precision, keep_finite=keep_finite
        )
        return make_epoch_parts(train_step, self._about.batch_size, self._about.unroll)

    def _full_batches(self, h, train_state, full, x, labels):
        return self._parts(h, False)[0](train_state, full, x, labels)

    def _last_batch(self, h, train_state, losses, left, x, labels):
        return self._parts(h, False)[1](train_state, losses, left, x, labels)

    def _careful(self, h, train_state, x, labels, number, order_key):
        full_batches, last_batch = self._parts(h, True)
        full, left = self._order(train_state.key if order_key is None else order_key, number)
        return last_batch(*full_batches(train_state, full, x, labels), left, x, labels)

    def _evaluate(self, h, train_state, x, labels):
        net, loss, *_ = self._recipe(h)
        return make_evaluate(net, loss, precision=self._about.precision)(train_state, x, labels)


class _Arguments(NamedTuple):
    """The shapes of what programs take besides data and train state."""

    h: dict[str, Any]
    keys: Any
    number: Any
    order_key: Any


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
    h, data = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), (hyperparameters, split))
    choices = (members, shared_order, unroll, devices)
    about = Circumstances(recipe_of, tuple(h.items()), batch_size, precision, data, *choices)
    try:
        hash(about)
    except TypeError:
        return Programs(about), True
    misses = _programs.cache_info().misses
    programs = _programs(about, tuple(getattr(jax.config, name) for name in SETTINGS))
    return programs, _programs.cache_info().misses > misses


SETTINGS = ("jax_enable_x64", "jax_default_prng_impl", "jax_default_matmul_precision", "jax_default_device")
"""What JAX's own caches would look at besides the arguments."""


@lru_cache(maxsize=8)
def _programs(about: Circumstances, settings: tuple[Any, ...]) -> Programs:
    return Programs(about)
