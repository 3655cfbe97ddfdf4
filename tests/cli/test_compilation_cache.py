"""Compiled programs that are kept for the next start."""

import os
import subprocess
import sys
import warnings

import click
import pytest

from functional_nn.cli import compilation_cache
from functional_nn.cli.train import train as train_command

FOLDER = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A process that has not imported JAX and has no cache yet; gives the folder that it would use."""
    monkeypatch.delitem(sys.modules, "jax")
    for name in (FOLDER, "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # so that it is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr("warnings.showwarning", lambda *arguments: None)
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path))
    return tmp_path / "functional_nn" / "compiled"


def use(wanted=True):
    compilation_cache.use_compilation_cache(click.Context(train_command), None, wanted)


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
    monkeypatch.setattr(compilation_cache, "MOST_FILES", 2)
    bare.mkdir(parents=True, mode=0o700)
    for age, name in enumerate(("new", "middle", "old")):
        (bare / f"{name}-cache").touch()
        os.utime(bare / f"{name}-cache", (1e9 - age, 1e9 - age))
    use()
    assert sorted(path.name for path in bare.iterdir()) == ["middle-cache", "new-cache"]


def test_a_file_of_another_name_does_not_keep_a_damaged_program(bare):
    bare.mkdir(parents=True, mode=0o700)
    for name in ("x-cache", "jit_f-0123-cache", "jit_g-0123-cache"):
        (bare / name).touch()
    use()
    warnings.showwarning("Error reading persistent compilation cache entry for 'jit_f'", UserWarning, "file", 1)
    assert sorted(path.name for path in bare.iterdir()) == ["jit_g-0123-cache", "x-cache"]


@pytest.mark.processes
def test_fault_29_programs_are_found_again_and_damaged_ones_made_again_without_a_word(tiny, tmp_path):
    log = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_LOG_COMPILES": "true"}
    environment = {**os.environ, **log, "FUNCTIONAL_NN_CACHE": str(tmp_path)}
    folder = tmp_path / "functional_nn" / "compiled"

    def train():
        """The accuracy, and how many programs JAX found."""
        command = [sys.executable, "-m", "functional_nn", *tiny, "--quiet"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        assert "UserWarning" not in ended.stderr
        return ended.stdout.split(" (")[0], ended.stderr.count("Persistent compilation cache hit")

    accuracy, hits = train()
    assert hits == 0
    programs = sorted(folder.glob("*-cache"))
    assert len(programs) >= 5
    sizes = {path: path.stat().st_size for path in programs}
    os.truncate(programs[0], sizes[programs[0]] // 2)
    assert train()[0] == accuracy
    assert train() == (accuracy, len(programs))
    assert {path: path.stat().st_size for path in sizes} == pytest.approx(sizes, rel=0.05)
