"""Search with Optuna."""

import pytest
from tests.sweeps.made_up_results import member, result

from functional_nn.sweeps import search

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
