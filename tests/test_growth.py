"""The benchmark of growth: exponents and bends, and the measurement of one curve."""

import numpy as np
import pytest
from benchmarks.growth import measure
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
