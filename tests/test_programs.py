"""The programs in examples/programs: each does what it says, and uses public names only."""

import ast
import json
import runpy
from pathlib import Path

import pytest
from tests.other_process import python

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
    return json.loads(python(TWO_DEVICES, path).stdout.splitlines()[-1])


CHECKS = {
    "triplets": lambda r: (r["right"] > 0.95, r["loss"] < 0.1),
    "u_net": lambda r: [r["accuracy"] > 0.9],  # 84% of the pixels are outside of the disks
    "maml": lambda r: (r["after"] < 0.5, r["after"] < 0.4 * r["before"]),
    "neural_ode": lambda r: [r["error"] < 0.03 * r["variance"]],
    "dp_sgd": lambda r: [r["accuracy"] > 0.9],
    "hypernetwork": lambda r: [r["error"] < 0.02 * r["variance"]],
    # The share is two numbers for each row and column of the three weights.
    "lora": lambda r: (r["before"] < 0.85, r["after"] > 0.95, r["share"] == pytest.approx(520 / 4482)),
    "reinforce": lambda r: (r["first"] < -14, r["last"] > r["best"] - 0.5),
    "several_inputs": lambda r: (
        *(r["test_accuracy"] > 0.98, r["test_price_error"] < 0.25),
        r["test_loss"] == pytest.approx(r["test_kind"] + r["test_price"], rel=1e-4),
    ),
    "sharding": lambda r: (r["devices"] == 2, r["loss"] < 0.4, r["difference"] < 1e-5),
    "stream": lambda r: [r["error"] < 0.2 * r["variance"]],
    "mixture_of_experts": lambda r: (r["error"] < 0.3 * r["alone"], 0.5 < r["sure"] <= 1),
    "graph_network": lambda r: [r["error"] < 0.02 * r["variance"]],
}


@pytest.mark.example
@pytest.mark.parametrize("name", NAMES)
def test_program(name):
    result = run(PROGRAMS / f"{name}.py")
    assert all(CHECKS[name](result)), result


def test_only_public_names():
    for name in NAMES:
        for node in ast.walk(ast.parse((PROGRAMS / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("functional_nn")
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
