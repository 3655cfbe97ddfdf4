"""The functions that are compiled into the programs of a run, each for one model, and the shapes of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.stages import Wrapped

from functional_nn.core.shapes import shape_of
from functional_nn.core.trees import PyTree
from functional_nn.data.examples import number_of_examples
from functional_nn.training.epoch import drawn_batches, make_epoch_parts
from functional_nn.training.programs.devices import divided
from functional_nn.training.programs.recipe import Hyperparameters, Recipe
from functional_nn.training.programs.remembering import Remembered, remembering
from functional_nn.training.programs.spec import ProgramSpec
from functional_nn.training.step import StepResult


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

    def careful_epoch(self, hyperparameters, train_state, x, labels, number, order_key):
        """An epoch of steps that change nothing if a value would become non-finite."""
        step = self._recipe(hyperparameters).train_step(self.spec.precision, keep_finite=True)
        full_batches, last_batch = make_epoch_parts(remembering(step), self.spec.batch_size)
        full, rest = self.draw_order(train_state.key if order_key is None else order_key, number)
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
    order_key: jax.ShapeDtypeStruct | None


def argument_shapes(spec: ProgramSpec) -> ArgumentShapes:
    """The shapes and types of these arguments."""
    key: PyTree = jax.eval_shape(lambda: jax.random.key(0))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    order_key = key if spec.shared_order else None
    hyperparameters = dict(spec.hyperparameters)
    if spec.members is not None:

        def of_all_members(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((spec.members, *one.shape), one.dtype)

        hyperparameters, key = jax.tree.map(of_all_members, (hyperparameters, key))
    return ArgumentShapes(hyperparameters, key, number, order_key)
