"""The programs in examples/programs: each does what it says, and uses public names only."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "examples" / "programs"
NAMES = sorted(path.stem for path in PROGRAMS.glob("*.py"))


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


def check_hypernetwork(result):
    assert result["error"] < 0.02 * result["variance"]


def check_lora(result):
    assert result["before"] < 0.85
    assert result["after"] > 0.95
    assert result["share"] == pytest.approx(520 / 4482)  # two numbers for each row and column of the three weights


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


def check_mixture_of_experts(result):
    assert result["error"] < 0.3 * result["alone"]
    assert 0.5 < result["sure"] <= 1


def check_graph_network(result):
    assert result["error"] < 0.02 * result["variance"]


CHECKS = {name.removeprefix("check_"): value for name, value in globals().items() if name.startswith("check_")}


@pytest.mark.example
@pytest.mark.parametrize("name", NAMES)
def test_program(name):
    CHECKS[name](run(PROGRAMS / f"{name}.py"))


def test_only_public_names():
    for name in NAMES:
        for node in ast.walk(ast.parse((PROGRAMS / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("functional_nn")
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
