"""The tables of speed in the documents: made from the recorded races, and up to date."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def summary(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    pytest.importorskip("rich")
    from benchmarks import summary

    return summary


@pytest.fixture
def races(summary):
    from benchmarks.__main__ import WORKLOADS

    return {
        workload: summary.recorded(workload, summary.RESULTS / f"{name}.jsonl") for name, workload in WORKLOADS.items()
    }


ABOUT = dict.fromkeys(("cpu", "cores", "system", "python", "commit", "load_average"), "x")


def test_a_table_is_put_between_its_marks(summary, tmp_path):
    from benchmarks import w4
    from benchmarks.race import Entry

    ours = Entry("functional_nn", threads=2, versions={"jax": "1"}, seconds=[0.5, 0.9], accuracy=0.75)
    entries = [ours, Entry("haiku", problem="not installed (haiku)")]
    table = summary.table(w4, summary.Race(entries, {}, ABOUT | {"date": "2026-01-02T03:04:05+00:00"}))
    assert table.endswith("Haiku, `dynamic_unroll`: not installed (haiku).")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- w4: made by python -m benchmarks -->\nold\n<!-- end of w4 -->\nafter\n")
    summary.put(page, "w4", table)
    kept, rest = page.read_text().split(table)
    assert kept.startswith("before\n")
    assert rest.endswith("after\n")
    assert "old" not in kept + rest
    with pytest.raises(ValueError, match="expected the lines"):
        summary.put(page, "w5", table)


def test_large_numbers_are_written_without_an_exponent(summary):
    numbers = {0.14: "0.140", 4.5: "4.50", 127: "127", 999.7: "1,000", 1722.5: "1,720"}
    assert list(map(summary.three_digits, numbers)) == list(numbers.values())


def recorded_line(date, peer, rounds, jax="0.10.2"):
    versions = {"torch": "2"} if peer.startswith("pytorch") else {"jax": jax}
    line = {"date": date, "peer": peer, "problem": None, "seconds": [1.0] * rounds, "versions": versions}
    return json.dumps(ABOUT | line)


def test_the_newest_complete_race_is_taken(summary, tmp_path):
    from benchmarks import w5

    lines = [recorded_line("2026-01-01", peer, 5) for peer in w5.SHOWN]
    lines += [recorded_line("2026-01-02", peer, 3) for peer in w5.SHOWN]  # too few rounds
    lines += [recorded_line("2026-01-03", peer, 5) for peer in w5.SHOWN[:2]]  # too few peers
    lines += [recorded_line("2026-01-04", peer, 5, jax="0.12.0") for peer in w5.SHOWN]  # the newest jax
    path = tmp_path / "w5.jsonl"
    path.write_text("\n".join(lines))
    assert summary.recorded(w5, path).circumstances["date"] == "2026-01-01"
    path.write_text("\n".join(lines[len(w5.SHOWN) :]))
    with pytest.raises(ValueError, match="expected a race of 5 rounds"):
        summary.recorded(w5, path)


def test_the_table_of_versions_shows_what_was_recorded(summary, races):
    workloads = {workload.__name__.rpartition(".")[2]: workload for workload in races}
    before, after = summary.around(summary.TABLES, summary.VERSIONS)
    table = summary.version_table(summary.versions_of(workloads, summary.RESULTS))
    assert summary.TABLES.read_text("utf-8") == f"{before}\n\n{table}\n\n{after}"


def test_the_overview_shows_what_was_recorded(summary, races):
    assert {path.name for path in summary.OVERVIEWS} == {"README.md", "README.zh-CN.md", "performance.md"}
    for path in summary.OVERVIEWS:
        before, after = summary.around(path, summary.OVERVIEW)
        assert path.read_text("utf-8") == f"{before}\n\n{summary.overview(races)}\n\n{after}"


def test_the_page_of_benchmarks_shows_what_was_recorded(summary, races):
    text = summary.TABLES.read_text("utf-8")
    for workload, race in races.items():
        name = workload.__name__.rpartition(".")[2]
        before, after = summary.around(summary.TABLES, name)
        assert text == f"{before}\n\n{summary.table(workload, race)}\n\n{after}"
        assert set(workload.SHOWN) <= set(workload.PEERS) == set(workload.NAMES)
