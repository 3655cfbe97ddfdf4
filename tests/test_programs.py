"""The programs in examples/programs: each does what it says, in at most as many lines as with Equinox and Optax."""

import ast
import io
import json
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


TWO_DEVICES = """
import json, runpy, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
print(json.dumps(runpy.run_path(sys.argv[1])["main"](quick=True)))
"""


def run(path: Path) -> dict[str, float]:
    """What a program returns. The one that needs two devices runs in a process of its own."""
    if path.stem != "sharding":
        return runpy.run_path(str(path))["main"](quick=True)
    command = [sys.executable, "-c", TWO_DEVICES, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def check_gan(result):
    assert result["error_of_mean"] < 0.3
    assert result["error_of_deviation"] < 0.3


def check_triplets(result):
    assert result["right"] > 0.95
    assert result["loss"] < 0.1


def check_u_net(result):
    assert result["accuracy"] > 0.9  # 84% of the pixels are outside of the disks


def check_maml(result):
    assert result["after"] < 0.5
    assert result["after"] < 0.4 * result["before"]


def check_neural_ode(result):
    assert result["error"] < 0.03 * result["variance"]


def check_dp_sgd(result):
    assert result["accuracy"] > 0.9


def check_calibrated_ensemble(result):
    assert result["ensemble_loss"] < result["one_loss"]
    assert result["calibrated_loss"] < result["ensemble_loss"]
    assert result["calibrated"] < 0.7 * result["one"]


def check_hypernetwork(result):
    assert result["error"] < 0.02 * result["variance"]


def check_lora(result):
    assert result["before"] < 0.85
    assert result["after"] > 0.95
    assert result["share"] == pytest.approx(520 / 4482)  # two numbers for each row and column of the three weights


def check_neural_tangent_kernel(result):
    assert result["distance"] < 0.002  # the closed form and gradient descent agree
    assert result["error"] < 0.3 * result["spread"]


def check_reinforce(result):
    assert result["first"] < -14
    assert result["last"] > result["best"] - 0.5


def check_several_inputs(result):
    assert result["test_accuracy"] > 0.98
    assert result["test_price_error"] < 0.25
    assert result["test_loss"] == pytest.approx(result["test_kind"] + result["test_price"], rel=1e-4)


def check_sharding(result):
    assert result["devices"] == 2
    assert result["loss"] < 0.4
    assert result["difference"] < 1e-5


def check_stream(result):
    assert result["error"] < 0.2 * result["variance"]


def check_stopping(result):
    assert 1 < result["epochs"] < 20
    assert result["stopped_at"] > 0.9
    assert result["same_bits"]


def check_mixture_of_experts(result):
    assert result["error"] < 0.3 * result["alone"]
    assert 0.5 < result["sure"] <= 1


def check_graph_network(result):
    assert result["error"] < 0.02 * result["variance"]


CHECKS = {name.removeprefix("check_"): value for name, value in globals().items() if name.startswith("check_")}


@pytest.mark.example
@pytest.mark.parametrize("name", NAMES)
def test_program(name):
    CHECKS[name](run(OURS / f"{name}.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equinox_computes_the_same(name):
    """The same checks, so that the lines of programs are compared that do the same."""
    pytest.importorskip("equinox")
    CHECKS[name](run(THEIRS / f"{name}.py"))


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
    table = (ROOT / "docs" / "how_to" / "programs.md").read_text("utf-8")
    (row,) = (line for line in table.splitlines() if f"(../../examples/programs/{name}.py)" in line)
    assert row.endswith(f"| {ours} | [{theirs}](../../benchmarks/programs_equinox/{name}.py) |")


def test_equinox_has_the_same_programs():
    assert sorted(path.stem for path in THEIRS.glob("*.py")) == NAMES


def test_only_public_names():
    for name in NAMES:
        for node in ast.walk(ast.parse((OURS / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("functional_nn")
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
