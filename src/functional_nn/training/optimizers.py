"""Optimizers and learning rates by name, gradient clipping, and rules for some of the parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn import names
from functional_nn.core import trees
from functional_nn.core.errors import InputError, check, failing_as
from functional_nn.core.layer import Params
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_choice, check_count, check_number, is_function

OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = names.OPTIMIZERS
"""Every named optimizer: a function of the learning rate (a number, a traced array or a schedule)."""
SCHEDULES: Mapping[str, Callable[[float | jax.Array, int], optax.Schedule]] = names.SCHEDULES
"""Every named schedule: a function of the learning rate and the number of steps in the run."""

momentum = partial(optax.sgd, momentum=0.9)
nesterov = partial(optax.sgd, momentum=0.9, nesterov=True)


def optimizer(name: str, learning_rate: optax.ScalarOrSchedule, **options) -> optax.GradientTransformation:
    """The Optax optimizer with a name. ``momentum`` and ``nesterov`` are gradient descent with momentum 0.9.

    ``options`` are keyword arguments of the Optax function, such as ``b1`` of ``adam``.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> rule = fnn.training.optimizer("sgd", 0.5)
    >>> updates, _ = rule.update(jnp.array(2.0), rule.init(jnp.array(0.0)))
    >>> print(updates)
    -1.0
    """
    check_choice("optimizer", name, OPTIMIZERS)
    make = OPTIMIZERS[name]
    if not is_function(learning_rate):
        check_number("learning_rate", learning_rate, "a finite number, or a schedule")
    known = [parameter for parameter in inspect.signature(make).parameters if parameter != "learning_rate"]
    for option, value in options.items():
        if option not in known:
            raise InputError("options", f"options of {name}", option, suggest(option, known))
        # A dtype may be given by its name. No other option is a string or a sequence.
        fits = option.endswith("dtype") or not isinstance(value, str | bytes | list | tuple)
        check(option, value, f"a value that Optax's {name} accepts", fits)
    return make(learning_rate, **options)


def constant(rate: float | jax.Array, steps: int) -> optax.Schedule:
    return optax.constant_schedule(rate)


def cosine(rate: float | jax.Array, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, steps)


def one_cycle(rate: float | jax.Array, steps: int) -> optax.Schedule:
    return optax.cosine_onecycle_schedule(steps, rate)


def step(rate: float | jax.Array, steps: int) -> optax.Schedule:
    # Step 0 is left out, in very short runs.
    boundaries = {boundary: 0.1 for boundary in (steps // 2, steps * 3 // 4) if boundary > 0}
    return optax.piecewise_constant_schedule(rate, boundaries)


def schedule(name: str, learning_rate: float | jax.Array, steps: int) -> optax.Schedule:
    """The learning rate over a run of ``steps`` updates.

    ``constant`` keeps the rate. ``cosine`` lowers it to 0. ``one-cycle`` raises it in the first 30% of the steps and
    then lowers it nearly to 0. ``step`` divides it by 10 after half of the steps, and again after three quarters.

    >>> import functional_nn as fnn
    >>> rate = fnn.training.schedule("step", 0.1, steps=100)
    >>> print(rate(0), round(float(rate(60)), 4), round(float(rate(80)), 5))
    0.1 0.01 0.001
    """
    check_choice("schedule", name, SCHEDULES)
    check_number("learning_rate", learning_rate)
    steps = check_count("steps", steps)
    return SCHEDULES[name](learning_rate, steps)


class Clipping(NamedTuple):
    """The state of ``with_clipping``.

    Args:
        optimizer_state: the state of the optimizer inside.
        clipped_steps: the number of steps with a gradient longer than the limit, int32.
        skipped_steps: the number of steps that changed nothing because their gradient was not finite, int32.
    """

    optimizer_state: PyTree
    clipped_steps: jax.Array
    skipped_steps: jax.Array


def with_clipping(
    optimizer: optax.GradientTransformation, limit: float | jax.Array
) -> optax.GradientTransformationExtraArgs:
    """The optimizer with clipped gradients. It counts the steps that were clipped, and those that were skipped.

    Math:
        g ← g min(1, limit / ‖g‖), where ‖g‖ is the norm of all gradients together. It is computed as m √Σ(g / m)² with
        m = max |g|, so that squares neither overflow nor vanish. A gradient of 0 stays as it is.

    If a number in the gradient is not finite, the step is skipped: it changes nothing, not even the optimizer's state.
    The counts are in the optimizer's state (``Clipping``). ``fit`` reports those of each epoch in ``EpochMetrics``.

    Args:
        optimizer: any Optax transformation.
        limit: the largest norm, above 0. May be a traced array.

    >>> import functional_nn as fnn, jax.numpy as jnp, optax
    >>> rule = fnn.training.with_clipping(optax.sgd(1.0), 5.0)
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, state = rule.update({"w": jnp.array([30.0, -40.0])}, rule.init(params), params)
    >>> print(updates["w"], state.clipped_steps)
    [-3.  4.] 1

    References:
        Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    check_gradient_transformation(optimizer)
    check_number("limit", limit, "a number above 0", lambda limit: limit > 0)

    def init(params):
        return Clipping(optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        # m = max |g|, in at least float32. max passes NaN on, so m is finite only if every element is.
        leaves = [leaf for leaf in jax.tree.leaves(updates) if leaf.size]
        dtype = jnp.result_type(jnp.float32, *leaves)
        largest = reduce(jnp.maximum, (jnp.max(jnp.abs(leaf)).astype(dtype) for leaf in leaves), jnp.zeros((), dtype))
        finite = jnp.isfinite(largest)

        # ‖g / m‖, and the factor that makes the gradient as long as the limit. The product m ‖g / m‖ could overflow, so
        # the limit is divided by both.
        unit = jnp.where(finite & (largest > 0), largest, 1)
        squares = (jnp.sum(jnp.square(leaf.astype(dtype) / unit)) for leaf in leaves)
        norm = jnp.sqrt(reduce(jnp.add, squares, jnp.zeros((), dtype)))
        clipped = finite & (norm > limit / unit)
        share = jnp.where(clipped, limit / unit / norm, 1)
        cut = jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), updates)

        # A gradient that is not finite changes nothing.
        new_updates, new_state = update_with(optimizer, cut, state.optimizer_state, params, extra)
        new_updates = jax.tree.map(lambda new: jnp.where(finite, new, jnp.zeros_like(new)), new_updates)
        optimizer_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state.optimizer_state)
        clipped_steps = _incremented_if(clipped, state.clipped_steps)
        skipped_steps = _incremented_if(~finite, state.skipped_steps)
        return new_updates, Clipping(optimizer_state, clipped_steps, skipped_steps)

    return optax.GradientTransformationExtraArgs(init, update)


def path_mask(paths: trees.Paths = "*weight") -> Callable[[Params], trees.PyTree]:
    """Makes a mask for Optax, which says on which parameters a transformation acts, from their paths.

    For example, ``optax.adamw(1e-3, weight_decay=1e-2, mask=path_mask("*weight"))`` decays weights, but not biases and
    scales. ``optax.add_decayed_weights(1e-4, mask=path_mask("dense_0/*"))`` before ``optax.sgd(0.1)`` in
    ``optax.chain`` decays the weights and biases of one layer. For L1 and L2 in the loss see ``l1`` and ``l2``.

    Args:
        paths: a pattern, several patterns, or a function of the path; see ``trees.select``.

    Raises:
        InputError: when Optax initializes the transformation, if no parameter matches.

    >>> import functional_nn as fnn
    >>> fnn.training.path_mask("*weight")({"dense_0": {"weight": 1.0, "bias": 2.0}})
    {'dense_0': {'bias': False, 'weight': True}}
    """
    trees.check_paths(paths)

    def mask(params):
        chosen = set(trees.select(params, paths))
        return trees.map_with_path(lambda path, leaf: path in chosen, params)

    return mask


def with_frozen(optimizer: optax.GradientTransformation, paths: trees.Paths) -> optax.GradientTransformationExtraArgs:
    """The optimizer with some parameters left as they are: no update, no weight decay, no memory for them.

    The parameters stay in one tree, as checkpoints and files need it. The layer ``frozen`` moves them to the state
    instead, and then their gradients are not computed either.

    Args:
        optimizer: what updates the other parameters.
        paths: which parameters to leave, see ``trees.select``.

    Raises:
        InputError: when Optax initializes the transformation, if no parameter matches.

    >>> rule = with_frozen(optax.sgd(1.0), "dense_0/*")
    >>> params = {"dense_0": {"bias": jnp.zeros(1)}, "dense_1": {"bias": jnp.zeros(1)}}
    >>> gradient = jax.tree.map(jnp.ones_like, params)
    >>> updates, _ = rule.update(gradient, rule.init(params), params)
    >>> print(updates["dense_0"]["bias"], updates["dense_1"]["bias"])
    [0.] [-1.]
    """
    mask = path_mask(paths)

    def labels(params):
        return jax.tree.map(lambda frozen: "frozen" if frozen else "trained", mask(params))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def update_with(
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    optimizer_state: PyTree,
    params: PyTree,
    extra: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """Computes an optimizer's updates and its new state. It gets those of the extra arguments that it takes by name.

    Extra arguments are those beyond gradient, state and parameters, such as the loss's value.

    >>> rule = optax.sgd(1.0)
    >>> updates, _ = update_with(rule, 2.0, rule.init(0.0), 0.0, {"value": 3.0})
    >>> print(updates)
    -2.0
    """
    takes_any = optax.with_extra_args_support(optimizer)
    parameters = inspect.signature(takes_any.update).parameters
    # A function with **extra takes every name. Another one would raise an error for a name that it does not know.
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        extra = {name: value for name, value in extra.items() if name in parameters}
    with explaining_optimizer(optimizer):
        return takes_any.update(gradient, optimizer_state, params, **extra)


def explaining_optimizer(optimizer: optax.GradientTransformation) -> AbstractContextManager[None]:
    """Raises an InputError if a transformation of Optax fails: Optax uses its arguments only here.

    The errors of a user's own transformation stay as they are.
    """
    if not is_of_optax(optimizer.update):
        return nullcontext()
    expected = "an Optax transformation that can compute updates"
    remedy = "Look at its arguments, such as the learning rate in optax.adam(1e-3)."
    return failing_as("optimizer", expected, remedy, errors=(TypeError, ValueError, AttributeError))


def is_gradient_transformation(value: object) -> bool:
    """Whether a value is an Optax transformation."""
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def check_gradient_transformation(optimizer: object) -> None:
    """Raises an InputError unless this is an Optax transformation."""
    remedy = "Write optax.adam(1e-3), or functional_nn.training.optimizer('adam', 1e-3)."
    check("optimizer", optimizer, "an Optax transformation", is_gradient_transformation(optimizer), remedy)


def _incremented_if(condition: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.where(condition, optax.safe_increment(count), count)


def is_of_optax(function: object) -> bool:
    """Whether a function is one of Optax."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == "optax"
