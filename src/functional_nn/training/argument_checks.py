"""Checks of the arguments of training: losses, optimizers, counts, seeds, train states and batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn import names
from functional_nn.core.errors import InputError, check, inside, shown
from functional_nn.core.shapes import wide_type
from functional_nn.core.texts import is_count
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import (
    check_arrays,
    check_choice,
    check_count,
    check_function,
    check_key,
    check_trees,
    is_array,
    is_numeric,
    is_of_pytorch,
)
from functional_nn.data.stream import Stream
from functional_nn.training.optimizers import check_gradient_transformation, is_gradient_transformation, is_of_optax
from functional_nn.training.state import TrainState

LARGEST_SEED = 2**32 - 1

LOSSES_OF_OTHERS = {
    "CrossEntropyLoss": "cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy",
    "BCELoss": "losses.binary_cross_entropy_from_probabilities",
    "NLLLoss": "negative_log_likelihood",
    "MSELoss": "mean_squared_error",
    "L1Loss": "mean_absolute_error",
    "binary_cross_entropy_with_logits": "binary_cross_entropy",
    "mse_loss": "mean_squared_error",
    "softmax_cross_entropy": "cross_entropy",
    "softmax_cross_entropy_with_integer_labels": "cross_entropy",
    "sigmoid_binary_cross_entropy": "binary_cross_entropy",
    "hinge_loss": "hinge",
    "kl_divergence": "kl_divergence",
    "squared_error": "mean_squared_error",
    "l2_loss": "mean_squared_error",
    "huber_loss": "huber",
    "cosine_distance": "cosine_distance",
}
"""The losses of this package by the names of those of PyTorch and of Optax.

Those of Optax give a loss for each example or for each number.
"""


def check_functions(loss: object, optimizer: object, penalty: object) -> None:
    """Raises an InputError unless these are a loss, an Optax transformation, and a penalty or None."""
    check_loss_function(loss)
    check_gradient_transformation(optimizer)
    check_penalty(penalty)


def check_loss_function(loss: object) -> None:
    """Raises an InputError unless this is a loss, or a function of outputs and labels."""
    name = getattr(loss, "__name__", type(loss).__name__)
    if is_of_pytorch(loss):
        remedy = f"Write fnn.{LOSSES_OF_OTHERS.get(name, 'cross_entropy')}."
        raise InputError("loss", "a loss of functional_nn or a function in JAX", f"{name} of PyTorch", remedy)
    expected = "a loss, such as cross_entropy, or a function of outputs and labels"
    if is_gradient_transformation(loss):
        remedy = "The arguments look swapped: the loss comes first, as in fit(net, loss, optimizer, data)."
        raise InputError("loss", expected, "an Optax transformation", remedy)
    check_function("loss", loss, expected, "y, labels")
    if name in LOSSES_OF_OTHERS and is_of_optax(loss):
        given = f"optax.{name}, which does not take the mean over the examples"
        raise InputError("loss", expected, given, f"Write fnn.{LOSSES_OF_OTHERS[name]}.")


def check_penalty(penalty: object) -> None:
    """Raises an InputError unless this is a penalty, a function of the parameters, or None."""
    if penalty is not None:
        check_function("penalty", penalty, "a penalty, such as l2(1e-4), or a function of the parameters", "params")


def check_gradient_function(gradient: object) -> None:
    """Raises an InputError unless it is one of the names of a gradient, or a function."""
    if isinstance(gradient, str):
        check_choice("gradient", gradient, names.GRADIENTS)
    else:
        expected = "'auto', 'jax', 'formula', or a function with the interface of jax.value_and_grad"
        check_function("gradient", gradient, expected)


def check_metrics(metrics: Any) -> tuple[tuple[str, Any], ...] | None:
    """The pairs of name and metric. Raises an InputError unless this is None, or a dict of metrics by name."""
    expected = 'a dict by name, such as {"f1": functional_nn.metrics.f1_score}'
    check("metrics", metrics, expected, metrics is None or isinstance(metrics, Mapping))
    for name, metric in (metrics or {}).items():
        check_metric_name("metrics", name)
        with inside("metrics"):
            check_function(name, metric, "a metric, a loss, or a function of outputs and labels", "y, labels")
    return None if metrics is None else tuple(metrics.items())


def check_is_not_a_loader(data: object) -> None:
    """Raises an InputError for an iterable of batches, such as a ``DataLoader`` of PyTorch or a generator."""
    others = tuple | list | str | bytes | Mapping | Stream
    is_table = is_array(data) or hasattr(data, "to_numpy")  # a DataFrame gives its columns one by one
    if isinstance(data, Iterable) and not isinstance(data, others) and not is_table:
        remedy = "Write fnn.data.Stream(loader); for a generator, fnn.data.Stream(generator, steps=…)."
        raise InputError("data", "a Dataset, a Split or a Stream", f"batches, {shown(data)}", remedy)


def check_seed(seed: object) -> None:
    """Raises an InputError unless a random key can be made from the seed."""
    check("seed", seed, "an integer from 0 to 2**32 - 1", is_count(seed, least=0, most=LARGEST_SEED))


def check_train_state(train_state: Any) -> None:
    """Raises an InputError unless this is a ``TrainState`` with dicts of parameters and a key."""
    is_state = isinstance(train_state, TrainState)
    check("train_state", train_state, "a TrainState", is_state, "Make one with create_train_state.")
    check_trees(train_state.params, train_state.state)
    check_key(train_state.key)


def check_batch(x: PyTree, labels: PyTree) -> int:
    """Raises an InputError unless every example has a label; returns the number of examples."""
    check_arrays("x", x)
    examples = jax.tree.leaves(x)[0].shape[0]
    for argument, tree in (("x", x), ("labels", labels)):
        leaves = jax.tree.leaves(tree)
        are_arrays = leaves and all(is_array(leaf) and leaf.ndim and is_numeric(leaf) for leaf in leaves)
        check(argument, tree, "arrays of numbers with examples along axis 0", are_arrays)
        if any(leaf.shape[0] != examples for leaf in leaves):
            given = ", ".join(str(leaf.shape) for leaf in leaves)
            raise InputError(argument, f"{examples} examples along axis 0, as x has", f"shape {given}")
    if not examples:
        raise InputError("x", "at least one example", f"shape {jax.tree.leaves(x)[0].shape}")
    return examples


def check_scalar(argument: str, value: Any) -> jax.Array:
    """The floating-point number that a user's loss, penalty or metric returned, in a type to sum in.

    Raises:
        InputError: unless it returned one such number.
    """
    is_number = is_array(value) and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating)
    remedy = "Return the mean over the examples." if is_array(value) and value.ndim else ""
    check(argument, value, "a function that returns one floating-point number", is_number, remedy)
    return value.astype(wide_type(value.dtype))


def check_metric_name(argument: str, name: object) -> None:
    """Raises an InputError unless a metric, or a number that a loss reports, can have this name."""
    if not isinstance(name, str) or not name.isidentifier() or name == "loss":
        raise InputError(argument, "names of letters, digits and _ other than loss", shown(name))


def check_loss(result: object) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss, and the numbers that it reports in addition, from what a loss function returned.

    Raises:
        InputError: unless it returned one number, or a pair of one number and a dict of numbers by name.
    """
    if not isinstance(result, tuple):
        return check_scalar("loss", result), {}
    if len(result) != 2 or not isinstance(result[1], Mapping):
        expected = "a function that returns a number, or a pair (number, {name: number})"
        raise InputError("loss", expected, f"one that returns {shown(result)}")
    value, reports = result
    for name in reports:
        check_metric_name("loss", name)
    return check_scalar("loss", value), {name: check_scalar(f"loss/{name}", reports[name]) for name in reports}


def says_stop(answer: object) -> bool:
    """Whether the answer of ``on_epoch`` stops the run.

    Raises:
        InputError: unless it is a boolean, of Python, NumPy or JAX, or None.
    """
    if isinstance(answer, jax.Array) and answer.shape == () and answer.dtype == bool:
        answer = bool(answer)
    is_answer = answer is None or isinstance(answer, bool | np.bool_)
    check("on_epoch", answer, "a function that returns True to stop the run, or None", is_answer)
    return bool(answer)


def check_patience(patience: object, evaluated_part: str) -> int:
    """Raises an InputError unless this is a number of epochs, and there are examples that are evaluated; returns it."""
    if not evaluated_part:
        remedy = "Write data.with_validation(0.1)."
        raise InputError("patience", "data with validation or test examples", "training examples only", remedy)
    return check_count("patience", patience)
