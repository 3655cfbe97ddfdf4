"""An epoch and a whole run of training as pure functions, with steps in a ``scan``, and the metrics of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import InputError, check, shown
from functional_nn.core.masked import Value
from functional_nn.core.shapes import shape_of
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_function, is_array, tree_in_native_order
from functional_nn.data.dataset import Split
from functional_nn.losses.classification import cross_entropy
from functional_nn.training.argument_checks import check_batch, check_loss, check_metrics, check_train_state
from functional_nn.training.evaluate import Evaluate, Evaluation, evaluated_metrics, make_evaluate
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.recipe import (
    COUNTS,
    STEPS,
    Gradient,
    HyperparameterReader,
    LossMaker,
    MetricFunction,
    ModelFunction,
    OptimizerFunction,
    PenaltyMaker,
    RecipeFunctions,
)
from functional_nn.training.state import TrainState, create_train_state, derived_key
from functional_nn.training.step import StepResult, TrainStep, step_of


class EpochResult(NamedTuple):
    """The result of an epoch.

    Args:
        loss: the mean loss of the examples, each computed before the update of its batch. Steps whose loss is not
            finite are left out.
        bad_step: the first step whose loss was not finite, counted from 0 in the epoch; -1 if there is none.
        bad_steps: the number of such steps.
        reports: the means of what the loss reports in addition, by name, computed in the same way.
    """

    loss: jax.Array
    bad_step: jax.Array
    bad_steps: jax.Array
    reports: Mapping[str, jax.Array]


Carried = TypeVar("Carried")
"""A train state, possibly with other values that are passed from step to step."""

Epoch: TypeAlias = Callable[[TrainState, Value, PyTree, jax.Array], tuple[TrainState, EpochResult]]


def make_epoch(train_step: TrainStep, batch_size: int) -> Epoch:
    """Makes a pure function ``epoch(train_state, x, labels, number) -> (train_state, EpochResult)``.

    An epoch uses every example once. Their order is drawn from the run's key and the epoch's number. All full batches
    run in one ``scan``. The remaining examples are one smaller batch, so nothing is padded, left out or counted twice.
    The mean loss is the mean over the batches, weighted by their numbers of examples. Each step gathers its batch from
    the data, which keep their type, such as bytes. Inputs and labels may be pytrees, such as ``Masked`` sequences,
    with examples along axis 0.
    """
    check_function("train_step", train_step, "what make_train_step returns")
    check_count("batch_size", batch_size)

    def checked_step(train_state, x, labels):
        train_state, loss = _checked_pair("train_step", train_step(train_state, x, labels), "loss")
        return train_state, check_loss(loss)

    def epoch(train_state, x, labels, number):
        check_train_state(train_state)
        number = _checked_number(number)
        examples = check_batch(x, labels)
        x, labels = jax.tree.map(jnp.asarray, tree_in_native_order((x, labels)))
        full, rest = drawn_batches(train_state.key, number, examples, batch_size)
        step = of_rows(checked_step, x, labels)
        train_state, losses = lax.scan(step, train_state, full)
        return with_last_batch(step, train_state, losses, rest, batch_size)

    return epoch


def drawn_batches(
    key: jax.Array, number: int | jax.Array, examples: int, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """Draws the order of the examples in epoch ``number`` from the run's key.

    Returns the numbers of the examples in the full batches, (batches, batch_size), and those of the remaining examples.
    """
    order = shuffled(derived_key(key, "shuffle", number), examples)
    batches = examples // batch_size
    in_full_batches = batches * batch_size
    return order[:in_full_batches].reshape(batches, batch_size), order[in_full_batches:]


def of_rows(
    train_step: Callable[[Carried, PyTree, PyTree], tuple[Carried, PyTree]], x: Value, labels: PyTree
) -> Callable[[Carried, jax.Array], tuple[Carried, PyTree]]:
    """The same step for the numbers of a batch's examples, to gather from all examples in the program.

    Steps may carry more than a train state.
    """

    def step(train_state, rows):
        # The rows are in bounds, since they are a permutation, so the program need not check them.
        batch = jax.tree.map(lambda array: array.at[rows].get(mode="promise_in_bounds"), (x, labels))
        return train_step(train_state, *batch)

    return step


def with_last_batch(
    step: Callable[[Carried, jax.Array], tuple[Carried, PyTree]],
    train_state: Carried,
    outcomes: tuple[jax.Array, Mapping[str, jax.Array]],
    rest: jax.Array,
    batch_size: int,
) -> tuple[Carried, EpochResult]:
    """Trains on the smaller last batch, if there is one, and sums up the epoch.

    Args:
        step: what ``of_rows`` returns.
        train_state: after the full batches.
        outcomes: the losses and reports of the steps on the full batches, stacked.
        rest: the numbers of the remaining examples.
        batch_size: the number of examples in a full batch.
    """
    losses, reports = outcomes
    sizes = jnp.full_like(losses, batch_size)
    if rest.size:
        train_state, loss = step(train_state, rest)
        losses, reports = jax.tree.map(jnp.append, (losses, reports), loss)
        sizes = jnp.append(sizes, jnp.asarray(rest.size, sizes.dtype))
    # The mean over the examples: each batch's mean counts as often as the batch has examples. Both sums are one
    # operation on stacked arrays.
    # If no loss is finite, the mean is 0 / 0 = NaN, by which the policy "skip" sees that no step was good.
    finite = jnp.isfinite(losses)
    sums = jnp.sum(jnp.stack([jnp.where(finite, losses * sizes, 0), jnp.where(finite, sizes, 0)]), axis=1)
    # argmin returns the first False. If all are finite it returns a finite place, and there is no bad step.
    first_bad = jnp.argmin(finite)
    bad_step = jnp.where(finite[first_bad], -1, first_bad)
    bad_steps = jnp.sum(~finite, dtype=jnp.int32)
    means = {name: jnp.sum(jnp.where(finite, reports[name] * sizes, 0)) / sums[1] for name in reports}
    return train_state, EpochResult(sums[0] / sums[1], bad_step.astype(jnp.int32), bad_steps, means)


def shuffled(key: jax.Array, size: int) -> jax.Array:
    """The numbers from 0 to ``size`` - 1 in random order: each gets random bits, by which they are sorted.

    Numbers and bits are packed into one integer each, because sorting one array is two to eight times as fast as
    sorting pairs. Up to 65,536 numbers are packed into 32 bits, together with at least 16 random bits each. If the
    random bits of two numbers are equal, the smaller number comes first. So of two numbers the smaller one comes first
    with probability ½ + 2⁻¹⁷ instead of ½. More numbers are packed into 64 bits, together with 32 random bits.
    (``jax.random.permutation`` sorts pairs twice, to avoid equal bits.)

    >>> print(sorted(shuffled(jax.random.key(0), 5).tolist()))
    [0, 1, 2, 3, 4]
    """
    numbers = jnp.arange(size, dtype=jnp.uint32)
    random = jax.random.bits(key, (size,), jnp.uint32)
    if size > 2**16:
        # 64-bit integers are allowed here, whatever JAX's setting, and do not leave this block.
        with jax.enable_x64(True):
            high = lax.convert_element_type(random, jnp.uint64) << jnp.uint64(32)
            packed = lax.sort(high | lax.convert_element_type(numbers, jnp.uint64))
            return lax.convert_element_type(packed & jnp.uint64(2**32 - 1), jnp.int32)
    # The low bits hold the number, the high bits are random, and a sort looks at the high bits first.
    low_bits = jnp.uint32(2 ** (size - 1).bit_length() - 1)
    return (lax.sort((random & ~low_bits) | numbers) & low_bits).astype(jnp.int32)


def named_metrics(part: str, result: EpochResult | StepResult, evaluation: Evaluation | None) -> dict[str, jax.Array]:
    """All metrics of an epoch in one dict.

    Args:
        part: what was evaluated: ``"validation"`` or ``"test"``.
        result: of the epoch's train steps; or of one step, if only the names and shapes are needed.
        evaluation: of that part after the epoch; None if nothing was evaluated.
    """
    named = {"train_loss": result.loss, **{f"train_{name}": value for name, value in result.reports.items()}}
    if evaluation is not None:
        named |= evaluated_metrics(part, evaluation)
    return named


# Whole runs


class Trained(NamedTuple):
    """The result of a whole run as a pure function.

    Args:
        train_state: at the end of the run. Steps that are not finite have changed nothing.
        epochs: the result of each epoch, along axis 0.
        evaluations: the loss and the metrics after each epoch, along axis 0.
    """

    train_state: TrainState
    epochs: EpochResult
    evaluations: Evaluation


def make_train(
    model: ModelFunction,
    optimizer: OptimizerFunction,
    *,
    loss: LossMaker = cross_entropy,
    penalty: PenaltyMaker = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    gradient: Gradient = "auto",
    epochs: int = 10,
    batch_size: int = 64,
    precision: str | Precision = "float32",
) -> Callable[..., Trained]:
    """Makes a pure function ``train(hyperparameters, key, data) -> Trained``, a whole training run.

    It can be compiled, mapped over a population by ``vmap``, and differentiated. Nothing stops a run: a step that is
    not finite changes nothing, and the next step follows. ``sweep`` trains with the same steps, but epoch by epoch, so
    that it can show progress, stop early and save.

    Args:
        model, optimizer, loss, penalty: as for ``sweep``; every hyper-parameter may be traced.
        metrics, gradient, epochs, batch_size, precision: as for ``fit``.

    The examples that are evaluated after each epoch are the validation examples if there are any, otherwise the test
    examples.

    >>> import functional_nn as fnn, jax, optax
    >>> images = fnn.load_dataset("mnist5k")
    >>> x, labels, test_x, test_labels = images[1:5]
    >>> data = fnn.data.Split(x[:200], labels[:200], test_x, test_labels)
    >>> net = fnn.chain(fnn.flatten(), fnn.dense(10))
    >>> train = fnn.training.make_train(net, lambda h: optax.sgd(h["learning_rate"]), epochs=2)
    >>> rates, keys = jax.numpy.array([0.1, 0.2, 0.4]), jax.random.split(jax.random.key(0), 3)
    >>> population = jax.jit(jax.vmap(train, in_axes=(0, 0, None)))
    >>> population({"learning_rate": rates}, keys, data).evaluations.accuracy.shape
    (3, 2)
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    policy = as_precision(precision)
    make_recipe = RecipeFunctions(model, optimizer, loss, penalty, check_metrics(metrics), gradient)

    def train(hyperparameters, key, data):
        check("hyperparameters", hyperparameters, "a dict of values by name", isinstance(hyperparameters, Mapping))
        own = [name for name in COUNTS if name in hyperparameters]
        if own:
            expected = "names that make_train does not give a value itself"
            remedy = "Give epochs and batch_size to make_train. The number of steps follows from them."
            raise InputError("hyperparameters", expected, ", ".join(own), remedy)
        is_split = isinstance(data, tuple) and 4 <= len(data) <= 6
        check("data", data, "a Split(train_x, train_labels, test_x, test_labels)", is_split)
        data = Split(*data)
        if not data.evaluated_part:
            remedy = "Write data.with_validation(0.1)."
            raise InputError("data", "validation or test examples besides those for training", "neither", remedy)
        evaluated = data.part(data.evaluated_part)
        examples = check_batch(data.train_x, data.train_labels)
        check_batch(*evaluated)
        counts = {"epochs": epochs, "batch_size": batch_size, STEPS: epochs * math.ceil(examples / batch_size)}
        recipe = make_recipe(HyperparameterReader(counts | dict(hyperparameters)))
        first = create_train_state(recipe.net, recipe.optimizer, key, shape_of(data.train_x), policy)
        epoch = make_epoch(step_of(recipe, policy, "kept"), batch_size)
        run = make_run(epoch, make_evaluate(recipe.net, recipe.loss, metrics=metrics, precision=policy), epochs)
        return Trained(*run(first, data.train_x, data.train_labels, *evaluated))

    return train


def make_run(
    epoch: Epoch, evaluate: Evaluate, epochs: int
) -> Callable[..., tuple[TrainState, EpochResult, Evaluation]]:
    """Makes a pure function ``run(train_state, x, labels, test_x, test_labels)`` that runs all epochs.

    A ``scan`` over the epochs trains and evaluates. It returns the train state, and the results and evaluations of all
    epochs, along axis 0. Under ``vmap`` it trains a population. Nothing stops it: a step that is not finite changes
    nothing, and the next step follows.
    """
    check_function("epoch", epoch, "what make_epoch returns")
    check_function("evaluate", evaluate, "what make_evaluate returns")
    check_count("epochs", epochs)

    def run(train_state, x, labels, test_x, test_labels):
        def body(train_state, number):
            result = epoch(train_state, x, labels, number)
            train_state, result = _checked_pair("epoch", result, "EpochResult")
            return train_state, (result, evaluate(train_state, test_x, test_labels))

        train_state, (results, evaluations) = lax.scan(body, train_state, jnp.arange(epochs))
        return train_state, results, evaluations

    return run


def _checked_number(number: object) -> int | jax.Array:
    """Raises an InputError unless this is an integer from 0, or an array with one integer; returns it."""
    if is_array(number) and jnp.issubdtype(number.dtype, jnp.integer) and number.ndim == 0:
        return number
    return check_count("number", number, least=0)


def _checked_pair(argument: str, result: object, second: str) -> tuple[TrainState, PyTree]:
    """Raises an InputError unless a user's train step or epoch returned a pair with a TrainState first."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], TrainState):
        expected = f"a function that returns (TrainState, {second})"
        raise InputError(argument, expected, f"one that returns {shown(result)}")
    return result[0], result[1]
