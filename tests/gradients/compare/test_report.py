"""Verdicts and reports: what an error means, what they say in words, and that nothing passes by accident."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functional_nn.gradients.compare.report import Report, Survivor, Verdict, combine_reports, judge, worst_verdicts

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
        assert error + reference_error <= max(tolerance, 1e-9)
        assert error - reference_error <= tolerance
    if outcome == "fail":
        assert error > tolerance
    if math.isinf(reference_error):
        assert outcome == "inconclusive"
    if reference_error == 0:
        assert outcome == ("pass" if error <= tolerance else "fail")
    assert judge(math.nan, reference_error, tolerance) == "fail"
    assert judge(0.0, math.nan, tolerance) != "pass"


@pytest.mark.parametrize(
    ("verdicts", "survivors", "passed"),
    [
        ([verdict()], [], True),
        ([], [], False),
        ([verdict(), WRONG], [], False),
        ([verdict(), DOUBTFUL], [], False),
        ([verdict()], [Survivor("affine", "sign", changes=True)], False),
        ([verdict()], [Survivor("affine", "sign")], True),
        ([verdict()], [Survivor("affine", "sign"), Survivor("affine", "factor 2", changes=True)], False),
    ],
)
def test_only_what_was_compared_and_tried_passes(verdicts, survivors, passed):
    report = Report(tuple(verdicts), len(survivors), tuple(survivors))
    assert report.passed is passed
    assert ("Could not be told apart" in str(report)) == (passed and bool(survivors))
    if passed:
        report.raise_if_failed()
    else:
        with pytest.raises(AssertionError) as raised:
            report.raise_if_failed()
        assert report.sentence in " ".join(str(raised.value).split())
        assert str(raised.value) == str(report)


def test_failures_come_first_and_every_row_is_in_the_table():
    transforms = [verdict(transform=transform, error=error) for transform, error in (("jit", 1e-16), ("vmap", 3e-16))]
    right = [verdict(note=str(number), dtype=f"type{number}") for number in range(100)]
    report = Report((*transforms, *right, DOUBTFUL, WRONG), title="affine")
    assert report.failures == (WRONG, DOUBTFUL)
    text = str(report)
    assert text.startswith(f"Not passed. {WRONG.sentence[:40]}")
    assert (text.count("✗"), text.count("?"), text.count("✓")) == (1, 1, 38)
    assert ["✓", "weight", "vjp", "float64", "2", "3e-16", "1e-13", "0"] in [row.split() for row in text.splitlines()]
    assert "more comparisons that pass" in text


def test_a_report_is_neither_true_nor_false():
    with pytest.raises(TypeError, match=r"report\.passed"):
        assert Report((verdict(),))


@pytest.mark.parametrize(
    ("hand", "arbiter", "said"),
    [
        (4.0, 2.0, "2 times too large"),
        (-6.0, 2.0, "3 times too large and has the wrong sign"),
        (1.0, 13.0, "13 times too small"),
        (0.0, 2.0, "It is 0: a term is missing, terms cancel, or a number is out of range"),
        (2.0, 2.000001, "It is right to 6 digits"),
        (math.nan, 2.0, "The formula is wrong (the right value is finite)"),
        (2.0, 0.0, "The formula is wrong (the right value is 0)."),
    ],
)
def test_the_sentence_names_place_size_and_likely_cause(hand, arbiter, said):
    sentence = verdict("fail", 0.5, hand=hand, automatic=arbiter, arbiter=arbiter, transform="scan").sentence
    assert sentence.startswith("affine: weight, element (2, 3) (vjp, float64, scan, normal): ")
    assert f"the formula gives {hand:.9g}" in sentence
    assert f"the arbiter (50 digits) gives {arbiter:.9g}" in sentence
    assert said in sentence


def test_a_number_that_a_narrow_type_loses_is_no_mistake_of_the_formula_alone():
    lost = verdict("fail", 0.5, hand=0.0, automatic=0.0, arbiter=2.0, dtype="float32", reference="float64")
    assert lost.likely_cause.startswith("Both are equal in float32: it loses digits here, or rounding")


def test_two_different_values_have_different_digits():
    sentence = verdict("fail", 0.5, hand=2.0, arbiter=2 + 1e-11).sentence
    assert "the formula gives 2, the arbiter (50 digits) gives 2.00000000001." in sentence
    assert "the right value is 0" not in verdict("fail", math.inf, hand=math.inf, arbiter=0.0).sentence
    nearly = "(the right value is nearly 0). The right value lies between -1 and 1."
    assert nearly in verdict("fail", 7.0, hand=7.0, arbiter=0.0, reference_error=1.0).sentence


def test_a_dictionary_survives_json():
    survivors = Survivor("affine", "sign", "y = -x"), Survivor("affine", "factor 2", changes=True)
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
