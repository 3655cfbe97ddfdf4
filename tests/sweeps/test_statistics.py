"""Means over seeds and comparisons, beside SciPy and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.sweeps.made_up_results import member, over_seeds, result

import functional_nn as fnn
from functional_nn.core.errors import InputError

random = np.random.default_rng(0)


def test_a_mean_and_its_interval_by_hand():
    (row,) = fnn.sweeps.summarize(result(*over_seeds([0.1, 0.2, 0.3, 0.4], rate=1.0)))
    assert row.hyperparameters == {"rate": 1.0}
    assert row.models == 4
    assert row.mean == pytest.approx(0.25)
    assert row.deviation == pytest.approx(math.sqrt(0.05 / 3))
    half = 3.182446305 * math.sqrt(0.05 / 3) / 2
    assert (row.low, row.high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    assert row.half_width == pytest.approx(half)


@given(st.lists(st.integers(0, 1000).map(lambda right: right / 1000), min_size=2, max_size=9, unique=True))
@settings(max_examples=50, deadline=None)
def test_intervals_are_scipys(values):
    (row,) = fnn.sweeps.summarize(result(*over_seeds(values)))
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (row.low, row.high) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_members_that_are_not_finite_are_counted_and_in_no_mean():
    made = result(
        *over_seeds([0.8, 0.9]),
        member(2, {"seed": 2}, 0.1, status="non-finite"),
        member(3, {"seed": 3}, math.nan),
        member(4, {"seed": 4}, 0.2, status="not run"),
        member(5, {"seed": 5}, 0.7, status="stopped early", epochs=1),
    )
    (row,) = fnn.sweeps.summarize(made)
    assert (row.models, row.not_finite, row.not_run, row.epochs) == (3, 2, 1, (1, 3))
    assert row.left_out == "2 not finite, 1 not run"
    assert row.mean == pytest.approx(0.8)


def test_what_is_folded_may_be_chosen():
    made = result(*over_seeds([0.1, 0.3], rate=1.0), *over_seeds([0.5, 0.7], start=2, rate=2.0))
    assert [row.mean for row in fnn.sweeps.summarize(made)] == pytest.approx([0.2, 0.6])
    by_seed = fnn.sweeps.summarize(made, over="rate")
    assert [row.hyperparameters for row in by_seed] == [{"seed": 0}, {"seed": 1}]
    assert [row.mean for row in by_seed] == pytest.approx([0.3, 0.5])
    (whole,) = fnn.sweeps.summarize(made, over=("rate", "seed"))
    assert (whole.models, whole.hyperparameters) == (4, {})
    assert fnn.sweeps.summarize(result()) == []


def test_what_is_folded_has_to_be_known():
    with pytest.raises(InputError, match=r"over: expected hyper-parameters of the sweep, got rat\. Did you mean rate"):
        fnn.sweeps.summarize(result(*over_seeds([0.1], rate=1.0)), over="rat")
    with pytest.raises(InputError, match="Did you mean test_loss"):
        fnn.sweeps.summarize(result(*over_seeds([0.1])), "tst_loss")
