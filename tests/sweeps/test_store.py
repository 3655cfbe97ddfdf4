"""The folder of one sweep is refused to another one, and the difference is named."""

import json
import os
import shutil
import tracemalloc

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import DataError, InputError
from functional_nn.storage.arrays import packed
from functional_nn.storage.identity import IDENTITY, difference
from functional_nn.sweeps.store import read_batch

RULE = lambda h: optax.sgd(h["rate"])  # noqa: E731
MEMBERS = fnn.grid(rate=[0.1, 0.2])
NET = fnn.chain(fnn.dense(4), fnn.dense(3))


def sweep(blobs, out, model=NET, rule=RULE, members=MEMBERS, **options):
    options = {"epochs": 1, "batch_size": 25, "progress": False, **options}
    return fnn.sweep(model, rule, members, options.pop("data", blobs), out=out, **options)


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    sweep(blobs, folder)
    return folder


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives folders away")
def test_batches_in_a_folder_of_another_user_are_refused(blobs, tmp_path, monkeypatch):
    (tmp_path / "batches").mkdir()
    os.chown(tmp_path / "batches", 4321, 4321)
    monkeypatch.setattr("functional_nn.storage.files.os.geteuid", lambda: 4322)
    with pytest.raises(InputError, match=r"a folder of your own, got .*batches, which another user made"):
        sweep(blobs, tmp_path)


OTHERS = {
    "width": (
        {"model": fnn.chain(fnn.dense(5), fnn.dense(3))},
        'parameters dense_1/weight "float32(4, 3)" instead of "float32(5, 3)"',
    ),
    "number in the rule": ({"rule": lambda h: optax.sgd(2 * h["rate"])}, "different train step"),
    "loss": ({"loss": fnn.multiclass_hinge}, 'loss "cross_entropy" instead of "multiclass_hinge"'),
    "grid": ({"members": fnn.grid(rate=[0.1, 0.3])}, "grid 1 rate 0.2 instead of 0.3"),
    "epochs": ({"epochs": 2}, "epochs 1 instead of 2"),
    "precision": ({"precision": "bfloat16"}, "precision "),
    "identity": ({"identity": {"note": 2}}, "note nothing instead of 2"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_sweep_is_refused_with_the_difference(blobs, finished, name):
    options, words = OTHERS[name]
    with pytest.raises(InputError, match="out: expected a new folder, or the folder of this sweep") as caught:
        sweep(blobs, finished, **options)
    assert words in str(caught.value)


def test_other_data_are_refused(blobs, finished):
    with pytest.raises(InputError, match="different data"):
        sweep(blobs, finished, data=blobs._replace(test_x=blobs.test_x + 1))


def test_the_identity_of_the_user_hides_no_setting():
    """Its names may be those of settings, and those of settings below others."""
    known = {"seed": 0, "grid": [{"rate": 0.1}], IDENTITY: {"seed": "mine", "grid 0 rate": "mine"}}
    assert difference(known, known) == ""
    assert difference(known, known | {"seed": 1}) == "seed 0 instead of 1"
    assert difference(known, known | {"grid": [{"rate": 0.2}]}) == "grid 0 rate 0.1 instead of 0.2"
    own = {IDENTITY: {"seed": "other", "grid 0 rate": "mine"}}
    assert difference(known, known | own) == 'seed "mine" instead of "other"'


def test_of_very_many_differences_a_few_are_put_into_words(monkeypatch):
    known, given = ({IDENTITY: {str(i): [number] * 2000 for i in range(2000)}} for number in (0, 1))
    written, dumps = [], json.dumps
    monkeypatch.setattr(json, "dumps", lambda value, **options: written.append(value) or dumps(value, **options))
    text = difference(known, given)
    assert 0 < len(written) < 100
    assert text.startswith("0 [0, 0, ")
    assert text.endswith("; and 1988 more")


def test_curves_in_a_file_take_little_memory_and_end_somewhere(tmp_path):
    """A file can have curves of any length, which takes no room on the disk if they are zeros."""
    path = tmp_path / "batch"

    def write(epochs):
        about = {"number": 0, "status": "finished", "bad_step": None, "seconds": 0.0}
        about |= {"metrics": ["a"], "test_metrics": []}
        arrays = {"0/curve/a": np.zeros(epochs)}
        path.write_bytes(packed(arrays, {"fingerprint": "x", "members": json.dumps([about])}))

    write(10**6)
    tracemalloc.start()
    batch = read_batch(path, "x")
    curve = batch.histories[0].result({}).curves["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size
    np.testing.assert_array_equal(curve, np.zeros(10**6))
    write(10**6 + 1)
    with pytest.raises(ValueError, match="no metrics in 0/curve/a"):
        read_batch(path, "x")


def test_random_bits_of_another_kind_are_refused(blobs, finished):
    with jax.threefry_partitionable(False), pytest.raises(InputError, match="jax_threefry_partitionable true instead"):
        sweep(blobs, finished)


def test_the_same_sweep_written_anew_takes_what_is_finished(blobs, finished, monkeypatch):
    monkeypatch.setattr(
        "functional_nn.sweeps.member_batch.MemberBatch.run_epoch", lambda *about: pytest.fail("trained again")
    )
    again = sweep(blobs, finished, rule=lambda h: optax.sgd(h["rate"]))
    assert [member.status for member in again.members] == ["finished", "finished"]


def test_another_sweep_does_not_overwrite_what_is_finished_where_sweep_json_was_deleted(blobs, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "sweep")
    (folder / "sweep.json").unlink()
    kept = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    with pytest.raises(InputError, match=r"out: .* got .*sweep, where another sweep, .* wrote 0-"):
        sweep(blobs, folder, epochs=2)
    assert kept == {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    sweep(blobs, folder)
    assert kept == {path: path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '"x"', "{}", "[" * 100_000, "\xff", '{"version": Infinity}'])
def test_a_sweep_json_that_is_none(blobs, tmp_path, text):
    (tmp_path / "sweep.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"sweep\.json: expected a file that a sweep wrote, got a damaged one"):
        sweep(blobs, tmp_path)


def test_another_version_is_refused(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr("functional_nn.sweeps.store.VERSION", 7)
    sweep(blobs, tmp_path)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"expected 'functional_nn sweep' in version 1, got .* in version 7"):
        sweep(blobs, tmp_path)


def test_under_another_version_of_jax_a_sweep_goes_on(blobs, tmp_path, monkeypatch):
    sweep(blobs, tmp_path)
    monkeypatch.setattr("functional_nn.sweeps.population.surroundings", lambda: {"jax": "another"})
    monkeypatch.setattr(
        "functional_nn.sweeps.member_batch.MemberBatch.run_epoch", lambda *about: pytest.fail("trained again")
    )
    assert sweep(blobs, tmp_path).members[1].status == "finished"
    assert json.loads((tmp_path / "sweep.json").read_text())["made_with"] != {"jax": "another"}


def test_several_processes_are_refused(blobs, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(InputError, match="sweep: expected one process, got 2"):
        sweep(blobs, None)
