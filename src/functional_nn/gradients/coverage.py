"""The comparison of everything public that has a derivative: which subjects there are, and the cells of each."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn
from functional_nn.gradients.cases import LAYERS, LOSSES, PENALTIES, LayerCase, LossCase, started
from functional_nn.gradients.compare import activation_errors as elementwise
from functional_nn.gradients.compare.comparison import TRANSFORMS, Comparison
from functional_nn.gradients.compare.problem import Problem, cast, function_problem, layer_problem
from functional_nn.gradients.compare.report import Report, Verdict
from functional_nn.gradients.mutation.planting import plant
from functional_nn.gradients.textbook import optimizer_check as optimizers
from functional_nn.losses.weighting import expand

EXAMPLES = 3
"""Examples in a batch: every one of them lengthens the Jacobians."""
TYPES = ("float64", "float32", "bfloat16")
MUTANTS = 40
"""Planted in the inner steps of each formula, besides those in what it gives; none of them in a quick run."""
COMPOSED = (
    *("residual_block", "transformer_block", "mlp", "cnn", "lenet", "deep_cnn", "resnet", "transformer", "frozen"),
    "recurrent_stacked_masked",
)
"""What is made of other subjects: left out of a quick run; ``vmap`` and ``scan`` in float32 only."""

Check = Callable[[bool], Report]
"""``check(quick) -> Report``."""


def subjects() -> dict[str, Check]:
    """Every subject with what compares it. A name is that of a public function, or begins with it."""
    known: dict[str, Check] = {"optimizers": _optimizers}
    elementwise_ones = {name: f for name, f in fnn.activations.ACTIVATIONS.items() if isinstance(f, fnn.Activation)}
    elementwise_ones |= {
        "leaky_relu_with": fnn.activations.leaky_relu_with(0.2),
        "elu_with": fnn.activations.elu_with(1.7),
    }
    known |= {f"{name} in ULP": partial(_elementwise, activation) for name, activation in elementwise_ones.items()}
    known |= {case.name: partial(_layer, case) for case in LAYERS}
    known |= {case.name: partial(_loss, case) for case in LOSSES}
    return known | {name: partial(_penalty, name, penalty) for name, penalty in PENALTIES}


def public_name(subject: str) -> str:
    """The longest public name that a subject's name is or begins with; its own where there is none."""
    name = subject.removesuffix(" in ULP")
    return max(
        (known for known in public_values() if name == known or name.startswith(f"{known}_")), key=len, default=name
    )


def public_values() -> dict[str, Any]:
    """What is public at the top level and in the namespaces of activations, losses and models, by its bare name."""
    spaces = fnn, fnn.activations, fnn.losses, fnn.models
    return {name: getattr(space, name) for space in spaces for name in space.__all__}


def quick_subjects() -> list[str]:
    """What belongs to a quick run: of each public name the subject called so, else the first; and ULP of all."""
    own = [subject for subject in subjects() if not subject.endswith(" in ULP")]
    first = {public_name(subject): subject for subject in reversed(own)}
    chosen = {name if name in own else subject for name, subject in first.items() if name not in COMPOSED}
    return [subject for subject in subjects() if subject in chosen or subject not in own]


def check_subject(name: str, quick: bool = False) -> Report:
    """The report on one subject."""
    begun = time.perf_counter()
    report = subjects()[name](quick)
    return Report(report.verdicts, report.mutants, report.survivors, report.skipped, time.perf_counter() - begun, name)


def missing() -> list[str]:
    """Public names that make something differentiable and stand in no case."""
    cases = {name.removesuffix(" in ULP") for name in subjects()}
    found = []
    for name, value in public_values().items():
        made = inspect.get_annotations(value).get("return") if inspect.isfunction(value) else type(value).__name__
        if made not in DIFFERENTIABLE or name in BY_NAME:
            continue
        if not any(case == name or case.startswith(f"{name.removesuffix('_with')}_") for case in cases):
            found.append(name)
    compared = {case.name for case in optimizers.CASES}
    return [*found, *(f"optimizer {name}" for name in fnn.training.OPTIMIZERS if name not in compared)]


DIFFERENTIABLE = ("Layer", "Loss", "Penalty", "Activation", "VectorActivation")
BY_NAME = ("model", "activation")
"""What looks others up."""


def _layer(case: LayerCase, quick: bool) -> Report:
    params, state, x = started(case)
    x = jax.tree.map(lambda leaf: leaf[:EXAMPLES], x)
    key = jax.random.key(0)

    def comparison(train: bool) -> Comparison:
        arguments = (case.layer, params, state, x)
        problem_in = lambda dtype: layer_problem(*arguments, train=train, key=key, dtype=dtype)  # noqa: E731
        return Comparison(case.name, problem_in, kinks_as_automatic=True)

    training = comparison(True)
    regime = "masked" if any(isinstance(part, fnn.Masked) for part in _parts(x)) else "normal"
    verdicts = list(_cells(training, case, regime, quick))
    skipped = [
        (f"{case.name}: {what}", why) for what, why in (("jvp", case.no_jvp), ("bfloat16", case.no_bfloat16)) if why
    ]
    if not quick and _differs_in_evaluation(case.layer, params, state, x, key):
        verdicts += comparison(False).first_order(regime="evaluation", jvp=not case.no_jvp)
    planted, survivors = plant(training, limit=0 if quick else MUTANTS)
    return Report(tuple(verdicts), planted, survivors, tuple(skipped))


def _cells(comparison: Comparison, case: LayerCase, regime: str, quick: bool) -> Iterator[Verdict]:
    yield from comparison.first_order(regime=regime, jvp=not (quick or case.no_jvp))
    if quick:
        return
    composed = case.name.startswith(COMPOSED)
    if not composed:
        yield from comparison.first_order(_with_zeros(comparison.problem), regime="zeros", jvp=not case.no_jvp)
    if not case.no_jvp:
        yield from comparison.second_order(regime=regime)
    for dtype in TYPES:
        if not (case.no_bfloat16 and dtype == "bfloat16"):
            transforms = ("jit",) if composed and dtype != "float32" else TRANSFORMS
            yield from comparison.in_type(dtype, regime=regime, transforms=transforms)


def _with_zeros(problem: Problem) -> list[Any]:
    """The leaves, with zeros as input."""
    named = zip(problem.names, problem.leaves, strict=True)
    return [np.zeros(np.shape(leaf)) if name.startswith("x") else leaf for name, leaf in named]


def _parts(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) and not isinstance(x, fnn.Masked) else (x,)


def _differs_in_evaluation(layer: Any, params: Any, state: Any, x: Any, key: Any) -> bool:
    programs = (
        jax.make_jaxpr(lambda p, s, x, train=train: layer.apply(p, s, x, train=train, key=key)[0])(params, state, x)
        for train in (True, False)
    )
    return len({str(program) for program in programs}) > 1


def _loss(case: LossCase, quick: bool) -> Report:
    """The gradient of the mean, plain and weighted, and the derivative of each value, where errors are planted."""
    random = np.random.default_rng(1)
    loss = case.loss
    weights = random.uniform(size=jax.eval_shape(loss.per_example, case.y, case.labels).shape)

    def values_by_hand(y: Any, labels: Any, y_bar: Any) -> Any:
        gradients = loss.value_gradients(jnp.asarray(y), jnp.asarray(labels))
        return expand(y_bar, y.ndim).astype(gradients.dtype) * gradients

    given = (case.name, loss, _times(loss.gradient), case.y, case.labels)
    values = (case.name, loss.per_example, values_by_hand, case.y, case.labels)
    reports = [_function(*given, None, quick=quick, limit=0), _function(*values, quick=quick, regime="values")]
    if not quick:
        reports.append(_function(*given, weights, quick=quick, limit=0, regime="weighted"))
    return _joined(reports)


def _times(gradient: Callable[..., Any]) -> Callable[..., Any]:
    """The pullback of a scalar from its gradient."""
    return lambda *arguments: jax.tree.map(lambda bar: bar * arguments[-1].astype(bar.dtype), gradient(*arguments[:-1]))


def _penalty(name: str, penalty: Any, quick: bool) -> Report:
    random = np.random.default_rng(0)
    sizes = {"weight": (3, 2), "bias": (2,)}
    params = {f"dense_{i}": {leaf: random.normal(size=size) for leaf, size in sizes.items()} for i in (0, 1)}
    return _function(name, penalty, _times(penalty.gradient), params, quick=quick)


def _function(
    subject: str,
    function: Callable[..., Any],
    hand_vjp: Callable[..., Any],
    first: Any,
    *others: Any,
    quick: bool,
    limit: int = MUTANTS,
    regime: str = "normal",
) -> Report:
    """A function by its first argument; the others are fixed."""

    def problem_in(dtype: str) -> Problem:
        fixed = cast(others, dtype)
        own = lambda first: function(first, *fixed)  # noqa: E731
        pulled = lambda first, y_bar: hand_vjp(first, *fixed, y_bar)  # noqa: E731
        problem = function_problem(own, pulled, (cast(first, dtype),))
        return problem._replace(names=[leaf.removeprefix("first").removeprefix("/") or "y" for leaf in problem.names])

    comparison = Comparison(subject, problem_in, kinks_as_automatic=True)
    verdicts = list(comparison.first_order(regime=regime, jvp=not quick))
    if not quick:
        verdicts += comparison.second_order(regime=regime)
        for dtype in TYPES:
            verdicts += comparison.in_type(dtype, regime=regime)
    planted, survivors = plant(comparison, limit=0 if quick else limit)
    return Report(tuple(verdicts), planted, survivors)


def _joined(reports: list[Report]) -> Report:
    verdicts = tuple(verdict for report in reports for verdict in report.verdicts)
    survivors = tuple(survivor for report in reports for survivor in report.survivors)
    return Report(verdicts, sum(report.mutants for report in reports), survivors)


def _elementwise(activation: fnn.Activation, quick: bool) -> Report:
    verdicts = []
    for dtype in ("float32",) if quick else TYPES:
        points = elementwise.regime_points(activation, np.dtype(jnp.dtype(dtype)), density=1 if quick else 8)
        verdicts += elementwise.compare_elementwise(activation, dtype, points).verdicts
    return Report(tuple(verdicts))


def _optimizers(quick: bool) -> Report:
    return Report(tuple(optimizers.checks(quick)))
