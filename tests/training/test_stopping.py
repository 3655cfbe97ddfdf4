"""What ends a run before its last epoch: ``on_epoch``, an exception, and patience."""

import jax.numpy as jnp
import numpy as np
import pytest
from tests.training import small_run
from tests.training.small_run import ASCENT, DATA, LABELS, X

import functional_nn as fnn


def fit(data=DATA, **options):
    return small_run.fit(data=data, **{"epochs": 6, **options})


@pytest.mark.parametrize("answer", [True, np.bool_(True), jnp.bool_(True)])
def test_on_epoch_stops_a_run(answer):
    run = fit(on_epoch=lambda metrics, train_state: answer if train_state.step == 4 else None)
    assert (run.status, len(run.history)) == ("stopped", 2)
    assert run.message == "on_epoch stopped the run after 2 of 6 epochs."
    np.testing.assert_array_equal(run.params["weight"], fit(epochs=2).params["weight"])


def test_a_run_that_on_epoch_stopped_can_go_on(tmp_path):
    stopped = fit(checkpoints=tmp_path, on_epoch=lambda metrics, train_state: metrics.epoch == 2)
    assert stopped.status == "stopped"
    again = fit(checkpoints=tmp_path, on_epoch=lambda metrics, train_state: metrics.epoch == 2)
    assert (again.status, again.restored_epochs, len(again.history)) == ("stopped", 2, 2)
    whole = fit(checkpoints=tmp_path)
    assert (whole.status, whole.restored_epochs) == ("finished", 2)
    np.testing.assert_array_equal(whole.params["weight"], fit().params["weight"])


@pytest.mark.parametrize("error", [RuntimeError("no more paper"), SystemExit(7)], ids=repr)
def test_an_exception_in_on_epoch_passes_through_and_what_was_reached_is_kept(tmp_path, error):
    def fails(metrics, train_state):
        if metrics.epoch == 3:
            raise error

    with pytest.raises(type(error)) as caught:
        fit(on_epoch=fails, checkpoints=fnn.training.Checkpoints(tmp_path, minutes=1000))
    run = caught.value.run
    assert caught.value is error
    assert (run.status, len(run.history)) == ("stopped", 3)
    assert run.message == f"{type(error).__name__} after 3 of 6 epochs."
    assert fit(checkpoints=tmp_path).restored_epochs == 3


def test_what_on_epoch_returns_by_mistake_is_said():
    with pytest.raises(fnn.InputError, match="on_epoch: expected a function that returns True to stop the run"):
        fit(on_epoch=lambda metrics, train_state: metrics)


def test_patience_stops_a_run():
    grows = fit(optimizer=ASCENT, epochs=50, patience=3)
    assert (grows.status, len(grows.history)) == ("stopped early", 4)
    assert grows.message == "The test loss was not lower for 3 epochs."
    assert fit(patience=1).status == "finished"


def test_patience_goes_by_validation_examples_if_there_are_any():
    """On the test examples the loss grows from the first epoch on; on the validation examples it falls."""
    data = DATA._replace(validation_x=X[:20], validation_labels=LABELS[:20], test_labels=(LABELS[40:] + 1) % 3)
    run = fit(data, patience=1)
    assert run.status == "finished"
    assert set(run.history[-1].metrics) == {"train_loss", "validation_loss", "validation_accuracy"}
    assert set(run.test_metrics) == {"test_loss", "test_accuracy"}


def test_patience_without_anything_to_evaluate_is_refused():
    with pytest.raises(fnn.InputError, match=r"patience: expected data with validation or test examples"):
        fit(fnn.data.Split(X, LABELS), patience=2)
