"""Compiled programs that are kept for the next start."""

import os
import sys
import warnings
from contextlib import contextmanager

import click
import pytest
from jax._src import compilation_cache

from functional_nn.cli import startup
from functional_nn.cli.train import train as train_command

FOLDER = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A process that has not imported JAX and has no cache yet; gives the folder that it would use."""
    monkeypatch.delitem(sys.modules, "jax")
    for name in (FOLDER, "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # so that it is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path))
    with warnings.catch_warnings():
        yield tmp_path / "functional_nn" / "compiled"


def use(wanted=True):
    startup.use_compilation_cache(click.Context(train_command), None, wanted)


@contextmanager
def command(folder):
    """A command from its start to its end; gives the names of the programs that JAX would find."""
    os.environ.pop(FOLDER, None)
    with click.Context(train_command) as context:
        startup.use_compilation_cache(context, None, True)
        yield {path.name for path in folder.glob("*-cache")}


def compiled(text):
    """A program as JAX writes it."""
    return compilation_cache.compress_executable(text.encode())


def found(folder, *new):
    """What a command found that wrote these new programs."""
    with command(folder) as names:
        for name in new:
            (folder / name).write_bytes(compiled(name))
    return names


def test_it_lies_in_the_cache_folder_for_its_owner_alone(bare):
    use()
    assert os.environ[FOLDER] == str(bare)
    assert bare.stat().st_mode & 0o777 == 0o700


def test_off_by_flag(bare):
    use(wanted=False)
    assert FOLDER not in os.environ
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert not bare.exists()


def test_a_folder_of_the_users_choice_stays(bare, monkeypatch):
    monkeypatch.setenv(FOLDER, "elsewhere")
    use()
    assert os.environ[FOLDER] == "elsewhere"
    assert not bare.exists()


def test_a_file_in_its_place(bare):
    bare.parent.mkdir()
    bare.touch()
    use()
    assert FOLDER not in os.environ


def test_only_the_newest_programs_are_kept(bare, monkeypatch):
    monkeypatch.setattr(startup, "MOST_FILES", 2)
    found(bare, "new-cache", "middle-cache", "old-cache")
    for age, name in enumerate(("new", "middle", "old")):
        os.utime(bare / f"{name}-cache", (1e9 - age, 1e9 - age))
    assert found(bare) == {"middle-cache", "new-cache"}


def test_programs_that_are_damaged_or_unknown_are_removed_before_jax_reads_them(bare):
    assert found(bare, "f-cache", "g-cache") == set()
    (bare / "f-cache").write_text("f-cache as compilex")
    (bare / "left-by-a-killed-process-cache").write_text("whole or not")
    with command(bare) as names:
        assert names == {"g-cache"}
        (bare / "f-cache").write_bytes(compiled("again, to other bytes"))
    assert found(bare) == {"f-cache", "g-cache"}


@pytest.mark.parametrize("damaged", ["", "{}", '{"f-cache": 1}', None])
def test_without_the_list_of_checksums_no_program_is_used(bare, damaged):
    found(bare, "f-cache")
    if damaged is None:
        (bare / startup.CHECKSUMS).unlink()
    else:
        (bare / startup.CHECKSUMS).write_text(damaged)
    assert found(bare, "f-cache") == set()
    assert found(bare) == {"f-cache"}


def test_a_command_that_starts_while_another_runs_harms_neither(bare):
    with command(bare):
        (bare / "f-cache").write_bytes(compiled("by the first"))
        assert found(bare, "f-cache", "g-cache") == set()
        (bare / "h-cache").write_bytes(compiled("by the first"))
    assert found(bare) == {"f-cache", "g-cache", "h-cache"}


def test_half_written_programs_of_other_processes_are_not_recorded(bare):
    with command(bare):
        (bare / "cut-cache").write_bytes(compiled("by another")[:-5])
        (bare / "empty-cache").touch()
    assert found(bare) == set()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("umask", [0o000, 0o002])
def test_what_others_may_write_is_not_used_and_any_umask_works(bare, umask):
    before = os.umask(umask)
    try:
        found(bare, "f-cache", "g-cache")
        (bare / "g-cache").chmod(0o666)
        assert found(bare) == {"f-cache"}
    finally:
        os.umask(before)
