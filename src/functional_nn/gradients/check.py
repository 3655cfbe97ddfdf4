"""Checks of your own formulas: the backward pass of a function or of a layer, and the gradient of a network's loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.typing import ArrayLike

from functional_nn.core import validation
from functional_nn.core.errors import InputError, shortened, shown
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.shapes import Shape
from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare import problem
from functional_nn.gradients.compare.comparison import TRANSFORMS, JacobianComparison
from functional_nn.gradients.compare.error_scale import TOLERANCES
from functional_nn.gradients.compare.points import REPEATED_PERMUTATION, at_compared_integers, other_arguments
from functional_nn.gradients.compare.problem import Problem
from functional_nn.gradients.compare.report import Report, has_failed
from functional_nn.gradients.mutation.planting import MOST_MUTANTS, plant
from functional_nn.jaxprs.walk import all_equations
from functional_nn.losses.loss import Loss
from functional_nn.losses.penalties import Penalty


def check_vjp(
    function: Callable[..., PyTree],
    hand_vjp: Callable[..., PyTree],
    *arguments: PyTree,
    second_order: bool = True,
    kinks_as_automatic: bool = False,
    stop_gradient_as_constant: bool = False,
    mutants: bool = True,
    domain: Callable[..., PyTree] | None = None,
    subject: str = "",
    seed: int = 0,
) -> Report:
    """Compares a hand-derived backward pass with automatic differentiation and with an arbiter, element by element.

    In float64, every element of the full Jacobian ∂y/∂x is computed three times: by the formula, by ``jax.vjp``, and by
    an arbiter. The arbiter takes differences of the function in 50 digits and uses no derivative rule. Then the formula
    is compared in the arguments' own type, under ``jit``, ``vmap`` and ``scan``. Errors are measured relative to the
    effect that rounding alone can have on an element. So a right formula is not rejected because of rounding, and a
    wrong one is not accepted because its values are small. At further points, which are drawn, also with longer axes,
    the formula is compared with ``jax.vjp``; where they differ, the arbiter decides. Last, errors are planted in the
    formula, and the comparison has to find each of them.

    Args:
        function: ``function(*arguments) -> y``, pytrees of arrays.
        hand_vjp: ``hand_vjp(*arguments, y_bar) -> bars``, one cotangent for each argument, with the same structure.
            Values without a derivative (integers, masks) get None. For a single argument it may return the cotangent
            itself instead of a tuple.
        arguments: the point: arrays of real or complex numbers. If axes have different sizes, the comparison finds more
            errors.
        second_order: whether the derivative of the formula is compared, too.
        kinks_as_automatic: whether the formula has to give the values of ``jax.grad`` at kinks. Otherwise a kink among
            the arguments is inconclusive.
        stop_gradient_as_constant: whether the results of ``jax.lax.stop_gradient`` are constants, as for
            ``jax.grad``: for a straight-through estimator, such as x + stop_gradient(round(x) - x). Otherwise the
            arbiter differentiates through them. There is then no second order, since the gradient is not a derivative.
        mutants: whether errors are planted.
        domain: where the formula has to be right, if not everywhere: a function that moves any arguments there, such as
            ``jnp.abs`` for x > 0. The further points are moved by it.
        subject: the name in the report; by default the function's name.
        seed: for drawing the cotangents.

    Raises:
        InputError: the cotangents from ``hand_vjp`` do not have the structure and the shapes of the arguments.

    >>> import functional_nn as fnn, jax.numpy as jnp, numpy as np
    >>> def square_vjp(x, y_bar):
    ...     return 3 * x * y_bar  # 2 is right
    >>> report = fnn.check_vjp(jnp.square, square_vjp, np.array([0.5, -1.0]))
    >>> report.passed, report.verdicts[0].leaf, report.verdicts[0].outcome
    (False, 'x', 'fail')
    """
    validation.check_function("function", function, "a function of the arguments")
    validation.check_function("hand_vjp", hand_vjp, "a function of the arguments and a cotangent")
    if domain is not None:
        validation.check_function("domain", domain, "a function of the arguments")
    if not arguments:
        raise InputError("arguments", "at least one example argument", "none", "Write check_vjp(f, f_vjp, x).")
    arguments = validation.tree_in_native_order(arguments)
    arrays = [_numbers(leaf) for leaf in jax.tree.leaves(arguments)]
    if not any(array.size for array in arrays):
        raise InputError("arguments", "at least one number", ", ".join(map(shown, arrays)) or "none")
    types = _checked_types("arguments", arguments)
    name = subject or getattr(function, "__name__", "function").strip("<>")

    def problem_in(dtype: str, arguments: PyTree = arguments) -> Problem:
        return problem.function_problem(function, hand_vjp, problem.cast(arguments, dtype), domain)

    def traced(given: PyTree = arguments) -> ClosedJaxpr:
        """The function and the formula as functions of all arguments, also of whole numbers."""
        both = lambda *given: problem.pulled_back(lambda _: problem.function_problem(function, hand_vjp, given))  # noqa: E731
        with jax.enable_x64(True):
            return jax.make_jaxpr(both)(*problem.cast(given, "float64"))

    def operations(others: PyTree) -> int:
        try:
            return len(list(all_equations(traced(others))))
        except Exception:  # the function is not meant for these shapes
            return -1

    return check_problem(
        name,
        problem_in,
        types,
        others=(
            [(regime, partial(problem_in, arguments=other)) for regime, other in others]
            for others in chain(other_arguments(arguments, operations), at_compared_integers(traced, arguments))
        ),
        seed=seed,
        kinks_as_automatic=kinks_as_automatic,
        stop_gradient_as_constant=stop_gradient_as_constant,
        second_order=second_order,
        mutants=mutants,
    )


def check_layer(
    layer: Layer | Callable[[jax.Array], jax.Array],
    in_shape: Shape,
    *,
    x: PyTree = None,
    train: bool = True,
    key: jax.Array | None = None,
    dtype: str = "float32",
    second_order: bool = True,
    stop_gradient_as_constant: bool = False,
    mutants: bool = True,
    seed: int = 0,
) -> Report:
    """Compares the hand-derived backward pass of a layer with automatic differentiation and with an arbiter.

    The parameters (also biases), the state and the input are random. The comparison is the same as in ``check_vjp``,
    with respect to every parameter and the input. At kinks, the formula has to give the values of ``jax.grad``. Last,
    the formula is compared with ``jax.grad`` for a batch that has one example more.

    Args:
        layer: the layer.
        in_shape: the shape of its input without the batch axis, or a tuple of such shapes for several inputs.
        x: an input of this shape, with a batch axis. By default it is a batch of normal numbers, of three examples, or
            more if an axis of ``in_shape`` has the length 3: a formula with a forgotten transposition then has a wrong
            shape. Give one for tokens or ``Masked`` sequences. A small batch is enough: each example takes time.
        train: whether the layer is compared in training mode or in evaluation mode.
        key: for layers that draw random numbers; by default one made from the seed.
        dtype: the second type in which the layer is compared, besides float64.
        second_order: whether the derivative of the formula is compared, too.
        stop_gradient_as_constant: whether the results of ``jax.lax.stop_gradient`` are constants, see ``check_vjp``.
        mutants: whether errors are planted.
        seed: for all random numbers.

    Raises:
        InputError: the cotangents do not have the structure and the shapes of the parameters and the input.

    >>> import functional_nn as fnn
    >>> dense = fnn.dense(2)
    >>> fnn.gradients.check_layer(dense, (3,)).passed
    True
    >>> def wrong_sign(residuals, y_bar):
    ...     params_bar, x_bar = dense.backward(residuals, y_bar)
    ...     return params_bar, -x_bar
    >>> print(fnn.gradients.check_layer(dense._replace(backward=wrong_sign), (3,)).sentence)
    dense: x, element (...) (vjp, float64, jit, normal): the formula gives ... It has the wrong sign.
    """
    layer = as_layer(layer)
    validation.check_flag("train", train)
    validation.check_choice("dtype", dtype, TOLERANCES)
    validation.check_count("seed", seed, least=0)
    key = jax.random.key(seed) if key is None else validation.check_key(key)
    random = np.random.default_rng(seed)
    params, state = problem.draw_parameters(layer, in_shape, random)
    if x is None:
        x = problem.draw_input(in_shape, random, problem.number_of_examples(in_shape))
    else:
        validation.check_arrays("x", x)
        x = validation.tree_in_native_order(x)
        for leaf in jax.tree.leaves(x):
            if not np.size(leaf):
                raise InputError("x", "at least one example: without numbers, every formula is right", shown(leaf))
    # The numbers are rounded to the type first, so that all types are compared at the same point.
    params, x = problem.cast((params, x), dtype)
    types = _checked_types("x", (params, x))

    def problem_in(dtype: str, x: PyTree = x) -> Problem:
        return problem.layer_problem(layer, params, state, x, train=train, key=key, dtype=dtype)

    examples = 1 + min(len(leaf) for leaf in jax.tree.leaves(x))
    larger = jax.tree.map(lambda leaf: np.resize(leaf, (examples, *leaf.shape[1:])), x)
    return check_problem(
        layer.name,
        problem_in,
        types,
        seed=seed,
        stop_gradient_as_constant=stop_gradient_as_constant,
        second_order=second_order,
        mutants=mutants,
        skipped=joined_by_jax(layer),
        others=[[(f"batch of {examples}", partial(problem_in, x=larger))]],
    )


def check_gradients(
    net: Layer | Callable[[jax.Array], jax.Array],
    loss: Loss,
    params: Params,
    state: State,
    x: PyTree,
    labels: ArrayLike,
    *,
    penalties: Sequence[Penalty] = (),
    weights: ArrayLike | None = None,
    train: bool = True,
    key: jax.Array | None = None,
    gradient: Callable[[Params], Params] | None = None,
    mutants: bool = False,
    seed: int = 0,
) -> Report:
    """Compares the hand-derived gradient of a whole network's loss with ``jax.grad`` and with an arbiter.

    L(params) = loss(net(params, x), labels) + Σ penalties. The hand-derived gradient is the network's pullback of
    ``loss.gradient``, plus the gradients of the penalties. See ``check_vjp`` for the comparison. If a parameter has
    many elements, the arbiter computes only some: those where the formula and ``jax.grad`` disagree most, those where
    terms cancel most, and others at regular distances.

    Args:
        net: the network, or anything that ``chain`` takes.
        loss: a ``Loss``, which has a gradient.
        params: the network's parameters.
        state: its state.
        x: a small batch; every example takes time.
        labels: the labels that the loss takes.
        penalties: penalties that are added to the loss.
        weights: the weights of the examples.
        train: whether the network is compared in training mode.
        key: for layers that draw random numbers; all sources of the gradient draw the same ones.
        gradient: your own gradient, ``gradient(params) -> bars``. It is compared instead of the package's gradient.
        mutants: whether errors are planted.
        seed: for drawing the directions.

    >>> import functional_nn as fnn, jax, numpy as np
    >>> net = fnn.chain(fnn.dense(2), fnn.tanh)
    >>> params, state = net.init(jax.random.key(0), (3,))
    >>> x, labels = np.linspace(-1, 1, 6).reshape(2, 3), np.array([0, 1])
    >>> fnn.check_gradients(net, fnn.cross_entropy, params, state, x, labels).passed
    True
    """
    layer = as_layer(net)
    if not isinstance(loss, Loss):
        raise InputError("loss", "a Loss, which has a gradient", shown(loss))
    validation.check_trees(params, state)
    validation.check_arrays("x", x)
    params, state, x = validation.tree_in_native_order((params, state, x))
    types = _checked_types("params", params)
    problem.check_finite("x", problem.differentiable_leaves(x).leaves)
    labels = validation.as_array("labels", labels)
    weights = None if weights is None else validation.as_array("weights", weights)
    if not isinstance(penalties, Sequence) or not all(isinstance(penalty, Penalty) for penalty in penalties):
        raise InputError("penalties", "a list of penalties", shown(penalties))
    if gradient is not None:
        validation.check_function("gradient", gradient, "a function of the parameters that gives their cotangents")
    validation.check_flag("train", train)
    if key is not None:
        validation.check_key(key)

    def problem_in(dtype: str) -> Problem:
        cast_params, cast_x, cast_weights = problem.cast((params, x, weights), dtype)
        cast_state = problem.cast(state, np.float64 if dtype == "float64" else np.float32)

        def value(params: Params) -> jax.Array:
            y, _ = layer.apply(params, cast_state, cast_x, train=train, key=key)
            total = loss(y, labels, cast_weights)
            return sum((penalty(params) for penalty in penalties), total)

        def package_gradient(params: Params) -> Params:
            y, _, pullback = layer.vjp(params, cast_state, cast_x, train=train, key=key)
            bars, _ = pullback(loss.gradient(y, labels, cast_weights))
            for penalty in penalties:
                bars = jax.tree.map(jnp.add, bars, penalty.gradient(params))
            return bars

        by_hand = problem.pullback_of_number(gradient or package_gradient)
        of_params = problem.function_problem(value, by_hand, (cast_params,))
        return of_params._replace(names=[leaf.removeprefix("params/") for leaf in of_params.names])

    subject = f"{layer.name}, {loss.name}"
    skipped = () if gradient else joined_by_jax(layer)
    return check_problem(subject, problem_in, types, seed=seed, second_order=False, mutants=mutants, skipped=skipped)


def joined_by_jax(layer: Layer) -> tuple[tuple[str, str], ...]:
    """What no comparison with ``jax.grad`` tells about a network, for ``Report.skipped``."""
    own = [(f"{layer.name}, the operations between its layers, with jax.grad", JOINED)] if layer.joined_by_jax else []
    return (*own, *(entry for _, inner in layer.layers for entry in joined_by_jax(inner)))


JOINED = "JAX differentiates them in the formula too. The comparison with the arbiter is independent."


def _numbers(leaf: PyTree) -> np.ndarray:
    """An argument as an array of real or complex numbers."""
    is_complex = validation.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return np.asarray(leaf) if is_complex else validation.as_host_array("arguments", leaf)


def _checked_types(argument: str, tree: PyTree) -> list[str]:
    """The types for the comparison: float64, and the widest type of the argument if it is another type.

    Raises InputError if the argument has no floating-point numbers, if one is not finite, or if there is no tolerance
    for its type.
    """
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", np.dtype(float))
        if jnp.issubdtype(dtype, jnp.inexact) and dtype.name not in (*TOLERANCES, "complex64", "complex128"):
            raise InputError(argument, f"floating-point numbers in {', '.join(TOLERANCES)}", dtype.name)
    leaves = problem.differentiable_leaves(tree).leaves
    if not leaves:
        remedy = "A derivative is by floating-point numbers: give 1.0, not 1."
        raise InputError(argument, "at least one array of floating-point numbers", "none", remedy)
    problem.check_finite(argument, leaves)
    widest = str(max((np.asarray(leaf).dtype for leaf in leaves), key=lambda dtype: dtype.itemsize))
    return ["float64"] if widest == "float64" else ["float64", widest]


def check_problem(
    subject: str,
    problem_in: Callable[[str], Problem],
    types: Sequence[str],
    *,
    seed: int,
    second_order: bool,
    mutants: bool,
    kinks_as_automatic: bool = True,
    stop_gradient_as_constant: bool = False,
    skipped: tuple[tuple[str, str], ...] = (),
    others: Iterable[Sequence[tuple[str, Callable[[str], Problem]]]] = (),
) -> Report:
    """Compares the formula of a problem in float64 and in other types. Errors are planted only if it passes.

    Args:
        subject: the name in the verdicts.
        problem_in: ``problem_in(dtype)`` gives the problem in that type.
        types: the types for the comparison.
        seed: for drawing the cotangents.
        second_order: whether the derivative of the formula is compared, too.
        mutants: whether errors are planted.
        kinks_as_automatic: whether the formula has to give the values of ``jax.grad`` at kinks.
        stop_gradient_as_constant: whether results of ``stop_gradient`` are constants. There is then no second order.
        skipped: what is not compared, with the reasons.
        others: lists of the same problem with other arrays, with names. Of each list, the first one is compared whose
            function and formula take them.
    """
    validation.check_count("seed", seed, least=0)
    settings = {"kinks_as_automatic": kinks_as_automatic, "stop_gradient_as_constant": stop_gradient_as_constant}
    for name, flag in (settings | {"second_order": second_order, "mutants": mutants}).items():
        validation.check_flag(name, flag)
    started = time.perf_counter()
    comparison_of = partial(JacobianComparison, subject, seed=seed, **settings)
    with (
        problem.in_plain_words("function or hand_vjp"),
        problem.converted_anew(partial(problem.pulled_back, problem_in)),
    ):
        comparison = comparison_of(problem_in)
        comparison.check_purity()
        report = compare(
            comparison,
            dict.fromkeys(types, TRANSFORMS),
            second_order=second_order and not stop_gradient_as_constant,
            limit=MOST_MUTANTS if mutants else None,
        )
        for number, problems in enumerate(others):
            if has_failed(report.verdicts):
                break
            refusals = []
            for regime, other_problem_in in problems:
                try:
                    other = comparison_of(other_problem_in)
                except Exception:  # the function is not meant for these shapes
                    continue
                try:
                    found = other.of_other_shapes(regime)
                except Exception as error:
                    reason = f"The formula raises {type(error).__name__}: {shortened(error)}"
                    refusals.append((f"{subject}, {regime}", reason))
                    continue
                if found is None:
                    continue
                if regime == REPEATED_PERMUTATION and has_failed(found):
                    skipped = (*skipped, (f"{subject}, {regime}", FOR_PERMUTATIONS))
                else:
                    report = replace(report, verdicts=(*report.verdicts, *found))
                break
            else:
                if not number and problems and not refusals:
                    refusals.append((f"{subject}, {problems[0][0]}", "The function does not take them."))
            skipped = (*skipped, *refusals[:1])
    if second_order and stop_gradient_as_constant:
        skipped = (*skipped, (f"{subject}, second order", NO_DERIVATIVE))
    return replace(report, skipped=skipped, seconds=time.perf_counter() - started)


FOR_PERMUTATIONS = "The formula is wrong there. This is right only if no other whole numbers are ever given."
NO_DERIVATIVE = "With stop_gradient_as_constant, the gradient is not the derivative of a function."


def compare(
    comparison: JacobianComparison,
    types: Mapping[str, Sequence[str]],
    *,
    second_order: bool,
    limit: int | None,
    regime: str = "normal",
) -> Report:
    """Compares a formula in float64, then in other types. If it has passed, errors are planted in it.

    Args:
        comparison: the comparison of its problem.
        types: for each type, the transforms under which the formula is compared in it.
        second_order: whether the derivative of the formula is compared, too.
        limit: the largest number of errors to plant in the formula's equations; None to plant no errors at all.
        regime: the name of the point.
    """
    verdicts = list(comparison.first_order(regime=regime))
    if not has_failed(verdicts):
        verdicts += comparison.at_further_points()
    if second_order:
        verdicts += comparison.second_order(regime=regime)
    for dtype, transforms in types.items():
        verdicts += comparison.in_type(dtype, regime=regime, transforms=transforms)
    planted = (0, ()) if limit is None or has_failed(verdicts) else plant(comparison, limit=limit)
    return Report(tuple(verdicts), *planted, title=comparison.subject)
