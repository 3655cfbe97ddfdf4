"""Ready callbacks: what they write, when they stop, and that a resumed or second run starts them anew."""

import csv
import math

import optax
import pytest
from tests.training import small_run
from tests.training.small_run import ASCENT

import functional_nn as fnn
from functional_nn.training import EpochMetrics, callbacks


def fit(**options):
    return small_run.fit(**{"epochs": 4, **options})


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stops_after(callback, values, name="test_accuracy"):
    """The epoch after which a callback stops a run with these values of a metric; None if it does not."""
    for epoch, value in enumerate(values, 1):
        if callback(EpochMetrics(epoch, {"train_loss": 1.0, name: value}, seconds=0.1), None):
            return epoch
    return None


def test_csv_has_the_metrics_of_each_epoch(tmp_path):
    path = tmp_path / "log.csv"
    rule = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.1, 0.0, 8))
    run = fit(optimizer=rule, on_epoch=callbacks.csv_log(path))
    expected = [{name: str(value) for name, value in metrics.row().items()} for metrics in run.history]
    assert rows_of(path) == expected
    # The last of two steps has the rate 0.1 * 7 / 8.
    assert float(expected[0]["learning_rate"]) == pytest.approx(0.0875)


def test_a_resumed_run_writes_each_epoch_once(tmp_path):
    log = tmp_path / "log.csv"
    fit(checkpoints=tmp_path / "run", epochs=2, on_epoch=callbacks.csv_log(log))
    # What a killed process has written after the last checkpoint.
    with open(log, "a", encoding="utf-8") as file:
        file.write("3,0.5")
    assert fit(checkpoints=tmp_path / "run", on_epoch=callbacks.csv_log(log)).restored_epochs == 2
    assert [row["epoch"] for row in rows_of(log)] == ["1", "2", "3", "4"]
    assert rows_of(log)[0]["learning_rate"] == ""


def test_a_link_that_takes_the_place_of_the_log_is_not_followed(tmp_path):
    """Another user of the folder puts it there after the log was made."""
    log, private = tmp_path / "log.csv", tmp_path / "private"
    private.write_text("precious")
    callback = callbacks.csv_log(log)
    log.rename(tmp_path / "aside")
    log.symlink_to(private)
    fit(epochs=2, on_epoch=callback)
    assert private.read_text() == "precious"
    assert len(rows_of(tmp_path / "aside")) == 2
    (tmp_path / "aside").unlink()
    with pytest.raises(fnn.InputError, match=r"which was removed.* Call csv_log again"):
        fit(epochs=1, on_epoch=callback)


def test_a_file_that_cannot_be_written_is_an_error_before_training(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "log.csv"):
        with pytest.raises(fnn.InputError, match="path: expected a file that can be written to"):
            callbacks.csv_log(path)


def test_early_stopping_takes_any_metric():
    rising = [0.5, 0.6, 0.6, 0.55, 0.7]
    assert stops_after(callbacks.early_stopping(2, "test_accuracy"), rising) == 4
    assert stops_after(callbacks.early_stopping(3, "test_accuracy"), rising) is None
    assert stops_after(callbacks.early_stopping(2, "test_mse"), rising, "test_mse") == 3
    assert stops_after(callbacks.early_stopping(2, "test_accuracy", least_change=0.15), rising) == 3
    assert stops_after(callbacks.early_stopping(2), [3.0, 1.0, 2.0, 1.0], "test_loss") == 4
    # NaN is never better; a number after NaN is.
    nan = math.nan
    assert stops_after(callbacks.early_stopping(2, "test_accuracy"), [nan, nan, 0.1, nan, nan]) == 5
    assert stops_after(callbacks.early_stopping(2, "test_accuracy"), [0.1, nan, nan]) == 3


def test_early_stopping_counts_restored_epochs_and_starts_anew_in_a_second_run(tmp_path):
    grows = {"optimizer": ASCENT, "on_epoch": callbacks.early_stopping(3)}
    assert len(fit(epochs=2, checkpoints=tmp_path, **grows).history) == 2
    resumed = fit(epochs=50, checkpoints=tmp_path, **grows)
    assert (resumed.restored_epochs, len(resumed.history)) == (2, 4)
    assert len(fit(epochs=50, **grows).history) == 4


def test_a_metric_that_the_run_does_not_have():
    known = "Did you mean test_accuracy\\? Known: test_accuracy, test_loss, train_loss"
    with pytest.raises(fnn.InputError, match=f"metric: expected the name of a metric of this run.*{known}"):
        fit(on_epoch=callbacks.early_stopping(3, "tst_accuracy"))
