"""The command with closed standard streams, with a reader that has gone, and with too little memory."""

import os
import subprocess
import sys

import pytest

from functional_nn import cli
from functional_nn.storage.run_folder import verify_run_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="streams of POSIX")


def shell(command, *arguments):
    """A line of the shell, in which "$@" is the command with these arguments."""
    started = ["sh", "-c", command, "sh", sys.executable, "-m", "functional_nn", *map(str, arguments)]
    return subprocess.run(started, capture_output=True, text=True, timeout=120)


@pytest.mark.processes
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_good_as_one_that_nobody_reads(tmp_path, tiny, closed):
    ended = shell(f'"$@" {closed}', *tiny, "--quiet", "--out", tmp_path / "run")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert bool(ended.stdout) == (">&-" not in closed.split())
    verify_run_folder(tmp_path / "run")


def test_letters_that_the_terminal_lacks_become_escapes():
    code = "import sys; from functional_nn import cli; cli.run = lambda _: print('Größe'); cli.main()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("Gr\\xf6\\xdfe\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_a_reader_that_has_gone_ends_the_command_quietly_as_sigpipe_would(arguments):
    ended = shell('{ "$@"; echo $? >&2; } | true', *arguments)
    assert ended.stderr == "141\n"


@pytest.mark.processes
def test_a_reader_that_goes_during_training_ends_it(tmp_path, tiny):
    ended = shell('{ "$@"; echo $? >&2; } | head -n 1', *tiny, "--epochs", "1000", "--out", tmp_path / "run")
    assert ended.stderr == "141\n"
    assert len(ended.stdout.splitlines()) == 1
    metrics = tmp_path / "run" / "metrics.jsonl"
    # The reader may be gone before the first epoch is over, and then nothing has been recorded yet.
    assert not metrics.exists() or len(metrics.read_text().splitlines()) < 10


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9 GB"),
        RuntimeError("can't start new thread"),
        ImportError("libjax_common.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_a_sentence(monkeypatch, capsys, tiny, error):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("functional_nn.training.fit.fit", fails)
    assert cli.run([*tiny, "--quiet"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a mistake in the package"), ImportError("no such module")])
def test_other_errors_keep_their_traceback(monkeypatch, tiny, error):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("functional_nn.training.fit.fit", fails)
    with pytest.raises(type(error), match=str(error)):
        cli.run([*tiny, "--quiet"])
