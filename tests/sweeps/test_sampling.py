"""Search with Optuna."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.sweeps.made_up_results import member, result

from functional_nn.core.errors import InputError
from functional_nn.sweeps import crossed, search

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize("before_any_epoch", [False, True])
def test_an_interrupted_sweep_ends_the_search(before_any_epoch):
    """Only the trial of a finished member gets a number, and no further round is started."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    rounds = []

    def run(members):
        rounds.append(members)
        last = member(1, members[1], 0.0, epochs=0, status="not run")
        first = last if before_any_epoch else member(0, members[0], 0.9)
        if before_any_epoch:
            last.curves.clear()
        return result(first, last, message="Interrupted after 1 of 2 members; the finished ones are kept.")

    found = search(study, lambda trial: {"rate": trial.suggest_float("rate", 0, 1)}, run, population=2, rounds=3)
    assert len(rounds) == len(found) == 1
    states = [trial.state.name for trial in study.trials]
    assert states == (["FAIL", "FAIL"] if before_any_epoch else ["COMPLETE", "FAIL"])


def test_a_trial_that_halving_left_out_has_failed():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def run(members):
        return result(member(0, members[0], 0.9, status="halved"), member(1, members[1], 0.8))

    search(study, rate_of, run, population=2, rounds=1)
    assert [trial.value for trial in study.trials] == [None, pytest.approx(0.8)]


def test_a_trial_gets_the_mean_over_its_folds():
    """Each setting is trained with every seed on every data set, and its models stand together in the result."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def run(members):
        models = crossed(members, [{"data": "first"}, {"data": "second"}])
        accuracies = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        return result(*(member(number, model, accuracies[number]) for number, model in enumerate(models)))

    search(study, lambda trial: {"rate": trial.suggest_float("rate", 0, 1)}, run, population=2, rounds=1, seeds=2)
    assert [trial.value for trial in study.trials] == pytest.approx([0.25, 0.65])


def test_a_search_refuses_results_that_it_cannot_assign():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    run = lambda members: result(*(member(number, members[0], 0.5) for number in range(3)))  # noqa: E731
    words = "run: expected the same number of models for each of the 2 members, got 3 models"
    with pytest.raises(InputError, match=words):
        search(study, lambda trial: {"rate": trial.suggest_float("rate", 0, 1)}, run, population=2, rounds=1)


def accuracies_of_rates(members):
    return result(*(member(number, settings, settings["rate"]) for number, settings in enumerate(members)))


def rate_of(trial):
    return {"rate": trial.suggest_float("rate", 0, 1)}


def shared_study(file: Path):
    """The study in a file, as each process opens it."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    sampler = optuna.samplers.RandomSampler()
    return optuna.create_study(
        storage=storage, study_name="rates", direction="maximize", sampler=sampler, load_if_exists=True
    )


def search_beside_others(file: Path):
    """Searches until the study has ten trials. The first round ends when the other process has begun its own."""
    study = shared_study(file)

    def run(members):
        for _ in range(500):
            if len(study.get_trials(deepcopy=False)) >= 6:
                break
            time.sleep(0.1)
        return accuracies_of_rates(members)

    print(len(search(study, rate_of, run, population=3, trials=10)))


@pytest.mark.processes
def test_processes_with_one_study_search_together(tmp_path):
    file = tmp_path / "study.log"
    root = Path(__file__).parents[2]
    script = f"from tests.sweeps import test_sampling as t; t.search_beside_others(t.Path({str(file)!r}))"
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    about = {"env": {**os.environ, "PYTHONPATH": paths}, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", script], **about) for _ in range(2)]
    rounds = [int(process.communicate(timeout=100)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert min(rounds) >= 1

    study = shared_study(file)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    # One process may begin its last round while the other one asks for the trials that are left.
    assert 10 <= len(study.trials) <= 13
    assert study.best_value == max(trial.params["rate"] for trial in study.trials)
    assert search(study, rate_of, accuracies_of_rates, population=3, trials=10) == []


def test_trials_limit_all_calls_together():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"rate": 0.5})  # one that waits is not counted
    found = search(study, rate_of, accuracies_of_rates, population=3, trials=5)
    assert [len(sweep.members) for sweep in found] == [3, 2]
    assert study.trials[0].value == pytest.approx(0.5)
    assert len(search(study, rate_of, accuracies_of_rates, population=2, rounds=1, trials=9)) == 1
    assert len(study.trials) == 7


def test_trials_of_a_round_with_an_error_have_failed():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def run(members):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        search(study, rate_of, run, population=2, rounds=1)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "rounds: expected a number of rounds, or trials in its place, got neither"),
        ({"rounds": 0}, "rounds: expected a positive integer, got 0"),
        ({"trials": 1.5}, r"trials: expected a positive integer, got 1\.5"),
        ({"trials": 4, "metric": "test_loss"}, "study: expected one with direction='minimize' for test_loss"),
    ],
)
def test_limits_that_do_not_fit(options, said):
    study = optuna.create_study(direction="maximize")
    with pytest.raises(InputError, match=said):
        search(study, rate_of, accuracies_of_rates, population=2, **options)
    assert not study.trials
