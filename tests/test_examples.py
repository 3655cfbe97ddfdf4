"""The examples run, say what they should, and draw what they say."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of other tests: Optax mixes types of its own accord."""


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_neuron(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "01_neuron.py", "--quick", "--out", tmp_path / "neuron.png")
    printed = capsys.readouterr().out
    assert "of the points on their side" in printed
    assert (tmp_path / "neuron.png").read_bytes().startswith(b"\x89PNG")


def test_mnist(monkeypatch, capsys):
    run(monkeypatch, "02_mnist.py", "--quick")
    printed = capsys.readouterr().out
    assert "dense_0/weight" in printed
    assert "epoch 2: loss" in printed


def test_every_example_has_a_test():
    tested = Path(__file__).read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested
