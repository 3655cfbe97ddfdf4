"""The comparison of everything public, or of chosen subjects, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn
from functional_nn.core.display import progress_bar
from functional_nn.core.errors import InputError
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_flag
from functional_nn.gradients.cases import LAYERS, LOSSES, MODELS, PENALTIES, LayerCase, LossCase, draw_inputs
from functional_nn.gradients.check import compare, joined_by_jax
from functional_nn.gradients.compare import problem
from functional_nn.gradients.compare.activations import check_activation, regime_points
from functional_nn.gradients.compare.comparison import TRANSFORMS, JacobianComparison
from functional_nn.gradients.compare.problem import Problem
from functional_nn.gradients.compare.report import Report, Verdict, combine_reports
from functional_nn.gradients.textbook import optimizer_verdicts
from functional_nn.losses.loss import expand


def verify(names: Sequence[str] = (), *, quick: bool = True, jobs: int = 1, progress: bool | None = None) -> Report:
    """Compares the hand-derived formulas of this package with automatic differentiation and with an arbiter.

    Args:
        names: public names, such as ``"lstm"``, which include all their variants, or names of variants. By default
            everything is compared.
        quick: whether the comparison is quick. It then takes a few minutes on two cores and compares each public name
            once, in float64 (activations in float32). A full comparison takes several times as long: it compares
            every variant, in three types, under ``jit``, ``vmap`` and ``scan``, up to second order.
        jobs: the number of processes that share the work.
        progress: whether to show a progress bar; by default on a terminal and in a notebook.

    Raises:
        InputError: a name that is not known.

    >>> import functional_nn as fnn
    >>> fnn.verify(["relu"]).raise_if_failed()  # nothing failed
    """
    check_flag("quick", quick)
    check_count("jobs", jobs)
    if progress is not None:
        check_flag("progress", progress)
    started = time.perf_counter()
    chosen = _chosen(names, quick)
    reports = {}
    with progress_bar("verifying", len(chosen), progress) as advance:
        for name, report in _reports(chosen, quick, min(jobs, len(chosen))):
            reports[name] = report
            advance(name)
    title, seconds = "quick run" if quick else "full run", time.perf_counter() - started
    return combine_reports([reports[name] for name in chosen], title=title, seconds=seconds)


def _chosen(names: Sequence[str], quick: bool) -> list[str]:
    """The names of the subjects to compare."""
    known = list(subjects())
    if not names:
        return quick_subjects() if quick else known
    chosen: dict[str, None] = {}
    for name in names:
        variants = [subject for subject in known if name in (subject, public_name(subject))]
        if not variants:
            public = {public_name(subject) for subject in known}
            raise InputError("names", "names of what is compared", repr(name), suggest(name, public))
        chosen |= dict.fromkeys(variants)
    return list(chosen)


def _reports(names: Sequence[str], quick: bool, jobs: int) -> Iterator[tuple[str, Report]]:
    if jobs <= 1:
        yield from ((name, check_subject(name, quick)) for name in names)
        return
    # New processes are started from nothing ("spawn"), because a fork would lack the threads of JAX and could hang. The
    # working directory is not in their path of modules, because a stranger may have made it.
    spawn = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, PYTHONSAFEPATH="1"), ProcessPoolExecutor(jobs, spawn, _start_process) as pool:
        running = {pool.submit(check_subject, name, quick): name for name in names}
        for done in as_completed(running):
            yield running[done], done.result()


def _start_process() -> None:
    """Limits a process to one thread before JAX starts: the processes share the cores. It ends with its parent."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent was killed. Otherwise it would compute on for minutes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


TYPES: tuple[str, ...] = ("float64", "float32", "bfloat16")
MUTANTS = 40
"""The number of errors planted in the inner steps of each formula, besides those in its results. Quick: none."""
COMPOSED = (*(case.name for case in MODELS), "transformer_block", "frozen", "recurrent_stacked_masked")
"""Networks made of other subjects. A quick run leaves them out. ``vmap`` and ``scan`` are compared in float32."""
IN_ULP = " in ULP"
"""The suffix of subjects that compare an activation with numbers of many digits, in units in the last place."""

Check = Callable[[bool], Report]
"""``check(quick) -> Report``."""


def subjects() -> dict[str, Check]:
    """Maps the name of each subject to the function that compares it. A name is a public name, or begins with one."""
    activations = {name: f for name, f in fnn.activations.ACTIVATIONS.items() if isinstance(f, fnn.Activation)}
    activations["leaky_relu_with"] = fnn.activations.leaky_relu_with(0.2)
    activations["elu_with"] = fnn.activations.elu_with(1.7)
    known: dict[str, Check] = {"optimizers": lambda quick: Report(tuple(optimizer_verdicts(quick)))}
    known |= {f"{name}{IN_ULP}": partial(_check_in_ulp, activation) for name, activation in activations.items()}
    known |= {case.name: partial(_check_layer_case, case) for case in LAYERS}
    known |= {case.name: partial(_check_loss_case, case) for case in LOSSES}
    return known | {name: partial(_check_penalty, name, penalty) for name, penalty in PENALTIES}


def public_name(subject: str) -> str:
    """The longest public name at the start of a subject's name. If there is none, the subject's own name."""
    name, namespaces = subject.removesuffix(IN_ULP), (fnn, fnn.activations, fnn.losses, fnn.models)
    public = {public for namespace in namespaces for public in namespace.__all__}
    return max((one for one in public if f"{name}_".startswith(f"{one}_")), key=len, default=name)


def quick_subjects() -> list[str]:
    """The subjects of a quick run: one for each public name, and all activations in ULP.

    A public name stands for the subject with exactly this name, or else for the first subject that begins with it.
    """
    jacobians = [subject for subject in subjects() if not subject.endswith(IN_ULP)]
    first_of = {public_name(subject): subject for subject in reversed(jacobians)}
    chosen = {name if name in jacobians else first for name, first in first_of.items() if name not in COMPOSED}
    return [subject for subject in subjects() if subject in chosen or subject.endswith(IN_ULP)]


def check_subject(name: str, quick: bool = False) -> Report:
    """Compares one subject."""
    started = time.perf_counter()
    report = subjects()[name](quick)
    return combine_reports([report], title=name, seconds=time.perf_counter() - started)


def _check_layer_case(case: LayerCase, quick: bool) -> Report:
    """Compares a layer in training, and also in evaluation if that is a different program."""
    params, state, x = draw_inputs(case)
    x = jax.tree.map(lambda leaf: leaf[: problem.EXAMPLES], x)
    parts = x if isinstance(x, tuple) and not isinstance(x, fnn.Masked) else (x,)
    key = jax.random.key(0)

    def comparison(train: bool) -> JacobianComparison:
        def problem_in(dtype: str) -> Problem:
            return problem.layer_problem(case.layer, params, state, x, train=train, key=key, dtype=dtype)

        return JacobianComparison(case.name, problem_in, kinks_as_automatic=True)

    composed = case.name.startswith(COMPOSED)
    types: dict[str, Sequence[str]] = {} if quick else dict.fromkeys(TYPES, ("jit",) if composed else TRANSFORMS)
    if not quick:
        types["float32"] = TRANSFORMS
    skipped = joined_by_jax(case.layer)
    if case.no_bfloat16:
        types.pop("bfloat16", None)
        skipped = (*skipped, (f"{case.name}: bfloat16", case.no_bfloat16))
    regime = "masked" if any(isinstance(part, fnn.Masked) for part in parts) else "normal"
    training, more = comparison(True), list[Verdict]()
    report = compare(training, types, second_order=not quick, limit=0 if quick else MUTANTS, regime=regime)
    if not quick and not composed:
        named = zip(training.problem.names, training.problem.leaves, strict=True)
        at_zeros = [np.zeros(np.shape(leaf)) if name.startswith("x") else leaf for name, leaf in named]
        more += training.first_order(at_zeros, regime="zeros")
    if not quick and str((evaluation := comparison(False)).program) != str(training.program):
        more += evaluation.first_order(regime="evaluation")
    return replace(report, verdicts=(*report.verdicts, *more), skipped=skipped)


def _check_loss_case(case: LossCase, quick: bool) -> Report:
    """Compares the gradient of a loss's mean, plain and weighted, and of each value, with planted errors."""
    random = np.random.default_rng(1)
    loss = case.loss
    weights = random.uniform(size=jax.eval_shape(loss.per_example, case.y, case.labels).shape)

    def values_by_hand(y: jax.Array, labels: np.ndarray, y_bar: jax.Array) -> jax.Array:
        gradients = loss.value_gradients(jnp.asarray(y), jnp.asarray(labels))
        return expand(y_bar, y.ndim).astype(gradients.dtype) * gradients

    mean_by_hand, given = problem.pullback_of_number(loss.gradient), (case.y, case.labels)
    compared = partial(_check_function, case.name, quick=quick)
    reports = [compared(loss, mean_by_hand, *given, None, limit=0)]
    reports.append(compared(loss.per_example, values_by_hand, *given, regime="values"))
    if not quick:
        reports.append(compared(loss, mean_by_hand, *given, weights, limit=0, regime="weighted"))
    return combine_reports(reports)


def _check_penalty(name: str, penalty: fnn.losses.Penalty, quick: bool) -> Report:
    random = np.random.default_rng(0)
    sizes = {"weight": (3, 2), "bias": (2,)}
    params = {f"dense_{i}": {leaf: random.normal(size=size) for leaf, size in sizes.items()} for i in (0, 1)}
    return _check_function(name, penalty, problem.pullback_of_number(penalty.gradient), params, quick=quick)


def _check_function(
    subject: str,
    function: Callable[..., PyTree],
    hand_vjp: Callable[..., PyTree],
    first: PyTree,
    *others: PyTree,
    quick: bool,
    limit: int = MUTANTS,
    regime: str = "normal",
) -> Report:
    """Compares a function with respect to its first argument. The other arguments stay fixed.

    Args:
        subject: the name in the report.
        function: the function.
        hand_vjp: its pullback, ``hand_vjp(first, *others, y_bar) -> first_bar``.
        first: the first argument.
        others: the other arguments.
        quick: whether only ``vjp`` in float64 is compared.
        limit: how many errors a full run plants in the inner steps of the formula.
        regime: the name of the point.
    """

    def problem_in(dtype: str) -> Problem:
        fixed = problem.cast(others, dtype)
        of_first = lambda first: function(first, *fixed)  # noqa: E731
        pullback = lambda first, y_bar: hand_vjp(first, *fixed, y_bar)  # noqa: E731
        made = problem.function_problem(of_first, pullback, (problem.cast(first, dtype),))
        return made._replace(names=[leaf.removeprefix("first").removeprefix("/") or "y" for leaf in made.names])

    comparison = JacobianComparison(subject, problem_in, kinks_as_automatic=True)
    types = dict.fromkeys(() if quick else TYPES, TRANSFORMS)
    return compare(comparison, types, second_order=not quick, limit=0 if quick else limit, regime=regime)


def _check_in_ulp(activation: fnn.Activation, quick: bool) -> Report:
    """Measures an activation in ULP, in float32; in a full run, in three types, with eight times the points."""
    types = map(jnp.dtype, ("float32",) if quick else TYPES)
    density = 1 if quick else 8
    return combine_reports([check_activation(activation, t, regime_points(activation, t, density)) for t in types])
