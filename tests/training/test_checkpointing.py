"""A run that was stopped, killed or damaged goes on as if nothing had happened, bit for bit."""

import os
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.training import small_run
from tests.training.small_run import DATA, DEEP

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.storage.checkpoints import CheckpointWriter, newest, steps
from functional_nn.training.checkpointing import RunSaver
from functional_nn.training.programs import fingerprint

SCHEDULE = optax.cosine_decay_schedule(0.05, 5 * 2)
OPTIMIZER = fnn.training.with_clipping(optax.adamw(SCHEDULE, weight_decay=0.01), 0.5)
SMALL = {"net": small_run.NET, "optimizer": small_run.RULE}


def fit(checkpoints=None, stop_after=None, net=DEEP, optimizer=OPTIMIZER, **options):
    seen = []

    def on_epoch(metrics, train_state):
        seen.append(metrics)
        if metrics.epoch == stop_after:
            raise KeyboardInterrupt

    options = {"epochs": 5, "seed": 3, "checkpoints": checkpoints, "on_epoch": on_epoch, **options}
    run = small_run.fit(net, optimizer=optimizer, **options)
    assert run.history == tuple(seen)
    return run


def bits(run):
    """Every bit that a run leaves, but for the seconds it took."""
    state = run.train_state._replace(key=jax.random.key_data(run.train_state.key))
    history = [metrics._replace(seconds=0) for metrics in run.history]
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)], jax.tree.structure(state), history


@pytest.fixture(scope="module")
def whole():
    return fit()


def test_stopped_after_every_epoch(tmp_path, whole):
    """Parameters, statistics, the optimizer with its schedule and counts, key, order of the data, and metrics."""
    for epoch in range(1, 5):
        run = fit(tmp_path, stop_after=epoch)
        assert (run.status, len(run.history), run.restored_epochs) == ("interrupted", epoch, epoch - 1)
    run = fit(tmp_path)
    assert (run.status, run.restored_epochs) == ("finished", 4)
    assert bits(run) == bits(whole)
    losses = [metrics.test_loss for metrics in run.history]
    assert steps(tmp_path) == sorted({4, 5, 1 + int(np.argmin(losses))})
    again = fit(tmp_path)
    assert (again.status, again.restored_epochs) == ("finished", 5)
    assert bits(again) == bits(whole)
    assert again.history == run.history


def test_a_loss_scale_goes_on(tmp_path):
    options = SMALL | {"data": small_run.TRAIN, "precision": "float16", "epochs": 3}
    whole = fit(**options)
    fit(tmp_path, stop_after=1, **options)
    assert bits(fit(tmp_path, **options)) == bits(whole)


def test_more_epochs_go_on_where_nothing_follows_their_number(tmp_path, whole):
    fit(tmp_path, epochs=2)
    assert bits(fit(tmp_path)) == bits(whole)
    with pytest.raises(InputError, match="epochs: expected at least 5, which the checkpoint has, got 2"):
        fit(tmp_path, epochs=2)


def test_minutes_save_the_first_epoch_and_the_last(tmp_path, whole, monkeypatch):
    saved, save = [], CheckpointWriter.save

    def noted(self, step, *rest, **more):
        saved.append(step)
        save(self, step, *rest, **more)

    monkeypatch.setattr(CheckpointWriter, "save", noted)
    choice = fnn.training.Checkpoints(tmp_path, minutes=60)
    fit(choice, stop_after=3)
    assert saved == [1, 3]
    assert bits(fit(choice)) == bits(whole)
    assert saved == [1, 3, 4, 5]


METRICS = {"rising": lambda y, labels: -abs(abs(y).mean() - 1.0), "error": lambda y, labels: abs(y).mean()}
"""They are made from the parameters, and are the best in an epoch whose loss is not the lowest."""


@pytest.mark.parametrize(("metric", "sign"), [("test_rising", -1), ("test_error", 1)])
def test_the_best_epoch_is_that_of_any_metric(tmp_path, metric, sign):
    run = fit(fnn.training.Checkpoints(tmp_path, best_by=metric), metrics=METRICS)
    values = [sign * epoch.metrics[metric] for epoch in run.history]
    best = fnn.storage.restore_checkpoint(tmp_path, run.params, step="best", part="train_state/params")
    assert (best.step, best.loss) == (1 + values.index(min(values)), min(values))
    assert best.step != 1 + int(np.argmin([epoch.test_loss for epoch in run.history]))
    assert best.step in steps(tmp_path)


def test_the_metric_of_the_best_epoch_has_to_exist_and_to_stay_the_same(tmp_path):
    with pytest.raises(InputError, match=r"best_by: expected the name of a metric.*Did you mean test_accuracy"):
        fit(fnn.training.Checkpoints(tmp_path, best_by="test_acuracy"))
    assert steps(tmp_path) == []
    with pytest.raises(InputError, match="best_by: expected the name of a metric, or None, got 3"):
        fit(fnn.training.Checkpoints(tmp_path, best_by=3))
    by_accuracy = fnn.training.Checkpoints(tmp_path, best_by="test_accuracy")
    fit(by_accuracy, epochs=1)
    with pytest.raises(InputError, match='best_by "test_accuracy" instead of nothing'):
        fit(tmp_path)
    assert fit(by_accuracy).restored_epochs == 1


def test_a_damaged_checkpoint_costs_an_epoch_and_is_said(tmp_path, whole):
    fit(tmp_path, stop_after=3)
    file = tmp_path / "0000000003.checkpoint.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step 2 is used instead of a damaged one.*0000000003"):
        resumed = fit(tmp_path)
    assert resumed.restored_epochs == 2
    assert bits(resumed) == bits(whole)
    assert fit(tmp_path).restored_epochs == 5


@pytest.mark.parametrize("about", [None, dict.fromkeys(("settings", "status", "message"), 3)], ids=["none", "numbers"])
def test_a_folder_of_other_checkpoints_is_refused(tmp_path, about):
    fnn.storage.save_checkpoint(tmp_path, 1, {"w": np.ones(3)}, about=about)
    with pytest.raises(InputError, match="which fit did not write"):
        fit(tmp_path)


def test_a_full_disk_ends_the_run_and_the_rest_goes_on_later(tmp_path, whole, monkeypatch):
    """Saving an epoch synchronizes a file and its folder."""
    fsync, room = os.fsync, [4]

    def full(descriptor):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"The checkpoint of step 3 .*those before it are whole"):
            fit(tmp_path)
    assert steps(tmp_path) == [1, 2]
    assert bits(fit(tmp_path)) == bits(whole)


@pytest.mark.parametrize(("minutes", "begun_again"), [(0, True), (60, False)])
def test_a_folder_that_is_removed_ends_the_run_at_the_next_epoch(tmp_path, minutes, begun_again):
    reached = []

    def on_epoch(metrics, train_state):
        reached.append(metrics.epoch)
        if metrics.epoch == 2:
            shutil.rmtree(tmp_path / "run")
            if begun_again:  # as when a checkpoint was being written while the folder was removed
                (tmp_path / "run").mkdir()

    choice = fnn.training.Checkpoints(tmp_path / "run", minutes=minutes)
    with pytest.raises(FileNotFoundError, match="was removed"):
        small_run.fit(epochs=5, checkpoints=choice, on_epoch=on_epoch)
    assert reached == [1, 2]
    assert not list(tmp_path.glob("run/*"))


def test_a_relative_folder_stays_the_same_when_the_working_directory_changes(tmp_path, monkeypatch):
    """In the new working directory, the callback reads and writes another folder by the same relative path."""
    earlier, other = tmp_path / "earlier", tmp_path / "other"
    earlier.mkdir()
    fnn.storage.save_checkpoint(other / "run", 7, {})
    restored = []

    def on_epoch(metrics, train_state):
        os.chdir(other)
        restored.append(fnn.storage.restore_checkpoint("run", {}).step)
        fnn.storage.save_parameters("run/saved.safetensors", train_state.params, train_state.state)

    monkeypatch.chdir(earlier)
    small_run.fit(epochs=2, checkpoints=fnn.training.Checkpoints("run"), on_epoch=on_epoch)
    assert restored == [7, 7]
    assert steps(earlier / "run") == [1, 2]
    assert [path.name for path in other.glob("run/[!0]*")] == ["saved.safetensors"]


def test_other_processes_get_the_checkpoint_of_the_folder_that_is_open(tmp_path):
    """Another user, who can write to the folder above, gives its name to another folder."""
    folder, sent = tmp_path / "run", []
    fnn.storage.save_checkpoint(folder, 1, {})
    (path,) = folder.glob("*.safetensors")
    saved = path.read_bytes()

    class Several:
        are_several = True

        def first(self, action):
            return action()

        def bytes_from_first(self, contents):
            sent.append(contents)
            return b""

    with CheckpointWriter(folder):
        saver: Any = RunSaver(Several(), {})  # pyright: ignore[reportArgumentType]
        saver._restored, saver._found = lambda *arguments: None, newest(folder)
        folder.rename(tmp_path / "away")
        folder.mkdir()
        path.write_bytes(b"of another user")
        saver.restored(None, {})
    assert sent == [saved]


def test_ctrl_c_while_an_epoch_is_saved(tmp_path, monkeypatch):
    """Each call is interrupted in the first epoch that it saves."""
    replace, unlink = os.replace, os.unlink

    def train(folder, moment=0):
        """A run with Ctrl-C after a number of calls that put a file on the disk, rename or remove one."""
        calls = []

        def interrupting(function):
            def interrupted(*arguments, **folders):
                function(*arguments, **folders)
                calls.append(function)
                if len(calls) == moment:
                    raise KeyboardInterrupt

            return interrupted

        monkeypatch.setattr(os, "fsync", interrupting(lambda descriptor: None))
        monkeypatch.setattr(os, "replace", interrupting(replace))
        monkeypatch.setattr(os, "unlink", interrupting(unlink))
        choice = fnn.training.Checkpoints(folder, keep=1)
        return small_run.fit(epochs=5, checkpoints=choice)

    whole = train(tmp_path / "whole")
    # The first call removes the file that shows who owns the folder. Then saving an epoch calls fsync for the file
    # (2), gives it its name (3), calls fsync for the folder (4), and removes the old checkpoint (5).
    for epoch, moment in enumerate((2, 3, 4, 5), 1):
        run = train(tmp_path / "run", moment)
        assert (run.status, len(run.history), run.restored_epochs) == ("interrupted", epoch, epoch - 1)
    run = train(tmp_path / "run")
    assert (run.status, run.restored_epochs) == ("finished", 4)
    assert bits(run) == bits(whole)


def test_ctrl_c_while_the_last_epoch_is_saved(tmp_path, monkeypatch):
    save, interrupts = CheckpointWriter.save, [KeyboardInterrupt]

    def interrupted(self, step, *rest, **more):
        if step == 2 and interrupts:
            raise interrupts.pop()
        return save(self, step, *rest, **more)

    monkeypatch.setattr(CheckpointWriter, "save", interrupted)
    run = fit(fnn.training.Checkpoints(tmp_path, minutes=60), epochs=2, **SMALL)
    assert (run.status, interrupts) == ("finished", [])
    assert steps(tmp_path) == [1, 2]


@pytest.mark.usefixtures("no_search")
def test_a_run_that_was_not_finite_does_not_go_on(tmp_path):
    x = DATA.train_x.copy()
    x[17] = np.inf
    first, again = (fit(tmp_path, data=DATA._replace(train_x=x), batch_size=4, **SMALL) for _ in range(2))
    assert first.status == again.status == "non-finite"
    assert first.message.startswith(again.message)
    assert (again.restored_epochs, len(again.history)) == (1, 1)
    assert bits(first) == bits(again)


def test_metrics_that_are_not_finite_come_back(tmp_path):
    """An accuracy of NaN, and a test loss of infinity under finite training."""
    x, y = DATA.train_x, DATA.train_x[:, :1]
    data = fnn.data.Split(x, y, x, np.full_like(y, 3e38))
    options = {"data": data, "loss": fnn.mean_squared_error, "optimizer": optax.sgd(0.01), "epochs": 2}
    first, again = (small_run.fit(fnn.dense(1), checkpoints=tmp_path, **options) for _ in range(2))
    assert np.isinf(first.history[0].test_loss)
    assert np.isnan(first.history[0].test_accuracy)
    np.testing.assert_array_equal(np.array(first.history), np.array(again.history))
    assert again.restored_epochs == 2


def test_a_program_has_the_same_fingerprint_in_a_terminal(monkeypatch):
    """There, JAX puts colors into the text of a program. A run that began in a terminal continues without one."""
    program = jax.make_jaxpr(jnp.tanh)(1.0)
    before = fingerprint(program)
    monkeypatch.setattr("jax._src.pretty_printer.CAN_USE_COLOR", True)
    assert "\x1b" in str(program)
    assert fingerprint(program) == before
