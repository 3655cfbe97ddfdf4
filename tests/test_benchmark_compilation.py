"""`python -m benchmarks compile`: both sides compile, the plain side is a program that trains, and its table."""

import json

import jax
import pytest
from benchmarks import compilation
from benchmarks.compilation import NETWORKS
from benchmarks.summary import around

SMALL = compilation.Sizes(train=256, test=64)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax and plain JAX programs let JAX convert types and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("side", compilation.SIDES)
def test_a_side_compiles_anew_each_time(side):
    for _ in range(2):
        assert compilation.SIDES[side]("mlp", SMALL) > 0


def test_the_newest_complete_run_of_each_jax_is_in_the_table(tmp_path):
    def lines(date, jax_version, networks):
        about = dict.fromkeys(("cpu", "cores", "system", "python", "commit", "load_average"), "x")
        about |= {"date": date, "versions": {"jax": jax_version}}
        return [
            json.dumps(about | {"network": network, "round": number, "seconds": {"fit": 3.0, "plain": 2.0}})
            for network in networks
            for number in range(2)
        ]

    path = tmp_path / "compile.jsonl"
    records = lines("2026-01-01", "0.10.1", NETWORKS) + lines("2026-01-02", "0.12.0", NETWORKS)
    path.write_text("\n".join(records + lines("2026-01-03", "0.10.2", ["mlp"])))
    runs = compilation.newest_runs(path)
    assert [run[0]["date"] for run in runs] == ["2026-01-01", "2026-01-02"]
    table = compilation.table(runs)
    assert "| `mlp` (W1) | 0.10.1 | 3.00 (3.00-3.00) | 2.00 (2.00-2.00) | 1.50 (1.50-1.50) |" in table
    assert "2026-01-02, 2 rounds in turn" in table
    assert compilation.newest_runs(tmp_path / "missing.jsonl") == []


def test_the_page_shows_what_was_recorded():
    runs = compilation.newest_runs(compilation.records.RESULTS / "compile.jsonl")
    before, after = around(compilation.PAGE, compilation.MARK)
    assert compilation.PAGE.read_text("utf-8") == f"{before}\n\n{compilation.table(runs)}\n\n{after}"
