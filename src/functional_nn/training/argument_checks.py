"""What training refuses before it computes, and while it is traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import check_key, check_trees
from functional_nn.core.validation import check_arrays, check_count, check_function, is_array, is_numeric, shown
from functional_nn.training.state import TrainState, check_gradient_transformation

LARGEST_SEED = 2**32 - 1


def check_functions(loss: Any, optimizer: Any, penalty: Any) -> None:
    """Refuses what is no loss, no Optax transformation, or no penalty."""
    check_function("loss", loss, "a loss, such as cross_entropy, or a function")
    check_gradient_transformation(optimizer)
    if penalty is not None:
        check_function("penalty", penalty, "a penalty, such as l2(1e-4), or a function")


def check_counts(epochs: Any, batch_size: Any) -> None:
    """Refuses what is no positive number of epochs or of examples a step."""
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)


def check_seed(argument: str, seed: Any) -> int:
    """Refuses what a key cannot be made of."""
    try:
        return check_count(argument, seed, least=0, most=LARGEST_SEED)
    except InputError:
        raise InputError(argument, "an integer from 0 to 2**32 - 1", shown(seed)) from None


def check_train_state(train_state: Any) -> None:
    """Refuses what ``create_train_state`` did not make."""
    if not isinstance(train_state, TrainState):
        raise InputError("train_state", "a TrainState", shown(train_state), "Make one by create_train_state.")
    check_trees(train_state.params, train_state.state)
    check_key(train_state.key)


def check_epoch_number(number: Any) -> Any:
    """Refuses what is not the whole number of an epoch."""
    if is_array(number) and jnp.issubdtype(number.dtype, jnp.integer) and number.ndim == 0:
        return number
    return check_count("number", number, least=0)


def check_batch(x: Any, labels: Any) -> int:
    """Refuses what are no examples with a label each; gives their number."""
    check_arrays("x", x)
    examples = jax.tree.leaves(x)[0].shape[0]
    for argument, tree in (("x", x), ("labels", labels)):
        leaves = jax.tree.leaves(tree)
        if not leaves or not all(is_array(leaf) and leaf.ndim and is_numeric(leaf) for leaf in leaves):
            raise InputError(argument, "arrays of numbers with examples along axis 0", shown(tree))
        if any(leaf.shape[0] != examples for leaf in leaves):
            given = ", ".join(str(leaf.shape) for leaf in leaves)
            raise InputError(argument, f"{examples} examples along axis 0, as x has", f"shape {given}")
    if not examples:
        raise InputError("x", "at least one example", f"shape {jax.tree.leaves(x)[0].shape}")
    return examples


def check_stepped(argument: str, result: Any, second: str) -> Any:
    """Refuses what a train step or an epoch of one's own may not give: it gives a pair, with a TrainState first."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], TrainState):
        raise InputError(argument, f"a function that gives (TrainState, {second})", f"one that gives {shown(result)}")
    return result


def check_scalar(argument: str, value: Any) -> Any:
    """Refuses what a loss or a penalty of one's own may not give."""
    if not is_array(value) or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise InputError(argument, "a function that gives one floating-point number", shown(value))
    return value
