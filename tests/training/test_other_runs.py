"""The folder of one run is refused to another one, and the difference is named."""

from types import SimpleNamespace

import numpy as np
import optax
import pytest
from tests.training import small_run
from tests.training.small_run import DATA

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.training import devices
from functional_nn.training.programs import Programs


def network(rate=0.1):
    return fnn.chain(fnn.dropout(rate), fnn.dense(3))


def fit(folder, net=None, loss=fnn.cross_entropy, optimizer=small_run.RULE, data=DATA, **options):
    return small_run.fit(net or network(), loss, optimizer, data, epochs=1, checkpoints=folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    fit(place)
    return place


def doubled(y, labels):
    return 2 * fnn.cross_entropy(y, labels)


OTHERS = {
    "dropout": ({"net": network(rate=0.2)}, "different train step"),
    "loss": ({"loss": doubled}, "different network or loss; different train step (opt"),
    "rate": ({"optimizer": optax.sgd(0.2)}, "different train step (optimizer, penalty, noise or gradient)"),
    "penalty": ({"penalty": fnn.l2(1e-3)}, "different train step (optimizer, penalty, noise or gradient)"),
    "data": ({"data": DATA._replace(train_x=DATA.train_x + 1)}, "different data"),
    "test data": ({"data": DATA._replace(test_x=DATA.test_x + 1)}, "different data"),
    "labels": ({"data": DATA._replace(train_labels=DATA.train_labels[::-1])}, "different data"),
    "two settings": ({"batch_size": 8, "seed": 4}, "batch_size 20 instead of 8; seed 0 instead of 4"),
    "precision": ({"precision": "bfloat16"}, 'precision ["float32", "float32", "float32"] instead of ["float32", "bf'),
    "non_finite": ({"non_finite": "skip"}, 'non_finite "stop" instead of "skip"'),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_with_the_difference(folder, name):
    options, words = OTHERS[name]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        fit(folder, **options)
    assert f"expected a new folder, or the folder of this run, got {folder}, whose run has" in str(caught.value)
    assert words in str(caught.value)
    assert {path: path.read_bytes() for path in before} == before


def test_the_same_run_written_anew_goes_on(folder):
    """Functions made again are the same run: they are compared by what they compute."""
    assert fit(folder).restored_epochs == 1


def test_numbers_in_an_array_are_compared(tmp_path):
    """The text of a program does not say what is in its arrays."""

    def shifted(shift):
        values = np.arange(3, dtype=np.float32) + shift
        return lambda y, labels: fnn.cross_entropy(y + values, labels)

    options = {"net": small_run.NET, "data": small_run.TRAIN}
    fit(tmp_path, loss=shifted(0), **options)
    assert fit(tmp_path, loss=shifted(0), **options).restored_epochs == 1
    with pytest.raises(InputError, match="different network or loss"):
        fit(tmp_path, loss=shifted(1e-6), **options)


def test_settings_of_the_user_hide_none_of_fit(tmp_path):
    """A name that fit uses, too, is compared in addition: for the seed, the metrics and the programs."""
    own = {"seed": "mine", "metrics": ["f1"], "programs": "x", "groups": 5}
    checkpoints = fnn.training.Checkpoints(tmp_path, settings=own)
    fit(checkpoints, net=small_run.NET)
    assert fit(checkpoints, net=small_run.NET).restored_epochs == 1
    with pytest.raises(InputError, match="whose run has seed 0 instead of 7"):
        fit(checkpoints, net=small_run.NET, seed=7)
    with pytest.raises(InputError, match='whose run has seed "mine" instead of "another"'):
        fit(checkpoints._replace(settings=own | {"seed": "another"}), net=small_run.NET)


def test_under_another_version_a_run_goes_on(tmp_path, monkeypatch):
    """Programs of two versions of JAX cannot be compared, so only shapes and settings are."""
    fit(tmp_path, net=small_run.NET)
    monkeypatch.setattr("functional_nn.training.checkpointing.surroundings", lambda: {"jax": "another"})
    assert fit(tmp_path, net=small_run.NET, optimizer=optax.sgd(0.2)).restored_epochs == 1
    with pytest.raises(InputError, match="seed 0 instead of 1"):
        fit(tmp_path, net=small_run.NET, seed=1)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match=r"a new folder, or one with checkpoints, got .* which holds a sweep"):
        fit(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json"]


@pytest.mark.parametrize("checkpoints", [3, True, b"x", [], {}, "a\0b"])
def test_checkpoints_that_are_no_folder(checkpoints):
    for wrong in (checkpoints, fnn.training.Checkpoints(checkpoints)):
        with pytest.raises(InputError, match="checkpoints: expected the path of a f"):
            fit(wrong)


def test_a_model_that_does_not_fit_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(devices, "available_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"net: expected a network that fits in .* got 18 parameters, which take "):
        fit(None)


def test_a_model_with_more_bytes_than_addresses_does_not_end_the_process():
    with pytest.raises(InputError, match="net: expected a network that fits in"):
        fit(None, fnn.chain(fnn.dense(2**31 - 1), fnn.dense(2**31 - 1), fnn.dense(3)))


def test_every_virtual_device_of_a_cpu_needs_memory(monkeypatch):
    monkeypatch.setattr(devices, "available_bytes", lambda: 1000)
    own, data = {"train_state": SimpleNamespace(params={}), "bytes_needed": 0}, np.zeros(150, np.float32)
    Programs.check_memory(SimpleNamespace(sharding=None, **own), data)
    sharding = SimpleNamespace(addressable_devices={"first", "second"})
    with pytest.raises(InputError, match="net: expected a network that fits in"):
        Programs.check_memory(SimpleNamespace(sharding=sharding, **own), data)
