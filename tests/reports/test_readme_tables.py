"""The tables that the benchmarks put into the README."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def summary(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    pytest.importorskip("rich")
    from benchmarks import summary

    return summary


def test_a_table_is_put_between_its_marks(summary, tmp_path):
    from benchmarks import w4
    from benchmarks.race import Entry

    entries = [
        Entry("pytorch", threads=2, versions={"torch": "2"}, seconds=[0.469, 0.938], accuracy=0.5),
        Entry("functional_nn", threads=2, versions={"jax": "1"}, seconds=[0.938, 0.469], accuracy=0.75),
        Entry("haiku", problem="not installed (haiku)"),
    ]
    about = dict.fromkeys(("cpu", "cores", "system", "python", "commit", "load_average"), "x")
    table = summary.table(w4, entries, {}, about | {"date": "2026-01-02T03:04:05+00:00"})
    assert "| PyTorch, `nn.LSTM` | 1.500 (1.000-2.000) | 1.25 (0.50-2.00) | 0.5000 |" in table
    assert (
        "| **functional_nn, the batch divided among the cores** | **1.500 (1.000-2.000)** | **1** | 0.7500 |" in table
    )
    assert "jax 1, torch 2; commit x" in table
    assert table.endswith("Haiku, `dynamic_unroll`: not installed (haiku).")

    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- w4: made by python -m benchmarks -->\nold\n<!-- end of w4 -->\nafter\n")
    summary.put(readme, "w4", table)
    kept, rest = readme.read_text().split(table)
    assert kept.startswith("before\n")
    assert rest.endswith("after\n")
    assert "old" not in kept + rest
    with pytest.raises(ValueError, match="expected the lines"):
        summary.put(readme, "w5", table)


def test_the_readme_has_every_mark(summary):
    from benchmarks.__main__ import WORKLOADS

    for name, workload in WORKLOADS.items():
        before, after = summary.around(ROOT / "README.md", name)
        assert workload.RECIPE in (ROOT / "README.md").read_text("utf-8")[len(before) : -len(after)]
        assert set(workload.SHOWN) <= set(workload.PEERS)
