"""Checkpoints: exact, verified bit for bit, whole or not there, and the one before where the newest is damaged."""

import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import DataError, InputError
from functional_nn.storage import checkpoints, files
from functional_nn.storage.checkpoints import CheckpointWriter, newest, steps

TREE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "more": (np.int32(7), None, {"key": jax.random.key(3)})}


def numbers(tree):
    """Everything of a pytree that must come back: structure, types, shapes, bits."""
    leaves, structure = jax.tree.flatten(tree)
    raw = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]
    return structure, [(str(x.dtype), x.shape, np.asarray(r).tobytes()) for x, r in zip(leaves, raw, strict=True)]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".functional_nn.lock")


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def path_of(folder, step: int) -> Path:
    return folder / f"{step:010d}.checkpoint.safetensors"


def saved(folder, count=2, tree=TREE) -> Path:
    for step in range(1, count + 1):
        fnn.storage.save_checkpoint(folder, step, tree)
    return path_of(folder, count)


# What comes back


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "bool"])
def test_round_trip_is_exact(tmp_path, dtype):
    values = [0.1, -0.0, np.inf, np.nan, 1e-38] if jnp.issubdtype(dtype, jnp.floating) else [0, 1, 1]
    tree = {"a": jnp.asarray(values, dtype), "none": jnp.zeros((0, 3), dtype), "one": jnp.ones((), dtype)}
    fnn.storage.save_checkpoint(tmp_path, 1, tree)
    for like in (tree, jax.eval_shape(lambda: tree)):
        restored = fnn.storage.restore_checkpoint(tmp_path, like)
        assert numbers(restored.tree) == numbers(tree)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.tree))


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_random_keys_go_on_where_they_were(tmp_path, kind):
    tree = {"key": jax.random.key(3, impl=kind), "keys": jax.random.split(jax.random.key(4, impl=kind), (2, 3))}
    fnn.storage.save_checkpoint(tmp_path, 1, tree)
    found = fnn.storage.restore_checkpoint(tmp_path, jax.eval_shape(lambda: tree)).tree
    assert numbers(found) == numbers(tree)
    assert jax.random.bits(found["key"]) == jax.random.bits(tree["key"])


def test_what_was_said_of_it_comes_back(tmp_path):
    about = {"epoch": 3, "best": 0.1, "names": ["a", "b"], "nothing": None}
    fnn.storage.save_checkpoint(tmp_path, 5, TREE, loss=np.float32(0.5), about=about)
    restored = fnn.storage.restore_checkpoint(tmp_path, TREE)
    assert (restored.step, restored.loss, restored.about) == (5, 0.5, about)


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, loss in enumerate([5.0, 2.0, float("nan"), 4.0, 3.0, 9.0], 1):
        fnn.storage.save_checkpoint(tmp_path, step, {"w": np.float32(step)}, loss=loss, keep=2)
    assert steps(tmp_path) == [2, 5, 6]
    assert fnn.storage.restore_checkpoint(tmp_path, {"w": np.float32(0)}).tree["w"] == 6
    assert fnn.storage.restore_checkpoint(tmp_path, {"w": np.float32(0)}, step=2).tree["w"] == 2
    assert fnn.storage.restore_checkpoint(tmp_path, {"w": np.float32(0)}, step="best").step == 2
    assert names(tmp_path) == [path_of(tmp_path, step).name for step in (2, 5, 6)]


@pytest.mark.parametrize("texts", [None, 0, [], {"manifest": None}])
def test_a_header_with_other_texts_is_damage(tmp_path, texts):
    for step in (1, 2, 3):
        fnn.storage.save_checkpoint(tmp_path, step, TREE, keep=3)
    header = json.dumps({"__metadata__": texts}).encode()
    path_of(tmp_path, 3).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.warns(UserWarning, match="instead of a damaged one"):
        assert fnn.storage.restore_checkpoint(tmp_path, TREE).step == 2
    fnn.storage.save_checkpoint(tmp_path, 4, TREE)


@pytest.mark.parametrize("place", [20, -1])
def test_a_damaged_best_one_is_not_passed_over_without_a_word(tmp_path, place):
    for step, loss in enumerate([0.5, 0.1, 0.4], 1):
        path = fnn.storage.save_checkpoint(tmp_path, step, {"w": np.float32(step)}, loss=loss, keep=3)
    path = path_of(tmp_path, 2)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step 3 is used instead of a damaged one. .*0000000002"):
        assert fnn.storage.restore_checkpoint(tmp_path, {"w": np.float32(0)}, step="best").step == 3


def test_files_of_the_user_among_checkpoints_are_left_alone(tmp_path):
    """Their names look like steps: a date, more zeros than needed, digits of another script."""
    saved(tmp_path, 3)
    ending = ".checkpoint.safetensors"
    others = [tmp_path / name for name in ("20240101120000", f"00000000009{ending}", "\u0660" * 9 + f"\u0669{ending}")]
    for other in others:
        other.write_text("mine")
    assert steps(tmp_path) == [2, 3]
    assert fnn.storage.restore_checkpoint(tmp_path, TREE).step == 3
    fnn.storage.save_checkpoint(tmp_path, 4, TREE, keep=2)
    assert steps(tmp_path) == [3, 4]
    assert all(other.read_text() == "mine" for other in others)


def test_a_part_of_the_tree(tmp_path):
    saved(tmp_path)
    restored = fnn.storage.restore_checkpoint(tmp_path, TREE["more"][2], part="more/2")
    assert numbers(restored.tree) == numbers(TREE["more"][2])
    assert fnn.storage.restore_checkpoint(tmp_path, TREE["more"][0], part="more/0").tree == 7
    assert fnn.storage.restore_checkpoint(tmp_path, None, part="more/1").tree is None
    for part in ("mor", "more/2/ke", "nothing"):
        with pytest.raises(DataError, match="key nothing instead of key<fry>"):
            fnn.storage.restore_checkpoint(tmp_path, TREE["more"][2], part=part)


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        path = saved(tmp_path, 1)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tree": {"w": 3}}, "w: expected an array"),
        ({"tree": {"a/b": np.ones(2), "a": {"b": np.ones(2)}}}, "a path of its own"),
        ({"step": -1}, "step: expected"),
        ({"keep": 0}, "keep: expected a positive integer"),
        (
            {"tree": {"w": np.ones(2, complex)}},
            "w: expected numbers of a type that safetensors files have, got complex128",
        ),
        ({"loss": "abc"}, "loss: expected a number"),
        ({"about": {"a": {1, 2}}}, "about: expected what JSON can hold"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path, change, word):
    with pytest.raises(InputError, match=word):
        fnn.storage.save_checkpoint(tmp_path / "folder", **{"step": 1, "tree": TREE, **change})
    assert not (tmp_path / "folder").exists() or names(tmp_path / "folder") == []


def test_a_good_step_is_not_written_over(tmp_path):
    saved(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="step: expected a step without a checkpoint, got 2"):
        fnn.storage.save_checkpoint(tmp_path, 2, {"w": np.zeros(3)})
    assert contents(tmp_path) == before


# What is damaged


def test_every_changed_byte_and_every_truncation_is_noticed(tmp_path):
    path = saved(tmp_path, 1)
    content = path.read_bytes()
    flipped = (content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in range(len(content)))
    for damaged in (*flipped, *(content[:size] for size in range(len(content))), content + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            newest(tmp_path)


def test_all_damaged_is_an_error_that_lists_them(tmp_path):
    saved(tmp_path)
    for step in (1, 2):
        path_of(tmp_path, step).write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)damaged ones only: .*0000000002.*0000000001"):
        fnn.storage.restore_checkpoint(tmp_path, TREE)


def test_of_very_many_damaged_ones_some_are_tried_and_a_few_are_named(tmp_path, monkeypatch):
    """To list the folder again for each of 20,000 damaged files took minutes."""
    saved(tmp_path)
    for step in range(3, 200):
        path_of(tmp_path, step).write_bytes(b"")
    listings = []
    whole = files.names_in
    monkeypatch.setattr(files, "names_in", lambda folder: listings.append(folder) or whole(folder))
    said = r"0000000199\S+ expected.*0000000197\S+ expected.*; and 88 more\.$"
    with pytest.raises(DataError, match=said) as caught:
        newest(tmp_path)
    assert len(str(caught.value)) < 3000
    assert len(listings) == 1


def test_a_checkpoint_that_its_writer_removes_meanwhile(tmp_path, monkeypatch):
    """A reader lists the steps, and the run beside it saves two more and removes the first."""

    def read(path, step, most_bytes):
        if step == 1:
            for later in (2, 3):
                fnn.storage.save_checkpoint(tmp_path, later, TREE)
        return whole_read(path, step, most_bytes)

    saved(tmp_path, 1)
    whole_read = checkpoints.read_checkpoint
    monkeypatch.setattr(checkpoints, "read_checkpoint", read)
    assert newest(tmp_path).step == 3


def test_a_folder_with_another_step_s_name(tmp_path):
    saved(tmp_path).rename(path_of(tmp_path, 9))
    with pytest.warns(UserWarning, match="expected the checkpoint of step 9, got that of step 2"):
        assert fnn.storage.restore_checkpoint(tmp_path, TREE).step == 1


def test_later_checkpoints_are_replaced_by_a_run_that_continues(tmp_path):
    """They are good here, but what they refer to may be damaged."""
    for step in (1, 5, 6):
        fnn.storage.save_checkpoint(tmp_path, step, TREE, loss=0.0, keep=3)
    with CheckpointWriter(tmp_path) as writer:
        writer.continue_after(1)
        assert steps(tmp_path) == [1, 5, 6]
        writer.save(5, TREE | {"w": np.zeros(3, np.float32)}, loss=1.0)
    assert steps(tmp_path) == [1, 5]
    assert fnn.storage.restore_checkpoint(tmp_path, TREE | {"w": np.zeros(3, np.float32)}).step == 5


def test_no_checkpoint_is_an_error(tmp_path):
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="expected a folder of checkpoints, got none in it"):
            fnn.storage.restore_checkpoint(place, TREE)


def test_another_tree_is_refused_with_its_paths(tmp_path):
    saved(tmp_path)
    key = {"key": jax.random.key(0)}
    for like, words in {
        "shape": ({**TREE, "w": np.zeros((3, 2), np.float32)}, "w float32(2, 3) instead of float32(3, 2)"),
        "more": ({**TREE, "b": np.zeros(2)}, "b nothing instead of float64(2,)"),
        "fewer": ({"w": TREE["w"]}, "more/0 int32() instead of nothing; more/1 NoneType() instead of nothing; more/2"),
        "empty": (
            {**TREE, "more": (np.int32(7), optax.EmptyState(), key)},
            "more/1 NoneType() instead of EmptyState()",
        ),
    }.values():
        with pytest.raises(DataError) as caught:
            fnn.storage.restore_checkpoint(tmp_path, like)
        assert words in str(caught.value)
        assert "0000000002" in str(caught.value)


@pytest.mark.parametrize("version", [4, 2, 0, -1])
def test_another_version_is_an_error_and_not_a_damage(tmp_path, monkeypatch, version):
    monkeypatch.setattr(checkpoints, "VERSION", version)
    saved(tmp_path)
    monkeypatch.undo()
    with pytest.raises(DataError, match=rf"expected version 3 of the format, got {version}\. Use another folder"):
        fnn.storage.restore_checkpoint(tmp_path, TREE)
    with pytest.raises(DataError, match=f"got {version}"):
        fnn.storage.save_checkpoint(tmp_path, 4, TREE)
    with CheckpointWriter(tmp_path / "other"):
        pass


# What goes wrong while writing


def kills(folder: Path, number: int, seed: int) -> str:
    script = Path(__file__).with_name("killed_writer.py")
    command = [sys.executable, str(script), str(folder), str(number), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kills_at_any_moment_lose_nothing(tmp_path):
    assert kills(tmp_path, 10, seed=0).startswith("10 kills")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_failed_writing_keeps_what_was_there_and_leaves_no_other(tmp_path, monkeypatch, call, error):
    def fail(*arguments, **options):
        raise error

    with CheckpointWriter(tmp_path) as writer:
        writer.save(1, TREE)
        before = contents(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            with pytest.raises(type(error)) as caught:
                writer.save(2, TREE)
        assert contents(tmp_path) == before
        assert steps(tmp_path) == [1]
        if isinstance(error, OSError):
            assert "step 2 was not written, and those before it are whole: No space left" in str(caught.value)
            assert "0000000002" in str(caught.value)
        writer.save(2, TREE)
    assert fnn.storage.restore_checkpoint(tmp_path, TREE).step == 2


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_folder_without_room_for_the_lock_is_refused(tmp_path, monkeypatch, number):
    @contextmanager
    def unlockable(path):
        raise OSError(number, os.strerror(number))
        yield

    saved(tmp_path)
    monkeypatch.setattr(files, "_locked", unlockable)
    with pytest.raises(InputError, match=rf"can be written to, got .*{os.strerror(number)}"):
        fnn.storage.save_checkpoint(tmp_path, 3, TREE)
    assert fnn.storage.restore_checkpoint(tmp_path, TREE).step == 2


def test_two_writers_are_an_error_for_the_second(tmp_path):
    with CheckpointWriter(tmp_path) as first:
        first.save(1, TREE)
        with pytest.raises(InputError, match=f"which process {os.getpid()} writes to"):
            fnn.storage.save_checkpoint(tmp_path, 2, TREE)
        assert fnn.storage.restore_checkpoint(tmp_path, TREE).step == 1
        first.save(2, TREE)
    fnn.storage.save_checkpoint(tmp_path, 3, TREE)


def test_what_a_kill_left_is_ignored_and_cleaned(tmp_path):
    shutil.copy(saved(tmp_path), tmp_path / ".0000000003.functional_nn.tmp")
    (tmp_path / ".0000000004.functional_nn.tmp").touch()
    (tmp_path / "notes.txt").write_text("mine")
    assert fnn.storage.restore_checkpoint(tmp_path, TREE).step == 2
    fnn.storage.save_checkpoint(tmp_path, 3, TREE)
    assert names(tmp_path) == [*(path_of(tmp_path, step).name for step in (2, 3)), "notes.txt"]


def test_a_folder_in_place_of_the_locked_one_loses_no_checkpoint(tmp_path):
    """Another user who can rename the folder could put a link there, to checkpoints of the user's other run."""
    fnn.storage.save_checkpoint(tmp_path / "precious", 1, TREE)
    before = contents(tmp_path / "precious")
    with CheckpointWriter(tmp_path / "run") as writer:
        for step in (1, 2, 3):
            writer.save(step, TREE)
            if step == 1:
                (tmp_path / "run").rename(tmp_path / "away")
                (tmp_path / "run").symlink_to(tmp_path / "precious")
    assert contents(tmp_path / "precious") == before
    assert steps(tmp_path / "away") == [2, 3]


def test_threads_read_while_another_one_writes(tmp_path):
    """The folder is open as long as one of them needs it, and each reads its listing from the start."""
    with CheckpointWriter(tmp_path) as writer:
        writer.save(1, TREE)
        with ThreadPoolExecutor(4) as threads:
            reading = [threads.submit(newest, tmp_path) for _ in range(60)]
            for step in range(2, 30):
                writer.save(step, TREE)
            found = [future.result().step for future in reading]
    assert found[0] >= 1
    assert set(found) <= set(range(1, 30))
