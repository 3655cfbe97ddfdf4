"""Verdicts and reports: what an error means, what they say in words, and that nothing passes by accident."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functional_nn.gradients.compare.report import (
    WIDTH,
    Report,
    Survivor,
    Verdict,
    combine_reports,
    group_verdicts,
    judge,
    worst_verdicts,
)

ERRORS = st.floats(min_value=0, allow_nan=False)


def verdict(outcome="pass", error=1e-16, **known):
    defaults = {"reference": "50 digits", "automatic_error": 0.0, "index": (2, 3)}
    return Verdict("affine", "weight", outcome, error, 1e-13, **(defaults | known))


WRONG = verdict("fail", 0.5, hand=4.0, automatic=2.0, arbiter=2.0)
DOUBTFUL = verdict("inconclusive", 0.0, reference_error=math.inf)


@given(error=ERRORS, reference_error=ERRORS, tolerance=st.floats(1e-300, 1e300))
@example(error=1e-13, reference_error=0.0, tolerance=1e-13)
@example(error=math.inf, reference_error=math.inf, tolerance=1.0)
@settings(deadline=None)
def test_what_may_be_wrong_never_passes_and_what_may_be_right_never_fails(error, reference_error, tolerance):
    outcome = judge(error, reference_error, tolerance)
    if outcome == "pass":
        assert error <= tolerance
        assert reference_error <= tolerance
    if outcome == "fail":
        assert error > tolerance
    if math.isinf(reference_error):
        assert outcome == "inconclusive"
    if reference_error == 0:
        assert outcome == ("pass" if error <= tolerance else "fail")


@given(truth=st.floats(-1e3, 1e3), slip=st.floats(-1, 1), tolerance=st.floats(1e-6, 0.5), data=st.data())
@settings(deadline=None)
def test_verdicts_hold_whatever_the_truth_is_within_the_arbiters_own_error(truth, slip, tolerance, data):
    reference_error = data.draw(st.floats(0, 1))
    arbiter = truth + data.draw(st.floats(-1, 1)) * reference_error
    hand = truth + slip
    outcome, rounding = judge(abs(hand - arbiter), reference_error, tolerance), 1e-12
    if outcome == "pass":
        assert abs(hand - truth) <= tolerance + rounding
    if outcome == "fail":
        assert abs(hand - truth) > tolerance - rounding


@given(reference_error=ERRORS, tolerance=st.floats(min_value=0))
@settings(deadline=None)
def test_what_is_not_a_number_fails(reference_error, tolerance):
    assert judge(math.nan, reference_error, tolerance) == "fail"
    assert judge(0.0, math.nan, tolerance) != "pass"


@pytest.mark.parametrize(
    ("verdicts", "survivors", "passed"),
    [
        ([verdict()], [], True),
        ([], [], False),
        ([verdict(), WRONG], [], False),
        ([verdict(), DOUBTFUL], [], False),
        ([verdict()], [Survivor("affine", "sign")], False),
        ([verdict()], [Survivor("affine", "sign", "the sign cancels")], True),
        ([verdict()], [Survivor("affine", "sign", "the sign cancels"), Survivor("affine", "factor 2")], False),
    ],
)
def test_only_what_was_compared_and_tried_passes(verdicts, survivors, passed):
    report = Report(tuple(verdicts), len(survivors), tuple(survivors))
    assert report.passed is passed
    if passed:
        report.raise_if_failed()
    else:
        with pytest.raises(AssertionError) as raised:
            report.raise_if_failed()
        assert report.sentence in " ".join(str(raised.value).split())
        assert str(raised.value) == str(report)


def test_a_report_is_neither_true_nor_false():
    with pytest.raises(TypeError, match=r"report\.passed"):
        assert Report((verdict(),))


@pytest.mark.parametrize(
    ("hand", "arbiter", "said"),
    [
        (4.0, 2.0, "2 times too large"),
        (-6.0, 2.0, "3 times too large and has the wrong sign"),
        (1.0, 13.0, "13 times too small"),
        (-2.0, 2.0, "the wrong sign"),
        (0.0, 2.0, "It is 0: a term is missing, or terms cancel"),
        (2.0, 2.000001, "The formula is wrong (error"),
        (math.nan, 2.0, "The formula is wrong (error"),
        (2.0, 0.0, "The derivative is 0. Is a factor missing, such as y_bar"),
    ],
)
def test_the_sentence_names_place_size_and_likely_cause(hand, arbiter, said):
    sentence = verdict("fail", 0.5, hand=hand, automatic=arbiter, arbiter=arbiter, transform="scan").sentence
    assert sentence.startswith("affine: weight, element (2, 3) (vjp, float64, scan, normal): ")
    assert f"the formula gives {hand:.9g}" in sentence
    assert f"the arbiter (50 digits) gives {arbiter:.9g}" in sentence
    assert said in sentence


def test_the_sentence_says_what_is_wrong():
    assert verdict(automatic_error=1e-3).sentence.endswith("The formula is right, automatic differentiation is not.")
    assert verdict().sentence.endswith("All agree.")
    both = verdict("fail", 0.5, automatic_error=0.5)
    assert "The formula and automatic differentiation are wrong" in both.sentence
    assert "missing" not in verdict("fail", 0.5, hand=math.nan, automatic=0.0, arbiter=0.0).sentence
    assert "too large to tell" in DOUBTFUL.sentence
    assert verdict(automatic_error=None).automatic_outcome is None
    assert verdict(automatic_error=1e-3, reference_error=1.0).automatic_outcome == "inconclusive"


def test_the_first_failure_comes_before_what_cannot_be_told():
    report = Report((verdict(), DOUBTFUL, WRONG))
    assert report.failures == (WRONG, DOUBTFUL)
    assert report.sentence == WRONG.sentence
    assert Report((verdict(),), 1, (Survivor("affine", "factor 2"),)).sentence.endswith("not found: factor 2.")
    assert Report((verdict(automatic_error=1.0),), 5).sentence == (
        "1 comparisons agree; of 5 planted errors 5 were found; in 1 automatic differentiation is wrong."
    )


def test_errors_that_are_listed_as_equivalent_are_not_said_to_be_found():
    survivors = (Survivor("affine", "shift dropped", "The shift cancels."), Survivor("affine", "factor 1", "It is 1."))
    report = Report((verdict(),), 1234, survivors)
    assert report.passed
    assert report.sentence == (
        "1 comparisons agree; of 1,234 planted errors 1,232 were found and 2 are listed as equivalent, "
        "each with a reason."
    )
    written = report.to_dict()
    assert (written["mutants"], written["mutants_killed"], written["mutants_listed"]) == (1234, 1232, 2)


def test_the_verdict_comes_first():
    passed = str(Report((verdict(),), 3, title="affine"))
    assert passed.startswith("Passed: affine. 1 comparisons agree; of 3 planted errors 3 were found.\n\n")
    failed = str(Report((verdict(), WRONG)))
    assert failed.startswith("Not passed. affine: weight, element (2, 3) (vjp, float64, plain, normal): ")
    assert str(Report()) == "Not passed. Nothing was compared."


def test_equal_rows_are_merged():
    transforms = [verdict(transform=transform, error=error) for transform, error in (("jit", 1e-16), ("vmap", 3e-16))]
    rows = str(Report((*transforms, verdict(dtype="float32"), WRONG))).splitlines()
    assert [row.split() for row in rows if row.startswith(("✓", "✗"))] == [
        ["✗", "weight", "vjp", "float64", "1", "0.5", "1e-13", "0"],
        ["✓", "weight", "vjp", "float64", "2", "3e-16", "1e-13", "0"],
        ["✓", "weight", "vjp", "float32", "1", "1e-16", "1e-13", "0"],
    ]
    assert rows.count("affine") == 1


def test_a_group_shows_its_worst_comparisons():
    right = verdict(automatic_error=7.0)
    (group,) = group_verdicts((right, WRONG, verdict("fail", 0.1), DOUBTFUL), "subject", "leaf")
    assert (group.times, group.outcome, group.worst, group.worst_automatic) == (4, "fail", WRONG, right)


def test_the_table_fits_into_a_terminal():
    kinds = [("second order", "float64", "terms"), ("vjp", "bfloat16", "ULP"), ("trajectory", "float64", "terms")]
    long = [
        Verdict("a_subject_" * 12, f"layer_{number}/" * 9 + "weight", "fail", math.inf, 1.25e-13, kind, dtype)
        for number, (kind, dtype, _) in enumerate(kinds)
    ]
    text = str(Report((*long, verdict(unit="ULP", automatic_error=math.nan)), title="title " * 20))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("/weight") >= len(long)


def test_a_long_table_shows_every_failure():
    right = [verdict(note=str(number), dtype=f"type{number}") for number in range(100)]
    wrong = [verdict("fail", 0.5, dtype=f"type{number}") for number in range(50)]
    text = str(Report((*right, *wrong, DOUBTFUL)))
    assert (text.count("✗"), text.count("?"), text.count("✓")) == (50, 1, 0)
    assert "… and 100 more comparisons that pass" in text
    short = str(Report(tuple(right * 2)))
    assert short.count("✓") == 40
    assert "… and 120 more comparisons that pass" in short


def test_the_notebooks_table_has_every_row_and_no_foreign_markup():
    report = Report((verdict(), Verdict("<script>", "a & b", "fail", 1.0, 0.1)))
    page = report._repr_html_()
    assert page.count("<tr>") == 3
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page


def test_a_dictionary_survives_json():
    survivors = Survivor("affine", "sign", "why"), Survivor("affine", "factor 2")
    report = Report((verdict(), WRONG, DOUBTFUL), 9, survivors, (("relu", "no second derivative"),), 1.5)
    given_back = json.loads(json.dumps(report.to_dict()))
    counts = {name: given_back[name] for name in ("cells", "passed", "failed", "inconclusive", "mutants")}
    assert counts == {"cells": 3, "passed": 1, "failed": 1, "inconclusive": 1, "mutants": 9}
    assert given_back["mutants_killed"] == 7
    assert given_back["skipped"] == [{"subject": "relu", "reason": "no second derivative"}]
    assert given_back["worst"][0]["error"] == 0.5
    assert given_back["verdicts"][1]["index"] == [2, 3]
    assert given_back["verdicts"][2]["reference_error"] == math.inf


def test_reports_are_combined():
    one = Report((verdict(),), 3, (Survivor("affine", "sign"),), (("relu", "why"),), 1.0)
    two = Report((WRONG,), 4, (), (), 2.0)
    both = combine_reports([one, two], title="both")
    assert both == Report((verdict(), WRONG), 7, one.survivors, one.skipped, 3.0)
    assert both.title == "both"
    assert combine_reports([one, two], seconds=2.5).seconds == 2.5
    assert not combine_reports([]).passed


def test_the_worst_come_first_and_what_is_no_number_before_all():
    ordered = [verdict("fail", math.nan), verdict("fail", 1.0), verdict(error=1e-14), verdict(error=0.0)]
    assert worst_verdicts(reversed(ordered)) == ordered
    assert worst_verdicts(reversed(ordered), 2) == ordered[:2]
