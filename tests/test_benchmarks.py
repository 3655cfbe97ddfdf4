"""The benchmarks' own side imports names that still exist, and the errors in the tails are within their limits."""

import json
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

PEERS = sorted((Path(__file__).resolve().parents[1] / "benchmarks" / "peers").glob("*functional_nn.py"))


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.stem)
def test_the_package_s_own_peers_import(path):
    assert import_module(f"benchmarks.peers.{path.stem}").__doc__


def test_a_page_is_not_made_from_results_of_another_file(monkeypatch, tmp_path):
    """Nothing is measured here, so the file does not even exist: a page could not be made from it."""
    from benchmarks import records, targets
    from benchmarks.growth import compare as growth

    monkeypatch.setattr(records, "versions", lambda libraries: {})
    monkeypatch.setattr(targets, "device_of", lambda chip: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if matplotlib were installed
    console, results = Console(quiet=True), tmp_path / "none.jsonl"
    targets.compile_all(console, [], [], results)
    growth.compare(console, [], 1, results, quick=False)
    assert records.is_of_documents(records.RESULTS / "growth.jsonl")


@pytest.mark.parametrize("peer", ["functional_n", "haiku"])
def test_the_baseline_of_a_race_is_one_of_its_peers(monkeypatch, capsys, peer):
    main = import_module("benchmarks.__main__")
    arguments = ["w1", "--data-dir", "none", "--peers", "functional_nn,stax", "--baseline", peer]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        main.parse_arguments()
    assert "--baseline: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "flag", "expected"),
    [
        (["w1", "--data-dir", "none", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["compile", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["accelerator", "--out", "new", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["tails", "--out", "folder"], "--out", "expected a file, got the folder"),
        (["tails", "--json", "folder"], "--json", "expected a file, got the folder"),
        (["all", "--data-dir", "none", "--results", "file"], "--results", "expected a folder, got the file"),
        (["tables", "--results", "file"], "--results", "expected a folder, got the file"),
    ],
)
def test_results_that_could_not_be_written_are_refused_before_the_measurement(
    monkeypatch, capsys, tmp_path, arguments, flag, expected
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        import_module("benchmarks.__main__").parse_arguments()
    assert f"argument {flag}: {expected} {arguments[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_errors_of_jax_are_those_of_its_own_functions(dtype):
    """They are the same functions as the package's, but other programs: ``jax.nn`` and Optax have their own."""
    from benchmarks.tails.cases import CASES, IN_JAX

    from functional_nn.activations import ACTIVATIONS

    assert IN_JAX.keys() == ACTIVATIONS.keys()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for case in CASES:
            if case.plain is None:
                continue
            for point in (-5.5, -0.25, 0.75, 3.5) if case.size is None else ((0.5, -2.0, 1.0),):
                x = jnp.array(point, dtype)
                if bool(jnp.isfinite(case.ours(x)).all()):
                    np.testing.assert_allclose(case.plain(x), case.ours(x), rtol=1e-4, atol=1e-6, err_msg=case.name)
        gelu = next(case for case in CASES if case.name == "gelu_tanh")
        x = jnp.float32(-5.5)
        assert gelu.plain(x) != gelu.ours(x)


@pytest.mark.slow
def test_errors_in_the_tails_are_within_the_limits(monkeypatch, tmp_path):
    """Of ours, for two functions. What JAX loses there is seen, so the measurement can fail."""
    main = import_module("benchmarks.__main__")
    page, found = tmp_path / "tails.md", tmp_path / "tails.json"
    arguments = ["tails", "--functions", "sigmoid;softmax", "--out", str(page), "--json", str(found)]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    main.main()
    rows = json.loads(found.read_text())["rows"]
    ours = [row for row in rows if row["package"] == "functional_nn"]
    assert {row["function"] for row in ours} == {"sigmoid", "softmax"}
    assert {row["dtype"] for row in ours} == {"float64", "float32"}
    assert {row["quantity"] for row in ours} == {"value", "gradient", "second derivative"}
    assert {"normal", "tails", "margins", "near ties", "subnormal", "huge", "masked"} <= {row["regime"] for row in ours}
    for row in ours:
        factor = max(1, row["condition"])
        limit = {"float64": 1e-14, "float32": 1e-6}[row["dtype"]]
        assert row["ulp"] <= 8 * factor if row["size"] is None else row["relative"] <= limit * factor, row
        assert not row["silent_zeros"], row
        assert row["numbers"], row
    lost = {(row["function"], row["regime"]) for row in rows if row["package"] == "jax" and row["silent_zeros"]}
    assert {("sigmoid", "tails"), ("softmax", "margins")} <= lost
    assert "Nowhere." in page.read_text("utf-8")
