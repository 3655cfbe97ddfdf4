"""Hyper-parameter search with Optuna, in which each round is a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_count, check_function, shown
from functional_nn.sweeps.grid import Hyperparameters, crossed, grid
from functional_nn.sweeps.member import Member, chosen_metric, metric_names
from functional_nn.sweeps.results import SweepResult
from functional_nn.training.evaluate import larger_is_better

if TYPE_CHECKING:
    from optuna import Study, Trial


def search(
    study: Study,
    space: Callable[[Trial], Hyperparameters],
    run: Callable[[Sequence[Hyperparameters]], SweepResult],
    *,
    population: int,
    rounds: int | None = None,
    trials: int | None = None,
    seeds: int = 1,
    metric: str | None = None,
) -> list[SweepResult]:
    """Searches for good hyper-parameters with an Optuna study.

    In each round, the study proposes several settings, one sweep trains them, and the study is told the results. Ctrl-C
    ends the round and the search; trials that were not trained to their end have failed. So have those that successive
    halving left out, and the trials of a round in which an error is raised.

    Several processes, on one or several computers, search together if their studies have the same storage, such as a
    file on a disk that all of them share.

    Args:
        study: made by ``optuna.create_study(direction="maximize")``, or with ``"minimize"`` for a loss.
        space: a function ``trial -> hyper-parameters``, which calls methods of the trial such as
            ``trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)``.
        run: a function ``members -> SweepResult``, such as ``lambda members: sweep(model, optimizer, members, data)``.
            With several data sets, such as folds, the sweep trains several models for each member.
        population: the number of settings in a round.
        rounds: the number of rounds of this call; None for as many as ``trials`` needs.
        trials: the search ends when the study has this many trials. Those of other processes and of earlier calls
            count, also if they failed or have not ended. Processes that begin a round at the same moment may ask for
            more, each for at most one population. None for no limit.
        seeds: the number of seeds for each setting. The study is told the mean over all models of a setting: over its
            seeds and its data sets. If one of them is not finite, the trial has failed.
        metric: the metric that the study is told, such as ``test_loss``; None for ``SweepResult.metric``.

    Returns:
        The results of the rounds that were run.

    Raises:
        InputError: if the direction of the study does not fit the metric, if neither ``rounds`` nor ``trials`` is
            given, or if ``run`` does not return the same number of models for each member.

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
    if not all(hasattr(study, name) for name in ("ask", "tell", "direction", "get_trials")):
        raise InputError("study", "an Optuna study", shown(study), "Make one with optuna.create_study.")
    check_function("space", space, "a function of a trial that returns hyper-parameters")
    check_function("run", run, "a function of members that returns a SweepResult")
    check_count("population", population)
    check_count("seeds", seeds)
    if rounds is None and trials is None:
        raise InputError("rounds", "a number of rounds, or trials in its place", "neither")
    if rounds is not None:
        check_count("rounds", rounds)
    if trials is not None:
        check_count("trials", trials)
    if metric is not None:
        _check_direction(study, metric)

    results: list[SweepResult] = []
    while rounds is None or len(results) < rounds:
        size = population if trials is None else min(population, trials - _started(study))
        if size <= 0:
            break
        with _failed_after_an_error(study) as asked:
            asked.extend(study.ask() for _ in range(size))
            result = _trained(study, asked, [space(trial) for trial in asked], run, seeds, metric)
        results.append(result)
        # The message of a sweep says that Ctrl-C ended it. Then the search ends, too.
        if result.message:
            break
    return results


def _started(study: Study) -> int:
    """How many trials any process has asked for. Trials that the user put into a queue are only waiting."""
    from optuna.trial import TrialState

    return sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))


@contextmanager
def _failed_after_an_error(study: Study) -> Iterator[list[Trial]]:
    """A list for trials that fail if the body raises an error. In a file, they would seem to run for ever."""
    from optuna.trial import TrialState

    asked: list[Trial] = []
    try:
        yield asked
    except BaseException:
        for trial in asked:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def _trained(
    study: Study,
    trials: Sequence[Trial],
    settings: Sequence[Hyperparameters],
    run: Callable[[Sequence[Hyperparameters]], SweepResult],
    seeds: int,
    metric: str | None,
) -> SweepResult:
    """Trains the settings of one round, and tells the study the results."""
    from optuna.trial import TrialState

    members = crossed(settings, grid(seed=range(seeds))) if seeds > 1 else settings
    result = run(members)
    if not result.members or len(result.members) % len(members):
        expected = f"the same number of models for each of the {len(members)} members"
        remedy = "Return the result of one sweep of them."
        raise InputError("run", expected, f"{len(result.members)} models", remedy)
    # Models are in the order of the grid, and the models of one setting stand together.
    models = len(result.members) // len(trials)
    chosen = chosen_metric(result, metric)
    # The default metric is known only when a member has run an epoch.
    if metric_names(result.members):
        _check_direction(study, chosen)
    for place, trial in enumerate(trials):
        values = [_value(member, chosen) for member in result.members[place * models : (place + 1) * models]]
        if all(map(math.isfinite, values)):
            study.tell(trial, sum(values) / len(values))
        else:
            study.tell(trial, state=TrialState.FAIL)
    return result


def _check_direction(study: Study, metric: str) -> None:
    direction = "maximize" if larger_is_better(metric) else "minimize"
    if study.direction.name.lower() != direction:
        raise InputError("study", f"one with direction={direction!r} for {metric}", study.direction.name.lower())


def _value(member: Member, metric: str) -> float:
    return member.last(metric) if member.is_trained_to_its_end else math.nan
