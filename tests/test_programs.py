"""The programs in examples/programs: each does what it says, in at most as many lines as with Equinox and Optax."""

import ast
import io
import re
import runpy
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS, THEIRS = ROOT / "examples" / "programs", ROOT / "benchmarks" / "programs_equinox"
NAMES = sorted(path.stem for path in OURS.glob("*.py"))
SPACE = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of other tests: Optax mixes types of its own accord."""


def run(name: str) -> dict[str, float]:
    return runpy.run_path(str(OURS / f"{name}.py"))["main"](quick=True)


def test_gan():
    result = run("gan")
    assert result["error_of_mean"] < 0.3
    assert result["error_of_deviation"] < 0.3


def test_triplets():
    result = run("triplets")
    assert result["right"] > 0.95
    assert result["loss"] < 0.1


def test_u_net():
    assert run("u_net")["accuracy"] > 0.9  # 0.85 of the pixels are outside of a disk


def test_maml():
    result = run("maml")
    assert result["after"] < 0.5
    assert result["after"] < 0.4 * result["before"]


def test_neural_ode():
    result = run("neural_ode")
    assert result["error"] < 0.03 * result["variance"]


def test_dp_sgd():
    assert run("dp_sgd")["accuracy"] > 0.9


def test_calibrated_ensemble():
    result = run("calibrated_ensemble")
    assert result["ensemble_loss"] < result["one_loss"]
    assert result["calibrated_loss"] < result["ensemble_loss"]
    assert result["calibrated"] < 0.7 * result["one"]


def test_hypernetwork():
    result = run("hypernetwork")
    assert result["error"] < 0.02 * result["variance"]


def test_lora():
    result = run("lora")
    assert result["before"] < 0.85
    assert result["after"] > 0.95
    assert result["share"] == pytest.approx(520 / 4482)  # two numbers for each row and column of three weights


def test_neural_tangent_kernel():
    result = run("neural_tangent_kernel")
    assert result["distance"] < 0.01  # the closed form and gradient descent agree
    assert result["error"] < 0.8 * result["spread"]


def test_reinforce():
    result = run("reinforce")
    assert result["first"] < -14
    assert result["last"] > result["best"] - 0.5


def test_several_inputs():
    result = run("several_inputs")
    assert result["test_accuracy"] > 0.98
    assert result["test_price_error"] < 0.25
    assert result["test_loss"] == pytest.approx(result["test_kind"] + result["test_price"])


def test_sharding():
    """In a process of its own, which has two devices."""
    command = [sys.executable, str(OURS / "sharding.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loss, difference = re.fullmatch(r"2 devices: loss (\S+); .* differ from those of one device by (\S+)\n", printed).groups()
    assert float(loss) < 0.2
    assert float(difference) < 1e-5


def test_stopping():
    result = run("stopping")
    assert 1 < result["epochs"] < 20
    assert result["stopped_at"] > 0.9
    assert result["same_bits"]


def test_mixture_of_experts():
    result = run("mixture_of_experts")
    assert result["error"] < 0.3 * result["alone"]
    assert 0.5 < result["sure"] <= 1


def test_graph_network():
    result = run("graph_network")
    assert result["error"] < 0.02 * result["variance"]


def test_every_program_has_a_test():
    for name in NAMES:
        assert f"test_{name}" in globals()


def lines_of_code(path: Path) -> int:
    """The number of lines without docstrings, comments and blank lines."""
    text = path.read_text("utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for token in tokens if token.type not in SPACE for line in range(token.start[0], token.end[0] + 1)}
    return len(code - docstrings)


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_code(name):
    ours, theirs = lines_of_code(OURS / f"{name}.py"), lines_of_code(THEIRS / f"{name}.py")
    assert ours <= theirs
    row = rf"\| \[[^|]+\]\(\.\./examples/programs/{name}\.py\) \|.*\| {ours} \| \[{theirs}\]\(\.\./benchmarks/programs_equinox/{name}\.py\) \|"
    assert re.search(row, (ROOT / "docs" / "programs.md").read_text("utf-8")), f"the row of {name}: {ours}, {theirs}"


def test_equinox_has_the_same_programs():
    assert sorted(path.stem for path in THEIRS.glob("*.py")) == NAMES


def test_only_public_names():
    for name in NAMES:
        for node in ast.walk(ast.parse((OURS / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("functional_nn")
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
