"""Everything public is compared, passes, and would not pass with an error in it."""

import json
import operator
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from tests.contracts.composed import others_are_slow

import functional_nn as fnn
from functional_nn.cli.verify import verify as command
from functional_nn.gradients import verify as verification
from functional_nn.gradients.cases import LayerCase
from functional_nn.gradients.compare.comparison import TOLERANCES

EVERY_RUN = ("embedding", "batch_norm", "rnn_cell", "softmax", "sigmoid in ULP", "mean_absolute_error")
"""One subject of each kind, with integers, a state and several inputs.

Other tests here have a layer that draws and a penalty, and ``contracts/test_gradients.py`` compares all formulas.
"""


@pytest.mark.parametrize("name", **others_are_slow(verification.quick_subjects(), EVERY_RUN))
def test_every_public_formula_passes_the_quick_comparison(name):
    verification.check_subject(name, quick=True).raise_if_failed()


@pytest.mark.slow
def test_the_full_comparison_passes():
    report = fnn.verify(quick=False, jobs=2)
    report.raise_if_failed()
    assert len(report.verdicts) >= 5000
    assert report.mutants >= 1000


def test_processes_take_no_modules_from_the_working_directory(tmp_path, monkeypatch):
    """A stranger may have made it."""
    (tmp_path / "multiprocessing.py").write_text("raise SystemExit('a module of a stranger')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verification, "check_subject", operator.is_)  # works without an import of JAX
    monkeypatch.setattr(verification, "_start_process", os.getpid)
    before = dict(os.environ)
    assert dict(verification._reports(["l1", "l2"], True, 2)) == {"l1": False, "l2": False}
    assert os.environ == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the child of this test is a fork")
def test_a_process_ends_when_its_parent_was_killed():
    code = """
import multiprocessing, time
from functional_nn.gradients import verify

def work():
    verify._start_process()
    print("working", flush=True)
    time.sleep(100)

multiprocessing.get_context("fork").Process(target=work).start()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"working\n"
        parent.kill()
        assert parent.communicate(timeout=30) == (b"", None)  # at its end, the child closes the other end of the pipe


def test_a_quick_run_has_every_public_name_that_is_not_composed():
    quick = set(map(verification.public_name, verification.quick_subjects()))
    assert quick == set(map(verification.public_name, verification.subjects())) - set(verification.COMPOSED)
    assert {"gru", "rnn", "parallel", "gru_cell", "cross_entropy"} <= quick


def dense_with(error):
    """``dense`` whose hand-derived weight gradient goes through ``error``."""
    right = fnn.dense(3)

    def backward(residuals, y_bar):
        params_bar, x_bar = right.backward(residuals, y_bar)
        return {**params_bar, "weight": error(params_bar["weight"])}, x_bar

    return LayerCase("dense", right._replace(backward=backward), (5,))


def test_a_planted_error_is_found_and_located(monkeypatch):
    monkeypatch.setattr(verification, "LAYERS", [dense_with(lambda bar: bar.at[2, 1].multiply(1 + 1e-6))])
    report = verification.check_subject("dense", quick=True)
    assert {verdict.leaf for verdict in report.failures} == {"weight"}
    first = report.failures[0]
    assert first.automatic_error < TOLERANCES["float64"]
    assert first.error > 1e-8
    assert f"dense: weight, element {first.index}" in report.sentence
    assert first.index == (2, 1)


def test_a_full_subject_has_every_kind_type_transform_and_regime():
    report = fnn.verify(["dropout"], quick=False)
    report.raise_if_failed()
    cells = {(v.kind, v.dtype, v.transform) for v in report.verdicts}
    assert {(("vjp"), dtype, way) for dtype in verification.TYPES for way in ("jit", "vmap", "scan")} <= cells
    assert {"vjp", "second order"} == {v.kind for v in report.verdicts}
    assert {"normal", "zeros", "evaluation"} < {v.regime for v in report.verdicts}
    assert all(verdict.reference for verdict in report.verdicts)


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    result = CliRunner().invoke(
        command, ["l2", "--jobs", "1", "--json", str(tmp_path / "v.json")], standalone_mode=False
    )
    assert result.return_value == 0, result.output
    assert "dense_0/weight" in result.output
    written = json.loads((tmp_path / "v.json").read_text())
    numbers = {name: written[name] for name in ("cells", "passed", "failed", "inconclusive")}
    assert numbers["cells"] == numbers["passed"] > 0
    assert written["mutants"] > 0
    assert {"mutants_killed", "skipped", "worst", "seconds"} <= set(written)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(fnn.InputError, match="Did you mean dense"):
        fnn.verify(["dence"])
