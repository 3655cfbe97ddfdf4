"""The comparison for formulas of one's own: of a function, and of a network with its loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.layer_checks import check_key, check_trees
from functional_nn.core.validation import (
    as_array,
    as_host_array,
    check_arrays,
    check_count,
    check_flag,
    check_function,
    shown,
    tree_in_native_order,
)
from functional_nn.gradients.compare.comparison import Comparison
from functional_nn.gradients.compare.problem import Problem, cast, function_problem, split
from functional_nn.gradients.compare.report import Report
from functional_nn.gradients.mutation.planting import plant
from functional_nn.losses.loss import Loss
from functional_nn.losses.penalties import Penalty


def check_vjp(
    function: Callable[..., Any],
    hand_vjp: Callable[..., Any],
    *arguments: Any,
    second_order: bool = True,
    kinks_as_automatic: bool = False,
    mutants: bool = True,
    equivalent: Mapping[str, str] | None = None,
    subject: str = "",
    seed: int = 0,
) -> Report:
    """Compares a hand-derived backward pass with automatic differentiation and with an arbiter, element by element.

    In float64 every element of the full Jacobian ∂y/∂x is computed three times: by the formula, by ``jax.vjp``, and by
    differences of the function in 50 digits, which use no derivative rule; then the formula in the arguments' own type
    under ``jit``, ``vmap`` and ``scan``. An error is measured by what rounding alone could do to the element, so a
    formula is neither rejected for rounding nor accepted for being wrong where the values are small. Last, errors are
    planted in the formula, and the comparison has to find each.

    Args:
        function: ``function(*arguments) -> y``, pytrees of arrays.
        hand_vjp: ``hand_vjp(*arguments, y_bar) -> bars``, one cotangent for each argument, in its structure; None
            for what has no derivative (integers, masks). Of a single argument the cotangent itself.
        arguments: the point; sizes that differ along the axes show more.
        second_order: whether the formula's own derivative is compared, too.
        kinks_as_automatic: whether at kinks the formula has to give what ``jax.grad`` gives. Otherwise a kink among
            the arguments is inconclusive.
        mutants: whether errors are planted.
        equivalent: planted errors that are none, such as ``{"reduce_max: became min": "The shift cancels."}``, by what
            the report says of them, each with the reason.
        subject: what the report calls the formula; by default the function's name.
        seed: of the cotangents that are drawn.

    Raises:
        InputError: ``hand_vjp`` gives other structures or shapes than the arguments'.

    >>> def square_vjp(x, y_bar):
    ...     return 3 * x * y_bar  # 2 is right
    >>> report = check_vjp(jnp.square, square_vjp, np.array([0.5, -1.0]))
    >>> report.passed, report.verdicts[0].leaf, report.verdicts[0].outcome
    (False, 'x', 'fail')
    """
    check_function("function", function, "a function of the arguments")
    check_function("hand_vjp", hand_vjp, "a function of the arguments and a cotangent")
    for argument, value in (
        ("second_order", second_order),
        ("kinks_as_automatic", kinks_as_automatic),
        ("mutants", mutants),
    ):
        check_flag(argument, value)
    check_count("seed", seed, least=0)
    if not arguments:
        raise InputError("arguments", "at least one example argument", "none", "Write check_vjp(f, f_vjp, x).")
    arguments = tree_in_native_order(arguments)
    arrays = [as_host_array("arguments", leaf) for leaf in jax.tree.leaves(arguments)]
    for array in arrays:
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
            raise InputError("arguments", "finite numbers", shown(array))
    if not any(array.size for array in arrays):
        raise InputError("arguments", "at least one number", ", ".join(map(shown, arrays)) or "none")
    smooth = split(arguments).leaves
    if not smooth:
        remedy = "A derivative is by floating-point numbers: give 1.0, not 1."
        raise InputError("arguments", "at least one array of floating-point numbers", "none", remedy)
    name = subject or getattr(function, "__name__", "function").strip("<>")

    def problem_in(dtype: str) -> Problem:
        return function_problem(function, hand_vjp, cast(arguments, dtype))

    comparison = Comparison(name, problem_in, seed=seed, kinks_as_automatic=kinks_as_automatic)
    return _report(comparison, _types(smooth), second_order=second_order, mutants=mutants, equivalent=equivalent)


def check_gradients(
    net: Layer | Any,
    loss: Loss,
    params: Any,
    state: Any,
    x: Any,
    labels: Any,
    *,
    penalties: Sequence[Penalty] = (),
    weights: Any = None,
    train: bool = True,
    key: jax.Array | None = None,
    gradient: Callable[[Any], Any] | None = None,
    mutants: bool = False,
    seed: int = 0,
) -> Report:
    """Compares the composed hand-derived gradient of a whole network's loss with ``jax.grad`` and with an arbiter.

    L(params) = loss(net(params, x), labels) + Σ penalties; its gradient by hand is the network's pullback of
    ``loss.gradient``, plus the penalties' gradients. See ``check_vjp`` for the comparison. Of parameters with many
    elements those are arbitrated where the parties disagree most, and others spread evenly.

    Args:
        net: the network, or whatever ``chain`` takes.
        loss: a ``Loss``, which has a gradient.
        params: its parameters.
        state: its state.
        x: a batch, not large: every example costs.
        labels: what the loss takes.
        penalties: added to the loss.
        weights: of the examples.
        train: whether it is the training pass that is compared.
        key: for what draws in training; the same draws in all parties.
        gradient: a gradient of one's own, ``gradient(params) -> bars``, that is compared in place of the package's.
        mutants: whether errors are planted.
        seed: of the directions that are drawn.

    >>> import functional_nn as fnn
    >>> net = fnn.chain(fnn.dense(3), fnn.tanh, fnn.dense(2))
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> x, labels = np.linspace(-1, 1, 20).reshape(5, 4), np.array([0, 1, 1, 0, 1])
    >>> check_gradients(net, fnn.cross_entropy, params, state, x, labels).passed
    True
    """
    layer = as_layer(net)
    if not isinstance(loss, Loss):
        raise InputError("loss", "a Loss, which has a gradient", shown(loss))
    check_trees(params, state)
    check_arrays("x", x)
    params, state, x = tree_in_native_order((params, state, x))
    labels = as_array("labels", labels)
    weights = None if weights is None else as_array("weights", weights)
    if not isinstance(penalties, Sequence) or not all(isinstance(penalty, Penalty) for penalty in penalties):
        raise InputError("penalties", "a list of penalties", shown(penalties))
    if gradient is not None:
        check_function("gradient", gradient, "a function of the parameters that gives their cotangents")
    check_flag("train", train)
    check_flag("mutants", mutants)
    check_count("seed", seed, least=0)
    if key is not None:
        check_key(key)

    def problem_in(dtype: str) -> Problem:
        own_params, own_x, own_weights = cast((params, x, weights), dtype)
        own_state = cast(state, np.float64 if dtype == "float64" else np.float32)

        def value(params: Any) -> jax.Array:
            y, _ = layer.apply(params, own_state, own_x, train=train, key=key)
            total = loss(y, labels, own_weights)
            return sum((penalty(params) for penalty in penalties), total)

        def by_hand(params: Any, y_bar: jax.Array) -> Any:
            if gradient is not None:
                bars = gradient(params)
            else:
                y, _, pullback = layer.vjp(params, own_state, own_x, train=train, key=key)
                bars, _ = pullback(loss.gradient(y, labels, own_weights))
                for penalty in penalties:
                    bars = jax.tree.map(jnp.add, bars, penalty.gradient(params))
            return jax.tree.map(lambda bar: bar * y_bar.astype(bar.dtype), bars)

        problem = function_problem(value, by_hand, (own_params,))
        return problem._replace(names=[leaf.removeprefix("params/") for leaf in problem.names])

    comparison = Comparison(f"{layer.name}, {loss.name}", problem_in, seed=seed, kinks_as_automatic=True)
    return _report(comparison, _types(split(params).leaves), second_order=False, mutants=mutants)


def _types(leaves: Sequence[Any]) -> list[str]:
    """float64, and the arguments' own type, the widest of them, where it is another."""
    own = str(max((np.asarray(leaf).dtype for leaf in leaves), key=lambda dtype: dtype.itemsize))
    return ["float64"] if own == "float64" else ["float64", own]


def _report(
    comparison: Comparison, types: Sequence[str], *, second_order: bool, mutants: bool, equivalent: Any = None
) -> Report:
    started = time.perf_counter()
    verdicts = list(comparison.first_order())
    if second_order:
        verdicts += comparison.second_order()
    for dtype in types:
        verdicts += comparison.in_type(dtype)
    planted, survivors = 0, ()
    if mutants and not any(verdict.outcome == "fail" for verdict in verdicts):
        planted, survivors = plant(comparison, equivalent=equivalent)
    seconds = time.perf_counter() - started
    return Report(tuple(verdicts), planted, survivors, seconds=seconds, title=comparison.subject)
