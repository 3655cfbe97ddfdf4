"""Evaluation of a network on examples, the metrics of an epoch by name, and predictions batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.extend.core import JaxprEqn
from jax.stages import Wrapped

from functional_nn.core import validation
from functional_nn.core.errors import InputError, check, inside, shown
from functional_nn.core.functions import cached_if_hashable
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.masked import Value, values_of
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.data.preparation import number_of_examples
from functional_nn.jaxprs.walk import all_equations, array_type
from functional_nn.losses.loss import Loss, as_labels, ratio
from functional_nn.metrics import Metric, Totals, accuracy
from functional_nn.training import argument_checks as checks
from functional_nn.training.devices import check_bytes
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.recipe import LossFunction, MetricFunction, Recipe
from functional_nn.training.state import TrainState
from functional_nn.training.step import forward

Evaluate: TypeAlias = Callable[[TrainState, PyTree, PyTree], "Evaluation"]
EvaluationTotals: TypeAlias = tuple[Totals, dict[str, Totals]]
"""The totals of the loss, and those of the metrics by name."""

AT_A_TIME = 250
"""The number of examples that a run evaluates at a time."""


class Evaluation(NamedTuple):
    """The loss over a set of examples, and other metrics by name."""

    loss: jax.Array
    metrics: dict[str, jax.Array]

    @property
    def accuracy(self) -> jax.Array:
        """The accuracy; NaN if it was not computed."""
        return self.metrics.get("accuracy", jnp.full_like(self.loss, jnp.nan))


def make_evaluate(
    net: Layer,
    loss: LossFunction,
    *,
    metrics: Mapping[str, MetricFunction] | None = None,
    precision: str | Precision = "float32",
    batch_size: int = AT_A_TIME,
) -> Evaluate:
    """Makes a pure function ``evaluate(train_state, x, labels) -> Evaluation``, exact for any number of examples.

    Labels that a ``Loss`` ignores, and the padding of ``Masked`` sequences, count neither in the loss nor in the
    accuracy. If the loss is another function, its value is taken as the mean over the examples of a batch, and so are
    the numbers that it reports in addition; these become metrics.

    Args:
        net, loss: as ``fit`` takes them.
        metrics: by name, metrics (``functional_nn.metrics``), losses, or functions ``(y, labels) -> number``, whose
            value is taken as the mean over the examples of a batch. None: the accuracy if the labels are class numbers
            and the network has one output for each class; otherwise nothing but the loss.
        precision: as for ``fit``.
        batch_size: the number of examples computed at a time.
    """
    checks.check_loss_function(loss)
    validation.check_count("batch_size", batch_size)
    named = checks.check_metrics(metrics)
    net, policy = as_layer(net), as_precision(precision)
    recipe = Recipe(net, loss, optax.identity(), metrics=named)  # nothing is optimized

    def evaluate(train_state, x, labels):
        checks.check_train_state(train_state)
        checks.check_batch(x, labels)
        x, labels = validation.tree_in_native_order((x, labels))
        return evaluation_of_totals(recipe, totals_of_examples(recipe, policy, train_state, x, labels, batch_size))

    return evaluate


def totals_of_examples(
    recipe: Recipe,
    precision: Precision,
    train_state: TrainState,
    x: Value,
    labels: PyTree,
    batch_size: int = AT_A_TIME,
) -> EvaluationTotals:
    """The sums over examples from which the loss and the metrics are computed. Those of several batches are added.

    ``make_evaluate`` describes the arguments, and here nothing is checked.
    """
    totals_of_outputs = totals_function(recipe)

    def totals(batch):
        inputs, targets = batch
        y, _ = forward(recipe.net, precision, train_state.params, train_state.state, inputs, train=False)
        return totals_of_outputs(y, targets)

    batches, left = divmod(number_of_examples(x), batch_size)
    if not batches:
        return totals((x, labels))
    totals_of_batch = jax.jit(totals)  # traced once, for the shapes and for the loop

    def add(sums, batch):
        return jax.tree.map(jnp.add, sums, totals_of_batch(batch)), None

    split = batches * batch_size
    stacked = jax.tree.map(lambda a: a[:split].reshape(batches, batch_size, *a.shape[1:]), (x, labels))
    # The sums start at 0 in the shapes and types of one batch's totals, which a scan has to know beforehand.
    shapes = jax.eval_shape(totals_of_batch, jax.tree.map(lambda a: a[0], stacked))
    sums, _ = lax.scan(add, jax.tree.map(lambda total: jnp.zeros(total.shape, total.dtype), shapes), stacked)
    if left:
        rest = totals(jax.tree.map(lambda a: a[split:], (x, labels)))
        sums = jax.tree.map(jnp.add, sums, rest)
    return sums


def evaluation_of_totals(recipe: Recipe, totals: EvaluationTotals) -> Evaluation:
    """The loss and the metrics from the sums over all examples."""
    loss_totals, other_totals = totals
    metrics = dict(recipe.metrics or ())

    def result(name: str, totals: Totals) -> jax.Array:
        metric = metrics.get(name)
        return metric.result(totals) if isinstance(metric, Metric | Loss) else ratio(*totals)

    results = {name: result(name, total) for name, total in other_totals.items()}
    return Evaluation(ratio(*loss_totals), results)


def evaluated_metrics(part: str, evaluation: Evaluation) -> dict[str, jax.Array]:
    """The metrics of a part of the data by name, such as ``test_loss``."""
    return {f"{part}_loss": evaluation.loss, **{f"{part}_{name}": value for name, value in evaluation.metrics.items()}}


def check_metric_shapes(named: Mapping[str, jax.Array], members: int | None) -> None:
    """Raises an InputError unless every metric is one number for each model.

    Args:
        named: the metrics, or their shapes and types.
        members: the number of models that a program trains together; None for one.
    """
    expected = () if members is None else (members,)
    for name, value in named.items():
        if value.shape != expected:
            given = f"one of shape {value.shape[len(expected) :]}"
            remedy = "Compute it after training, from the network's outputs."
            raise InputError(f"metrics/{name.partition('_')[2]}", "a metric that is one number", given, remedy)


def as_numbers(named: Mapping[str, jax.Array]) -> list[dict[str, float]]:
    """The metrics of each model as Python numbers, in the same order.

    An accuracy is the shortest number that is this one in its type: 0.911 and not 0.9110000133514404.

    Args:
        named: the metrics on the device: one number of one model, or one for each member of a sweep.

    >>> as_numbers({"test_accuracy": np.float32(0.911), "test_loss": np.float32(0.5)})
    [{'test_accuracy': 0.911, 'test_loss': 0.5}]
    """
    columns = [np.atleast_1d(values) for values in named.values()]
    return [
        {
            name: float(str(value) if name.endswith("_accuracy") else value)
            for name, value in zip(named, row, strict=True)
        }
        for row in zip(*columns, strict=True)
    ]


SMALLER_IS_BETTER = ("loss", "error", "brier_score", "mae", "mse", "rmse", "perplexity")
"""What the name of a metric ends with if a smaller number is better."""


def larger_is_better(metric: str) -> bool:
    """Whether a larger number is better: for every metric whose name does not end as in ``SMALLER_IS_BETTER``.

    >>> larger_is_better("test_accuracy"), larger_is_better("validation_loss")
    (True, False)
    """
    return not metric.endswith(SMALLER_IS_BETTER)


def rank_of(metric: str, value: float) -> float:
    """A number by which values of a metric are sorted, the best first and NaN last."""
    if math.isnan(value):
        return math.inf
    return -value if larger_is_better(metric) else value


def check_metric(argument: str, metric: object, known: Collection[str]) -> None:
    """Raises an InputError, which lists the known names, unless a run has a metric of this name."""
    is_known = isinstance(metric, str) and metric in known
    check(argument, metric, "the name of a metric of this run", is_known, suggest(str(metric), known))


def default_metric(names: Collection[str]) -> str:
    """The metric by which models are compared if nothing else is said.

    It is the accuracy if there is one, or else the loss: on validation examples if there are any, or else on test
    examples, or else in training.

    >>> default_metric(["train_loss", "test_loss", "test_accuracy"]), default_metric(["train_loss", "validation_loss"])
    ('test_accuracy', 'validation_loss')
    """
    for part in ("validation", "test"):
        for name in (f"{part}_accuracy", f"{part}_loss"):
            if name in names:
                return name
    return "train_loss"


def totals_function(recipe: Recipe) -> Callable[[PyTree, PyTree], EvaluationTotals]:
    """Makes the function that computes, over a batch, the totals of the loss, of its reports, and of the metrics."""
    loss, metrics = recipe.loss, recipe.metrics

    # It is compiled even if ``evaluate`` is not, so that labels are arrays of JAX here.
    @jax.jit
    def accuracy_totals(y, labels):
        is_ignored = loss.is_ignored if isinstance(loss, Loss) else None
        # Only ignored labels are left out. The weights of classes change the loss and not the accuracy.
        counted = None if is_ignored is None else ~is_ignored(as_labels(labels))
        return accuracy.totals(y, labels, counted)

    def totals(y, labels):
        examples = jax.tree.leaves(y)[0].shape[0]

        def totals_of_mean(mean):
            return mean * examples, jnp.asarray(examples, mean.dtype)

        if isinstance(loss, Loss):
            loss_totals, others = loss.totals(y, labels), {}
        else:
            mean, reports = checks.check_loss(loss(y, labels))
            loss_totals, others = totals_of_mean(mean), {name: totals_of_mean(reports[name]) for name in reports}
        if metrics is None:
            if "accuracy" not in others and _are_classes(y, labels):
                sums = accuracy_totals(y, labels)
                others["accuracy"] = sums["sum"], sums["weight"]
            return loss_totals, others
        for name, metric in metrics:
            if name in others:
                raise InputError("metrics", "names that the loss does not report", shown(name))
            with inside(name):
                if isinstance(metric, Metric | Loss):
                    others[name] = metric.totals(y, labels)
                else:
                    others[name] = totals_of_mean(checks.check_scalar("metric", metric(y, labels)))
        return loss_totals, others

    return totals


def _are_classes(y: PyTree, labels: PyTree) -> bool:
    """Whether the labels are class numbers, one for each output vector, so that they have an accuracy."""
    outputs = values_of(y)
    is_one_array = len(jax.tree.leaves(outputs)) == len(jax.tree.leaves(labels)) == 1 and hasattr(labels, "dtype")
    return is_one_array and jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == outputs.shape[:-1]


# Predictions


def predict(
    net: Layer,
    params: Params,
    state: State,
    x: Value,
    *,
    precision: str | Precision = "float32",
    batch_size: int = 1000,
) -> PyTree:
    """The network's outputs for each example, as NumPy arrays, computed batch by batch.

    For a classifier, the outputs are logits. ``predict_probabilities`` gives their softmax, and so does the method
    ``predict`` of a saved network (``fnn.exchange.load``), which knows that it is a classifier. That method takes the
    rows of a table as they are; here, they are standardized before: ``data.features.standardized(rows)``.

    Args:
        net, params, state: the network with its trained parameters and state.
        x: (examples, …), with examples of the shape that the network was trained on (``Run.in_shape``); ``Masked``, or
            a tuple or dict of arrays. Bytes are divided by 255. Tensors of PyTorch are converted.
        precision: as in training.
        batch_size: the number of examples computed at a time. A smaller one needs less memory.

    >>> import functional_nn as fnn, numpy as np
    >>> params = {"weight": np.ones((3, 1), np.float32), "bias": np.zeros(1, np.float32)}
    >>> print(fnn.training.predict(fnn.dense(1), params, {}, np.ones((2, 3), np.float32)))
    [[3.]
     [3.]]
    """
    function = _outputs(as_layer(net), as_precision(precision))
    validation.check_trees(params, state)
    validation.check_count("batch_size", batch_size)
    # Tensors of other libraries become arrays of NumPy.
    x = jax.tree.map(
        lambda leaf: np.asarray(leaf) if not validation.is_array(leaf) and hasattr(leaf, "__array__") else leaf, x
    )
    validation.check_arrays("x", x)
    params, state, x = validation.tree_in_native_order((params, state, x))
    examples = number_of_examples(x)
    # Slices beyond the end of a shorter array are not an error, so examples would be left out.
    if any(len(array) != examples for array in jax.tree.leaves(x)):
        shapes = ", ".join(str(array.shape) for array in jax.tree.leaves(x))
        raise InputError("x", "arrays with the same number of examples along axis 0", f"shapes {shapes}")
    check("x", x, "at least one example", examples)

    def of_batch(start: int) -> PyTree:
        batch = jax.tree.map(lambda part: validation.as_array("x", part[start : start + batch_size]), x)
        if start == 0:
            check_bytes_of_program(function, params, state, batch)
        return jax.device_get(function(params, state, batch))

    batches = [of_batch(start) for start in range(0, examples, batch_size)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def predict_probabilities(
    net: Layer,
    params: Params,
    state: State,
    x: Value,
    *,
    precision: str | Precision = "float32",
    batch_size: int = 1000,
) -> np.ndarray:
    """The softmax of the network's outputs for each example, computed batch by batch.

    The arguments are those of ``predict``.

    >>> import functional_nn as fnn, numpy as np
    >>> params = {"weight": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}
    >>> print(fnn.training.predict_probabilities(fnn.dense(2), params, {}, np.ones((1, 3), np.float32)))
    [[0.5 0.5]]
    """
    from scipy.special import softmax

    y = predict(net, params, state, x, precision=precision, batch_size=batch_size)
    if y.ndim < 2 or y.shape[-1] < 2:
        raise InputError("net", "one output per class, (batch, …, classes)", f"outputs of shape {y.shape}")
    with np.errstate(invalid="ignore"):  # outputs that are not finite give NaN
        return softmax(y, axis=-1)


def check_bytes_of_program(function: Wrapped, *arguments: PyTree) -> None:
    """Raises an InputError if a program needs more memory than there is. A call finds it compiled in JAX's cache."""
    program = function.trace(*arguments)
    size = program.lower().compile().memory_analysis()
    if size is not None:
        check_bytes("x", size.argument_size_in_bytes + size.output_size_in_bytes + size.temp_size_in_bytes)
    if jax.default_backend() == "cpu":
        check_bytes("x", max(map(_bytes_of_windows, all_equations(program.jaxpr)), default=0))


def _bytes_of_windows(equation: JaxprEqn) -> int:
    """The bytes of a convolution's windows. XLA may copy them all on a CPU. It ends the process if they do not fit."""
    if equation.primitive.name != "conv_general_dilated":
        return 0
    y, weight = array_type(equation.outvars[0]), array_type(equation.invars[1])
    features = weight.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    in_window = weight.size // features * equation.params["feature_group_count"]
    return y.size // features * in_window * y.dtype.itemsize


# The function is kept, because jax.jit compiles again for a new function object, even with the same network.
@cached_if_hashable(maxsize=8)
def _outputs(net: Layer, precision: Precision) -> Wrapped:
    return jax.jit(lambda params, state, x: forward(net, precision, params, state, x, train=False)[0])
