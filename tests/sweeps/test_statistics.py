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


def pair(a, b):
    return result(*over_seeds(a, optimizer="adam")), result(*over_seeds(b, optimizer="sgd"))


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


def test_a_single_member_has_a_mean_and_no_interval():
    (row,) = fnn.sweeps.summarize(result(*over_seeds([0.5])))
    assert (row.models, row.mean) == (1, 0.5)
    assert np.isnan([row.deviation, row.low, row.high, row.half_width]).all()


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


def test_a_setting_with_no_finite_member_stays_in_the_table():
    (row,) = fnn.sweeps.summarize(result(member(0, {"seed": 0}, 0.1, status="non-finite")))
    assert (row.models, row.not_finite, row.epochs) == (0, 1, (0, 0))
    assert math.isnan(row.mean)


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


@pytest.mark.parametrize("count", [2, 5, 12])
def test_a_comparison_is_scipys(count):
    a, b = random.uniform(0.8, 0.9, count), random.uniform(0.8, 0.9, count)
    compared = fnn.sweeps.compare(*pair(a, b))
    expected = stats.ttest_rel(a, b)
    assert compared.pairs == count
    assert compared.difference == pytest.approx(np.mean(a - b))
    assert compared.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (compared.low, compared.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    flips = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=10**5)
    assert compared.p_value_flips == pytest.approx(flips.pvalue)


def test_sign_flips_by_hand():
    """Of the sums ±1 ±2 ±3 two are at least as far from 0 as 6, and four as 4."""
    assert fnn.sweeps.compare(*pair([0.1, 0.2, 0.3], [0.0, 0.0, 0.0])).p_value_flips == 2 / 8
    assert fnn.sweeps.compare(*pair([0.0, 0.2, 0.3], [0.1, 0.0, 0.0])).p_value_flips == 4 / 8


def test_flips_of_differences_that_cancel_are_all_as_far():
    """0.1 + 0.2 - 0.3 is 5.6e-17 in floating point, and no flip may be judged by that."""
    assert fnn.sweeps.compare(*pair([0.1, 0.2, 0.0, 0.0], [0.0, 0.0, 0.3, 0.0])).p_value_flips == 1.0


def test_many_pairs_draw_their_flips_and_always_the_same():
    a = random.uniform(0.8, 0.9, 30)
    compared = fnn.sweeps.compare(*pair(a + 0.05, a + random.normal(0, 0.001, 30)))
    assert compared.p_value_flips == 1 / (2**15 + 1)
    b = a + random.normal(0.0005, 0.002, 30)
    near = fnn.sweeps.compare(*pair(a, b))
    assert near.p_value_flips == pytest.approx(near.p_value, abs=0.02)
    assert near == fnn.sweeps.compare(*pair(a, b))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=7))
@settings(max_examples=50, deadline=None)
def test_the_other_way_round_says_the_opposite(values):
    first, second = pair(*zip(*values, strict=True))
    there, back = fnn.sweeps.compare(first, second), fnn.sweeps.compare(second, first)
    assert there.difference == -back.difference
    assert there.p_value == pytest.approx(back.p_value)
    assert there.p_value_flips == back.p_value_flips
    assert {there.better, back.better} in ({"A", "B"}, {None})
    assert 2 / 2 ** len(values) <= there.p_value_flips <= 1


def test_equal_differences_are_no_certainty():
    """Accuracies come in steps, so two seeds may well differ equally: a t test would say p = 0."""
    assert 0.3 - 0.2 != 0.4 - 0.3
    two = fnn.sweeps.compare(*pair([0.3, 0.4], [0.2, 0.3]))
    assert two.p_value == two.p_value_flips == 0.5
    assert two.better is None
    assert fnn.sweeps.compare(*pair([0.5] * 4, [0.5] * 4)).p_value == 1.0
    assert fnn.sweeps.compare(*pair([0.6] * 8, [0.5] * 8)).better == "A"


def test_of_losses_the_smaller_is_better():
    accuracies = np.linspace(0.90, 0.95, 6)
    first, second = pair(accuracies + random.normal(0.02, 0.001, 6), accuracies)
    assert fnn.sweeps.compare(first, second).better == "A"
    by_loss = fnn.sweeps.compare(first, second, "test_loss")
    assert by_loss.difference < 0
    assert by_loss.better == "A"


def test_verdicts_in_words():
    base = np.linspace(0.9, 0.95, 4)
    clear = str(fnn.sweeps.compare(*pair(base + np.array([0.010, 0.011, 0.009, 0.010]), base)))
    assert clear.startswith("A is better: A - B = +1.000 points, 95% interval 0.870 to 1.130; p = ")
    assert clear.endswith("0.12 (sign flips), 4 pairs")
    none = str(fnn.sweeps.compare(*pair(base, base[::-1])))
    assert none.startswith("no difference is seen: A - B = ")


def test_pairs_share_all_that_varies_in_both():
    """The seeds are paired within each rate: the difference is 0.1 in every pair, whatever the order of members."""
    a = [*over_seeds([0.2, 0.4], rate=1.0), *over_seeds([0.6, 0.8], start=2, rate=2.0)]
    b = [*over_seeds([0.5, 0.7], rate=2.0), *over_seeds([0.1, 0.3], start=2, rate=1.0)]
    compared = fnn.sweeps.compare(result(*a), result(*b[::-1]))
    assert (compared.pairs, compared.difference) == (4, pytest.approx(0.1))
    assert compared.high - compared.low < 1e-12


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (over_seeds([0.1, 0.2]), "1 without a partner"),
        (
            over_seeds([0.1] * 3, rate=1.0) + over_seeds([0.1] * 3, rate=2.0),
            r"got 6 members for 3",
        ),
        ([*over_seeds([0.1] * 2), member(2, {"seed": 2}, 0.1, status="non-finite")], r"member 2 \(non-finite\)"),
        ([*over_seeds([0.1] * 2), member(2, {"seed": 2}, 0.1, status="not run")], r"member 2 \(not run\)"),
        ([*over_seeds([0.1] * 2), member(2, {"seed": 2}, 0.1, status="halved")], r"member 2 \(halved\)"),
        ([*over_seeds([0.1] * 2), member(2, {"seed": 2}, math.nan)], "finite for all members"),
    ],
    ids=["alone", "twice", "non-finite", "not run", "halved", "nan"],
)
def test_what_cannot_be_paired_is_refused(second, message):
    with pytest.raises(InputError, match=message):
        fnn.sweeps.compare(result(*over_seeds([0.1, 0.2, 0.3])), result(*second))


def test_one_pair_is_too_few():
    with pytest.raises(InputError, match="pairs: expected at least two, got 1"):
        fnn.sweeps.compare(*pair([0.1], [0.2]))


def test_a_comparison_from_one_sweep():
    made = result(*over_seeds([0.1, 0.2], name="a"), *over_seeds([0.3, 0.5], start=2, name="b"))
    compared = fnn.sweeps.compare(made.where(name="b"), made.where(name="a"))
    assert isinstance(compared, fnn.sweeps.Comparison)
    assert compared.difference == pytest.approx(0.25)
