"""The atlas: every finding is real, its two lines were run, and the pages are made of what was found."""

import json
from pathlib import Path

import jax
import mpmath as mp
import numpy as np
import pytest
from click.testing import CliRunner

import functional_nn as fnn
from functional_nn.cli.atlas import atlas as command
from functional_nn.gradients.atlas import run as running
from functional_nn.gradients.atlas.catalog import chosen, entries
from functional_nn.gradients.atlas.regimes import regimes
from functional_nn.gradients.atlas.survey import Survey, is_wrong, run_reproduction, still_wrong, survey
from functional_nn.reports.pages.atlas import QUANTITIES, worst_findings

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "atlas"
ATLASES = [json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("jax-*.json"))]
BY_MPMATH = {
    "jax.nn.sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "jax.nn.softplus": lambda x: mp.log1p(mp.exp(x)),
    "jax.nn.silu": lambda x: x / (1 + mp.exp(-x)),
    "jax.nn.log_sigmoid": lambda x: -mp.log1p(mp.exp(-x)),
    "jax.nn.elu": lambda x: x if x > 0 else mp.expm1(x),
    "jax.nn.soft_sign": lambda x: x / (1 + abs(x)),
    "jax.nn.squareplus": lambda x: (x + mp.sqrt(x * x + 4)) / 2,
    "jax.nn.mish": lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
    "jnp.expm1": mp.expm1,
    "jnp.tanh": mp.tanh,
    "jnp.arcsinh": mp.asinh,
    "jnp.arctan": mp.atan,
    "jnp.arctanh": mp.atanh,
    "jnp.hypot(x, 1)": lambda x: mp.sqrt(x * x + 1),
    "jnp.sqrt(1 + x²)": lambda x: mp.sqrt(x * x + 1),
    "jax.scipy.special.digamma": mp.digamma,
    "jax.scipy.special.gammaln": mp.loggamma,
}
"""Functions of the atlas, written without JAX."""


def findings_of(atlas):
    return [finding for function in atlas["functions"] for finding in function["findings"]]


def test_there_is_an_atlas_of_two_versions():
    assert len(ATLASES) == 2
    for atlas in ATLASES:
        derivatives = [f for f in findings_of(atlas) if f["worst"]["quantity"] != "value"]
        assert len(derivatives) >= 20
        assert len({finding["function"] for finding in derivatives}) >= 20
        for finding in findings_of(atlas):
            assert finding["code"].count("\n") == 1
            assert finding["printed"]


@pytest.mark.slow
@pytest.mark.parametrize("atlas", ATLASES, ids=lambda atlas: atlas["jax"])
def test_exact_numbers_are_those_of_mpmath_by_another_method(atlas):
    """mpmath differentiates formulas written for it: what is called exact is right, and what was printed is wrong."""
    checked = 0
    for finding in findings_of(atlas):
        worst = finding["worst"]
        if finding["function"] not in BY_MPMATH:
            continue
        order = QUANTITIES.index(worst["quantity"])
        with mp.workdps(650):
            x = mp.mpf(worst["point"])
            step = (abs(x) if x else 1) * mp.mpf(10) ** -110
            exact = mp.re(mp.diff(BY_MPMATH[finding["function"]], x, order, h=step))
        assert float(worst["exact"]) == pytest.approx(float(exact), rel=1e-12, abs=1e-320), finding
        assert is_wrong(finding["printed"], float(exact), worst["dtype"]), finding
        checked += 1
    assert checked >= 20


@pytest.mark.parametrize("atlas", ATLASES, ids=lambda atlas: atlas["jax"])
def test_reproductions_print_wrong_numbers(atlas):
    """Not the same ones on every processor, since compilers choose other instructions."""
    if atlas["jax"] != jax.__version__:
        pytest.skip(f"made with JAX {atlas['jax']}")
    assert [finding["code"] for finding in worst_findings(atlas)[:8] if not still_wrong(finding)] == []


def test_a_survey_finds_the_tail_of_sigmoid_and_nothing_in_exp():
    sigmoid, exp = (survey(entry, seconds=0.5) for entry in chosen(("jax.nn.sigmoid", "jnp.exp")))
    found = {(finding.worst.quantity, finding.regime) for finding in sigmoid.findings}
    assert {("gradient", "tails"), ("second derivative", "tails")} <= found
    for finding in sigmoid.findings:
        assert run_reproduction(finding.code) == finding.printed
    assert exp.findings == ()
    assert exp.evaluations > 0
    json.dumps(sigmoid.to_dict(), allow_nan=False)


def test_what_has_no_rule_is_listed_with_the_operation(monkeypatch):
    (entry,) = chosen(("jnp.exp",))
    found = survey(entry._replace(code="lambda x: jax.pure_callback(lambda x: x, x, x)"), seconds=0.1)
    assert found.rows == ()
    assert "pure_callback" in found.note


def test_every_point_is_in_one_regime():
    random = np.random.default_rng(0)
    for size in (1, 3):
        points = random.normal(size=(200, size)) * 10.0 ** random.uniform(-8, 8, (200, 1))
        masks = list(regimes(points).values())
        assert (np.sum(masks, 0) == 1).all()


def test_names_and_modules():
    names = {entry.name for entry in entries()}
    assert len(names) >= 100
    assert {entry.name for entry in chosen(("jax.nn",))} < names
    assert [entry.name for entry in chosen(("softmax", "jax.nn.softmax"))] == ["jax.nn.softmax"]
    with pytest.raises(fnn.InputError, match=r"Did you mean jax\.nn\.gelu"):
        chosen(("jax.nn.gelo",))


def in_this_process(entries, *, seconds, progress):
    found = [survey(entry, seconds=seconds) for entry in entries]
    for result in found:
        progress(result)
    return found


def test_the_command_writes_a_page_a_picture_and_json_and_compares(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "run_atlas", in_this_process)
    out, file = tmp_path / "jax-new.md", tmp_path / "jax-new.json"
    arguments = ["jax.nn.sigmoid", "jnp.exp", "--seconds-per-function", "0.6", "--out", str(out), "--json", str(file)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = out.read_text("utf-8")
    assert "### `jax.nn.sigmoid`" in page
    assert "f = jax.nn.sigmoid\nprint(jax.grad(" in page
    assert "| `jnp.exp` |" in page
    assert "(jax-new.png)" in page
    assert (tmp_path / "jax-new.png").stat().st_size > 1000
    older = json.loads(file.read_text("utf-8"))
    older["functions"][0]["findings"] = []
    (tmp_path / "jax-old.json").write_text(json.dumps(older | {"jax": "0.0"}), "utf-8")
    arguments = ["--compare", str(tmp_path / "jax-old.json"), str(file)]
    compared = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "## From JAX 0.0 to" in compared.output
    assert "- `jax.nn.sigmoid`: gradient in float" in compared.output.partition("New findings")[2]


def test_a_page_does_not_take_the_name_of_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "run_atlas", in_this_process)
    with pytest.raises(fnn.InputError, match="--out: expected a file for a page in Markdown"):
        CliRunner().invoke(command, ["jnp.exp", "--out", str(tmp_path / "page.png")], catch_exceptions=False)
    arguments = ["jax.nn.sigmoid", "--seconds-per-function", "0.3", "--out", "/dev/null"]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    assert not Path("/dev/null.png").exists()


@pytest.mark.parametrize("text", ["[1]", "[" * 200_000, '{"jax": 1, "optax": 1, "functions": 5}'])
def test_fault_50_a_file_that_is_no_atlas_is_refused(tmp_path, text):
    (tmp_path / "old.json").write_text(text, "utf-8")
    arguments = ["--compare", str(tmp_path / "old.json"), str(tmp_path / "old.json")]
    with pytest.raises(fnn.InputError, match=r"old\.json: expected a file that atlas --json wrote"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.mark.parametrize("more", [["jax.nn.gelu"], ["--json", "new.json"], ["--seconds-per-function", "1"]])
def test_fault_82_what_a_comparison_would_ignore_is_refused(more):
    file = str(FOLDER / "jax-0.10.json")
    result = CliRunner().invoke(command, ["--compare", file, file, *more])
    assert result.exit_code == 2
    assert "--compare does not search: leave out" in result.output


@pytest.mark.slow
def test_a_function_that_does_not_return_ends_with_its_process(monkeypatch):
    monkeypatch.setattr(running, "PATIENCE", 15.0)
    exp, sin = chosen(("jnp.exp", "jnp.sin"))
    endless = exp._replace(code="lambda x: jax.lax.while_loop(lambda x: x == x, lambda x: x + 0 * x, x)")
    found = running.run_atlas([endless, sin], seconds=0.5)
    assert "did not return" in found[0].note
    assert isinstance(found[1], Survey)
    assert found[1].rows
