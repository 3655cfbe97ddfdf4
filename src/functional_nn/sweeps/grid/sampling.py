"""Optuna as a sampler: it proposes whole populations, a sweep trains each, and it learns from all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_count, check_function, shown
from functional_nn.sweeps.grid.grid import Hyperparameters, crossed, grid
from functional_nn.sweeps.results.member import Member, check_metric
from functional_nn.sweeps.results.results import SweepResult


def search(
    study: Any,
    space: Callable[[Any], Hyperparameters],
    run: Callable[[Sequence[Mapping[str, Any]]], SweepResult],
    *,
    population: int,
    rounds: int,
    seeds: int = 1,
    metric: str = "test_accuracy",
) -> list[SweepResult]:
    """Asks an Optuna study for a population, trains it in one sweep, tells the study, and so on.

    Args:
        study: of ``optuna.create_study(direction="maximize")``, or ``"minimize"`` for a loss.
        space: ``trial -> hyper-parameters``, by ``trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)``, ….
        run: ``members -> SweepResult``, such as ``lambda members: sweep(model, optimizer, members, data)``.
        population: settings a round.
        rounds: how many rounds.
        seeds: models of each setting; the study is told their mean. One with a member that is not finite has failed.
        metric: what the study is told.

    Returns:
        The result of each round.

    Raises:
        InputError: where the study looks for the wrong end of the metric.

    >>> import optuna, functional_nn as fnn, optax
    >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
    >>> study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    >>> data = fnn.load_dataset("mnist5k")
    >>> net, rule = fnn.dense(10), lambda h: optax.adam(h["learning_rate"])
    >>> results = search(
    ...     study, lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)},
    ...     lambda members: fnn.sweep(net, rule, members, data, epochs=1), population=4, rounds=2)
    >>> len(study.trials), study.best_value > 0.8
    (8, True)
    """
    if not all(hasattr(study, name) for name in ("ask", "tell", "direction")):
        raise InputError("study", "an Optuna study", shown(study), "Make one by optuna.create_study.")
    check_function("space", space, "a function of a trial that gives hyper-parameters")
    check_function("run", run, "a function of members that gives a SweepResult")
    direction = "maximize" if check_metric(metric) == "test_accuracy" else "minimize"
    if study.direction.name.lower() != direction:
        raise InputError("study", f"one with direction={direction!r} for {metric}", study.direction.name.lower())
    for argument, value in (("population", population), ("rounds", rounds), ("seeds", seeds)):
        check_count(argument, value)
    results = []
    for _ in range(rounds):
        trials = [study.ask() for _ in range(population)]
        settings = [space(trial) for trial in trials]
        result = run(crossed(settings, grid(seed=range(seeds))) if seeds > 1 else settings)
        for place, trial in enumerate(trials):
            values = [_value(member, metric) for member in result.members[place * seeds : (place + 1) * seeds]]
            if all(map(math.isfinite, values)):
                study.tell(trial, sum(values) / len(values))
            else:
                study.tell(trial, state=_failed())
        results.append(result)
    return results


def _value(member: Member, metric: str) -> float:
    return math.nan if member.status in ("non-finite", "not run") else member.last(metric)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL
