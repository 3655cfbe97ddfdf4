"""The benchmarks' own side imports names that still exist, and the errors in the tails are within their limits."""

import json
from importlib import import_module
from pathlib import Path

import pytest

PEERS = sorted((Path(__file__).resolve().parents[1] / "benchmarks" / "peers").glob("*functional_nn.py"))


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.stem)
def test_the_package_s_own_peers_import(path):
    assert import_module(f"benchmarks.peers.{path.stem}").__doc__


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
