"""The benchmark of growth: exponents and bends, the measurement of one curve, and the page made from records."""

import json

import numpy as np
import pytest
from benchmarks.growth import measure, page
from benchmarks.growth.curves import CURVES, GROUPS, NAMES, OURS, PLAIN
from benchmarks.growth.fit import growth

SIZES = 2.0 ** np.arange(9)


@pytest.mark.parametrize(("before", "after", "at"), [(0.1, 1.0, 3), (1.0, 2.0, 5), (1.0, 0.2, 4), (0.0, 0.6, 2)])
def test_a_planted_bend_is_found_where_it_is(before, after, at):
    generator = np.random.default_rng(0)
    bend = SIZES[at]
    costs = np.where(bend > SIZES, (SIZES / bend) ** before, (SIZES / bend) ** after)
    found = growth(SIZES, costs * np.exp(0.02 * generator.standard_normal(len(SIZES))))
    assert found.bend == bend
    assert found.exponent == pytest.approx(before, abs=0.1)
    assert found.exponent_after == pytest.approx(after, abs=0.1)


def test_curves_are_complete():
    assert {curve.group for curve in CURVES.values()} == set(GROUPS)
    for curve in CURVES.values():
        assert set(curve.entries) <= set(NAMES)
        assert OURS in curve.entries
        assert curve.points == tuple(sorted(set(curve.points)))
        for size in (*curve.points, *curve.quick):
            work = curve.work_of(OURS, size)
            assert work.examples % work.batch_size == 0, "an epoch has full batches only"
            assert curve.divisor(work) >= 1


@pytest.mark.processes
@pytest.mark.parametrize("name", ["width", "models", "compile_depth", "memory_depth", "memory_models"])
def test_a_curve_is_measured(name):
    """Of functional_nn and of plain JAX, which are always there. Other entries say that they are not installed."""
    curve = CURVES[name]
    points = [
        point for of_size in measure.measured(name, curve, curve.quick[:1], 1, lambda text: None) for point in of_size
    ]
    assert [point.entry for point in points] == list(curve.entries)
    for point in points:
        assert bool(point.values) != bool(point.problem), point
        assert all(value > 0 for value in point.values)
        if point.entry.split("_")[0] in (OURS.split("_")[0], PLAIN):
            assert not point.problem, point
            assert "jax" in point.versions


def record(curve: str, entry: str, size: int, value: float | None, date: str = "2026-01-02T00:00:00") -> dict:
    about = {
        "date": date,
        "commit": "abc",
        "cpu": "a CPU",
        "cores": 2,
        "system": "Linux",
        "python": "3.11",
        "load_average": 0.1,
    }
    about |= {"caches": {"L2": "1024K"}, "versions": {"jax": "0.10"}}
    problem = None if value else "not installed (torch)"
    values = [value, value * 1.2, value / 1.2] if value else []
    return about | {"curve": curve, "entry": entry, "size": size, "values": values, "unit": "s", "problem": problem}


@pytest.fixture
def results(tmp_path):
    """A linear curve of ours, an entry that takes twice as long, one that is missing, and an older measurement."""
    lines = []
    for size in (32, 64, 128, 256, 512):
        lines.append(record("width", OURS, size, 1e-6 * size))
        lines.append(record("width", "equinox", size, 2e-6 * size))
        lines.append(record("width", "pytorch", size, None))
        lines.append(record("width", OURS, size, 1.0, date="2026-01-01T00:00:00"))
    lines.append(record("memory_batch", OURS, 8, 2e6))
    path = tmp_path / "growth.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_the_page_is_made_from_the_newest_records(results, tmp_path):
    path = tmp_path / "growth.md"
    marks = (f"<!-- {group}: made by python -m benchmarks -->\n\n<!-- end of {group} -->" for group in GROUPS)
    path.write_text("# Page\n\n" + "\n\nText.\n\n".join(marks))
    page.write(results, page=path, pictures=tmp_path)
    text = path.read_text()
    assert "| a step against width (32 to 512) | functional_nn | 1.00 | — | — | 32 µs | 512 µs | 1 |" in text
    assert "|  | Equinox | 1.00 | — | — | 64 µs | 1.02 ms | 2.00 to 2.00 |" in text
    assert "2026-01-02, a CPU, 2 cores, Linux, Python 3.11, jax 0.10, caches L2 1024K; commit abc, load 0.1." in text
    assert f"![{GROUPS['growth-training']}](growth-training.png)" in text
    assert "PyTorch: not installed (torch)." in text
    assert text.count("Text.") == len(GROUPS) - 1
    pictures = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert set(pictures) == {"growth-training.png", "growth-memory.png"}
    assert max(pictures.values()) < 100_000
