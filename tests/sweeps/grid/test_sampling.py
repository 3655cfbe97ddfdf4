"""Search with Optuna."""

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


def test_fault_72_a_trial_gets_the_mean_over_its_folds():
    """Each setting is trained with every seed on every data set, and its models stand together in the result."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def run(members):
        models = crossed(members, [{"data": "first"}, {"data": "second"}])
        accuracies = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        return result(*(member(number, model, accuracies[number]) for number, model in enumerate(models)))

    search(study, lambda trial: {"rate": trial.suggest_float("rate", 0, 1)}, run, population=2, rounds=1, seeds=2)
    assert [trial.value for trial in study.trials] == pytest.approx([0.25, 0.65])


def test_fault_72_a_search_refuses_results_that_it_cannot_assign():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    run = lambda members: result(*(member(number, members[0], 0.5) for number in range(3)))  # noqa: E731
    words = "run: expected the same number of models for each of the 2 members, got 3 models"
    with pytest.raises(InputError, match=words):
        search(study, lambda trial: {"rate": trial.suggest_float("rate", 0, 1)}, run, population=2, rounds=1)
