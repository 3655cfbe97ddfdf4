"""Help, completion, and what the commands print about themselves."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from functional_nn.cli import COMMANDS, command

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def helped(monkeypatch, capsys, run, *arguments) -> str:
    """What a program prints that ends with status 0 once it is asked for help."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_of_the_command(name):
    arguments = [name, "--help"] if name else ["--help"]
    result = CliRunner().invoke(command, arguments, prog_name="functional-nn")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: functional-nn {name}")
    chosen = command.get_command(click.Context(command), name) if name else command
    for parameter in chosen.params:
        assert parameter.opts[0] in result.output or isinstance(parameter, click.Argument)


@pytest.fixture
def from_the_checkout(monkeypatch):
    """The benchmarks are a package beside the tests, and none that is installed."""
    monkeypatch.syspath_prepend(ROOT)


def test_of_the_benchmarks(monkeypatch, capsys, from_the_checkout):
    main = importlib.import_module("benchmarks.__main__")
    listed = helped(monkeypatch, capsys, main.main).partition("{")[2].partition("}")[0].split(",")
    assert {"w1", "all", "tables"} <= set(listed)
    for arguments in ([], *([name] for name in listed)):
        said = helped(monkeypatch, capsys, main.main, *arguments)
        assert said.startswith("usage: python -m benchmarks")
        assert "%%" not in said


@pytest.mark.parametrize("name", EXAMPLES)
def test_of_the_examples(monkeypatch, capsys, name):
    path = str(ROOT / "examples" / name)
    said = helped(monkeypatch, capsys, lambda: runpy.run_path(path, run_name="__main__"))
    assert said.startswith("usage:")
    assert "--quick" in said


@pytest.mark.parametrize(
    ("words", "begun", "completed"),
    [
        ([], "tr", {"train"}),
        (["train", "--optimizer"], "adagr", {"adagrad"}),
        (["bench"], "--det", {"--details"}),
    ],
)
def test_a_shell_completes(words, begun, completed):
    found = BashComplete(command, {}, "functional-nn", "_FUNCTIONAL_NN_COMPLETE").get_completions(words, begun)
    assert {item.value for item in found} == completed
