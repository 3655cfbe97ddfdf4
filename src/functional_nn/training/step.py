"""A train step, and the gradient of each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError, check, shown
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.masked import Value
from functional_nn.core.shapes import Shape, cast
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import EXAMPLES, as_array, check_flag, check_function, check_key, check_trees
from functional_nn.data.preparation import scaled_bytes
from functional_nn.training import argument_checks as checks
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.recipe import (
    Gradient,
    GradientFunction,
    LossFunction,
    PenaltyFunction,
    Recipe,
    with_gradient,
)
from functional_nn.training.state import TrainState, derived_key

TrainStep: TypeAlias = Callable[[TrainState, PyTree, PyTree], tuple[TrainState, PyTree]]
"""``step(train_state, x, labels) -> (train_state, loss)``."""

Objective: TypeAlias = Callable[..., tuple[jax.Array, PyTree]]
"""``objective(params, state, x, labels, key) -> (value, auxiliary)``: the loss of a batch, to be differentiated."""


class StepResult(NamedTuple):
    """The result of a step on a batch of a stream.

    Args:
        loss: the loss before the update; NaN if the step is bad.
        is_finite: whether all numbers that were finite before the step are finite after it.
        reports: what the loss reports in addition, by name.
    """

    loss: jax.Array
    is_finite: jax.Array
    reports: Mapping[str, jax.Array]


def make_train_step(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    penalty: PenaltyFunction | None = None,
    gradient: Gradient = "auto",
    precision: str | Precision = "float32",
    keep_finite: bool = True,
) -> TrainStep:
    """Makes a pure function ``train_step(train_state, x, labels) -> (train_state, loss)``.

    The step follows the gradient of loss plus penalty over the batch. ``"jax"`` computes it by automatic
    differentiation, and ``"formula"`` by the network's hand-derived backward pass, as for ``with_hand_vjp``. ``"auto"``
    takes the formula where a layer is faster by it: convolutions, recurrent layers and attention. The returned loss
    is without the penalty. If the loss function returns a pair ``(loss, {name: number})``, so does the step.

    A function as ``gradient`` takes the place of ``jax.value_and_grad`` and has its interface: ``gradient(objective,
    has_aux=True)`` gives a function of ``(params, state, x, labels, key)`` that returns ``((value, auxiliary),
    gradient)``. Here ``objective(params, state, x, labels, key) -> (value, auxiliary)`` is the loss plus the penalty.
    It can be called for parts of the batch, as gradients that are clipped one by one need, or at other parameters.

    The optimizer gets ``value``, ``grad``, ``value_fn``, ``obj_fn`` (both are the objective as a function of the
    parameters) and ``grad_fn`` (its gradient), if it takes arguments with these names.

    With ``keep_finite``, a step changes nothing, not even the step count, if its loss is not finite, or if a number in
    the parameters, the network's state or the optimizer's state would become non-finite. Its loss is returned as NaN.
    So a run that diverges keeps its last finite state.

    If the precision scales the loss, the scaled loss is differentiated, and the gradient is divided by the scale
    (``train_state.loss_scale``). If a gradient is not finite, only the scale changes: it is lowered, and the step is
    counted as skipped. If the scale cannot be lowered any more, the loss is returned as NaN.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp, optax
    >>> from functional_nn.training.state import create_train_state
    >>> net, optimizer = fnn.dense(2), optax.sgd(0.1)
    >>> train_step = jax.jit(fnn.training.make_train_step(net, fnn.cross_entropy, optimizer))
    >>> start = create_train_state(net, optimizer, jax.random.key(0), (3,))
    >>> after, loss = train_step(start, jnp.ones((4, 3)), jnp.array([0, 1, 1, 1]))
    >>> print(after.step)
    1
    """
    check_flag("keep_finite", keep_finite)
    net, differentiate = with_gradient(as_layer(net), gradient)
    policy = as_precision(precision)
    checks.check_functions(loss, optimizer, penalty)
    step = step_of(
        Recipe(net, loss, optimizer, penalty, gradient=differentiate), policy, "kept" if keep_finite else "unchecked"
    )

    def train_step(train_state, x, labels):
        checks.check_train_state(train_state)
        checks.check_batch(x, labels)
        if policy.scales_loss != (train_state.loss_scale is not None):
            expected = f"a loss scale for computing in {policy.compute}" if policy.scales_loss else "no loss scale"
            given = "none" if policy.scales_loss else "one"
            remedy = "Give create_train_state the precision that make_train_step has."
            raise InputError("train_state", expected, given, remedy)
        after, (value, reports) = step(train_state, x, labels)
        return after, ((value, reports) if reports else value)

    return train_step


def step_of(
    recipe: Recipe, precision: Precision, finite: Literal["unchecked", "kept", "told"] = "unchecked"
) -> TrainStep:
    """Makes the train step of a recipe. ``make_train_step`` describes it; here nothing is checked.

    The step always returns the pair ``(loss, reports)``, or a ``StepResult``.

    Args:
        recipe: what is trained, and how.
        precision: that of the run.
        finite: whether numbers stay finite is not asked (``"unchecked"``); a step after which they would not changes
            nothing (``"kept"``); or the step returns a ``StepResult``, which tells it (``"told"``).
    """
    unscaled = make_objective(recipe, precision)

    def train_step(train_state, x, labels):
        params, state, loss_scale = train_state.params, train_state.state, train_state.loss_scale
        scale = None if loss_scale is None else loss_scale.scale
        key_step = derived_key(train_state.key, "noise", train_state.step)
        # Only the gradient has the scale: total and value are auxiliary values.
        objective = unscaled if scale is None else make_objective(recipe, precision, scale=scale)

        # Optax's line searches pass every extra argument on to value_fn, and refuse those that it does not take.
        def objective_of(params, *, obj_fn=None, grad_fn=None):
            return unscaled(params, state, x, labels, key_step)[0]

        outcome = differentiated(objective, recipe.gradient, params, state, x, labels, key_step)
        (total, value, reports, new_state), gradients = outcome
        if scale is not None:
            gradients = jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), gradients)

        # The optimizer's update. The key never changes, and it is no number to compare, so it is put back at the end.
        old = train_state._replace(key=None)
        new = old.apply_gradient(
            gradients,
            recipe.optimizer,
            new_state,
            value=total,
            grad=gradients,
            value_fn=objective_of,
            obj_fn=objective_of,
            grad_fn=lambda params, step=0: jax.grad(objective_of)(params),
        )

        # With a scaled loss, a gradient that overflowed changes nothing but the scale.
        if loss_scale is not None:
            are_finite = (jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
            fits = reduce(jnp.logical_and, are_finite, jnp.bool_(True))
            # If no smaller scale is left to try, such steps would be skipped in silence. NaN reports them.
            value = jnp.where(~fits & loss_scale.exhausted, jnp.nan, value)
            new = where(fits, new, old)._replace(loss_scale=loss_scale.after(fits))

        result = value, reports
        if finite != "unchecked":
            # The pair (0, total) requires a finite loss as well, since 0 is finite.
            is_finite = stays_finite((0.0, old), (total, new))
            value = jnp.where(is_finite, value, jnp.nan)
            result = StepResult(value, is_finite, reports) if finite == "told" else (value, reports)
            if finite == "kept":
                new = where(is_finite, new, old)
        return new._replace(key=train_state.key), result

    return train_step


def make_objective(
    recipe: Recipe, precision: Precision, *, train: bool = True, scale: jax.Array | None = None
) -> Objective:
    """Makes the function that training differentiates, ``objective(params, state, x, labels, key)``.

    It returns loss plus penalty, multiplied by ``scale``; and ``(loss plus penalty, loss, reports of the loss, new
    state)``, not multiplied.
    """

    def objective(params, state, x, labels, key):
        y, new_state = forward(recipe.net, precision, params, state, x, train=train, key=key)
        value, reports = checks.check_loss(recipe.loss(y, labels))
        total = value if recipe.penalty is None else value + checks.check_scalar("penalty", recipe.penalty(params))
        scaled = total if scale is None else total * scale.astype(total.dtype)
        return scaled, (total, value, reports, new_state)

    return objective


def differentiated(
    objective: Objective, gradient: GradientFunction, params: Params, *others: PyTree
) -> tuple[tuple[jax.Array, jax.Array, dict[str, jax.Array], State], Params]:
    """The auxiliary values of the objective for ``(params, state, x, labels, key)``, and its gradient.

    A user's ``gradient`` computes them, so what it returns is checked.
    """
    differentiate = gradient(objective, has_aux=True)
    check_function("gradient", differentiate, "a function that returns a function, as jax.value_and_grad does")
    outcome = differentiate(params, *others)
    try:
        (_, (total, value, reports, new_state)), bars = outcome
    except (TypeError, ValueError):
        expected = "a function that returns ((value, auxiliary), gradient), as jax.value_and_grad with has_aux does"
        raise InputError("gradient", expected, f"one that returns {shown(outcome)}") from None
    has_structure = jax.tree.structure(bars) == jax.tree.structure(params)
    check("gradient", bars, "a gradient with the structure of the parameters", has_structure)
    return (total, value, reports, new_state), bars


def forward(
    net: Layer,
    precision: Precision,
    params: Params,
    state: State,
    x: Value,
    *,
    train: bool,
    key: jax.Array | None = None,
) -> tuple[Value, State]:
    """The network's output in ``precision.output``, computed in ``precision.compute``. Bytes are divided by 255."""
    x = scaled_bytes(x, precision.compute)
    y, state = net.apply(cast(params, precision.compute), state, cast(x, precision.compute), train=train, key=key)
    return cast(y, precision.output), state


def where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Returns ``new`` if the condition holds, otherwise ``old``. Both are pytrees of the same structure."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def numbers(tree: PyTree) -> list[jax.Array]:
    """The arrays of a pytree except random keys."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_number(leaf)]


def is_number(leaf: object) -> bool:
    """Whether a leaf is a number or an array of numbers, and not an array of random keys."""
    return not (isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def stays_finite(before: PyTree, after: PyTree) -> jax.Array:
    """Whether every number that is finite in ``before`` is finite in ``after``. Random keys are no numbers.

    Not all numbers have to be finite, because the states of some optimizers contain infinity from the start.
    """
    # Parameters and an optimizer's averages have the same shapes. Arrays of one shape share one reduction, because XLA
    # compiles a kernel for each.
    of_shape: dict[Shape, list[jax.Array]] = {}
    for old, new in zip(numbers(before), numbers(after), strict=True):
        of_shape.setdefault(jnp.shape(new), []).append(jnp.isfinite(new) | ~jnp.isfinite(old))
    return jnp.all(jnp.stack([jnp.all(reduce(jnp.logical_and, are_good)) for are_good in of_shape.values()]))


def per_example_gradients(
    net: Layer,
    loss: LossFunction,
    params: Params,
    state: State,
    x: Value,
    labels: PyTree,
    *,
    train: bool = True,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Params]:
    """The loss and the gradient of each example, as if each example were a whole batch.

    Math:
        gₙ = ∂ℓ(f(xₙ; θ), tₙ)/∂θ; their mean over n is the gradient of the batch if all examples have the same weight

    Shapes:
        x (batch, …), labels (batch, …); the losses (batch,), and each gradient (batch, *parameter's shape)

    Args:
        net, loss: what ``fit`` takes. The numbers that a loss reports in addition are left out.
        params, state: of the network. The new state is not returned.
        x, labels: a batch: arrays, or pytrees of arrays.
        train: whether the network is in training.
        key: for noise, such as dropout; each example has its own noise.

    Raises:
        InputError: in training, if a layer couples the examples of a batch (``batch_norm``), because a single example
            then has no gradient of its own.

    >>> import functional_nn as fnn, jax
    >>> net = fnn.dense(2)
    >>> params, state = net.init(jax.random.key(0), (3,))
    >>> x, labels = jax.numpy.ones((5, 3)), jax.numpy.zeros(5, int)
    >>> losses, gradients = jax.jit(
    ...     lambda params: fnn.training.per_example_gradients(net, fnn.cross_entropy, params, state, x, labels))(params)
    >>> losses.shape, gradients["weight"].shape
    ((5,), (5, 3, 2))

    References:
        Abadi et al. 2016, "Deep learning with differential privacy", algorithm 1.
    """
    net = as_layer(net)
    # A list of numbers is one array.
    labels = jax.tree.map(partial(as_array, "labels"), labels, is_leaf=lambda node: isinstance(node, list))
    checks.check_loss_function(loss)
    check_trees(params, state)
    examples = checks.check_batch(x, labels)
    if key is not None:
        check_key(key)

    def value(params, x, label, key):
        # Each example is a batch of one, so the mean in the loss changes nothing.
        x, label = jax.tree.map(lambda leaf: leaf[None], (x, label))
        y, _ = net.apply(params, state, x, train=train, key=key)
        return checks.check_loss(loss(y, label))[0]

    keys = None if key is None else jax.random.split(key, examples)
    # The name of the mapped axis is how a layer such as batch_norm notices that its batch is not whole.
    alone = jax.vmap(jax.value_and_grad(value), in_axes=(None, 0, 0, None if keys is None else 0), axis_name=EXAMPLES)
    return alone(params, x, labels, keys)
