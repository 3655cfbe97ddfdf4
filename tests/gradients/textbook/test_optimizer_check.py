"""Optax against the textbook, and the comparison itself against errors that are planted in the textbook."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from functional_nn.core.errors import InputError
from functional_nn.gradients import textbook
from functional_nn.gradients.textbook import Adam, GradientDescent, TextbookRule
from functional_nn.gradients.textbook.optimizer_cases import CASES
from functional_nn.gradients.textbook.optimizer_check import check_optimizer, optimizer_verdicts
from functional_nn.gradients.textbook.trajectories import exact_trajectory, optax_trajectories, scenarios
from functional_nn.training import OPTIMIZERS

STEPS = 40
ZERO = {"weight": np.zeros((2, 3)), "bias": np.zeros(3)}
QUICK = [pytest.param(case, id=case.name, marks=() if case.quick else pytest.mark.slow) for case in CASES]
PLANTED = [
    pytest.param(case, id=case.name, marks=() if case.name in ("sgd", "momentum", "adamw") else pytest.mark.slow)
    for case in CASES
]


def tiny():
    random = np.random.default_rng(7)
    return {path: 1e-9 * random.normal(size=(STEPS, *w.shape)) for path, w in ZERO.items()}


def numbers(rule):
    """Every hyper-parameter that is not 0, with how to put another number in its place."""
    for field in fields(rule):
        value = getattr(rule, field.name)
        if isinstance(value, TextbookRule):
            for name, number, put in numbers(value):
                yield name, number, lambda new, put=put, field=field: replace(rule, **{field.name: put(new)})
        elif value != 0:
            yield field.name, value, lambda new, field=field: replace(rule, **{field.name: new})


@dataclass(frozen=True)
class Wrong(TextbookRule):
    """A rule with an error in front of it or behind it."""

    rule: TextbookRule

    def start(self, parameters):
        return self.rule.start(parameters)

    def update(self, parameters, gradients, state, step):
        return self.rule.update(parameters, gradients, state, step)


class WrongSign(Wrong):
    def update(self, parameters, gradients, state, step):
        return self.rule.update(parameters, [-g for g in gradients], state, step)


class OneStepLate(Wrong):
    def update(self, parameters, gradients, state, step):
        return self.rule.update(parameters, gradients, state, step + 1)


class StaleGradient(Wrong):
    def start(self, parameters):
        return self.rule.start(parameters), [0 * w for w in parameters]

    def update(self, parameters, gradients, state, step):
        kept, before = state
        parameters, kept = self.rule.update(parameters, before, kept, step)
        return parameters, (kept, gradients)


class Forgetful(Wrong):
    def update(self, parameters, gradients, state, step):
        return self.rule.update(parameters, gradients, self.rule.start(parameters), step)


class NoBiasCorrection(Adam):
    def direction(self, w, g, state, t):
        return super().direction(w, g, state, 10**6)


class EpsMoved(Adam):
    def direction(self, w, g, state, t):
        return replace(Adam(0), b1=self.b1, b2=self.b2, eps=0 * self.eps, eps_root=self.eps).direction(w, g, state, t)


class OneSquareMissing(Adam):
    def direction(self, w, g, state, t):
        return super().direction(w, g, (state[0], 0 * state[1]) if t == 30 else state, t)


FACTORS = {
    ("adabelief", "eps"): 1.5,  # 1e-16 beside 1e-7
    ("adagrad", "eps_root"): 1.5,  # 1e-7 beside 0.1
    ("lion", "b1"): 0.9,  # only a change of sign shows
    ("lion", "b2"): 0.9,
    ("signum", "beta"): 0.9,
    ("clipped adam", "max_norm"): 3.0,  # Adam does not see a common factor of all gradients
    ("fromage", "min_norm"): 1e7,  # it counts for norms below it alone
    ("radam", "threshold"): 0.8,  # between whole numbers it may move
}
"""Where a millionth is below rounding or changes nothing: what the hyper-parameter is multiplied by instead."""


@pytest.mark.parametrize("case", PLANTED)
def test_every_planted_error_is_found(case):
    """Each hyper-parameter off by a millionth, and the errors one makes."""
    transformation, rule = case.pair()

    def outcomes(mutant):
        far = check_optimizer(transformation, mutant, steps=STEPS, regimes=["normal"])
        near = check_optimizer(transformation, mutant, ZERO, gradients=tiny())
        return {verdict.outcome for verdict in far.verdicts}, {verdict.outcome for verdict in near.verdicts}

    far, near = outcomes(rule)
    assert far == {"pass"}
    # RAdam's rho is a difference of nearly equal numbers, which from parameters of 0 is all there is to see
    assert near == ({"inconclusive"} if case.name == "radam" else {"pass"})
    planted = {name: put(value * FACTORS.get((case.name, name), 1 + 1e-6)) for name, value, put in numbers(rule)} | {
        "sign": WrongSign(rule),
        "stale": StaleGradient(rule),
    }
    if "hat" in rule.formula or "^t" in rule.formula:
        planted["late"] = OneStepLate(rule)
    if jax.tree.leaves(rule.start([np.ones(2)])):
        planted["forgetful"] = Forgetful(rule)
    assert [name for name, mutant in planted.items() if "fail" not in set.union(*outcomes(mutant))] == []


@pytest.mark.parametrize("mutant", [NoBiasCorrection, EpsMoved, OneSquareMissing])
def test_errors_in_adam_are_found(mutant):
    report = check_optimizer(optax.adam(0.01), mutant(0.01), steps=STEPS)
    assert report.verdicts[0].outcome == "fail", report


def test_the_first_step_that_differs_is_named():
    report = check_optimizer(optax.adam(0.01), OneSquareMissing(0.01), steps=STEPS, regimes=["normal"])
    assert [verdict.step for verdict in report.verdicts] == [30, 30]
    late = check_optimizer(
        optax.sgd(optax.cosine_decay_schedule(0.1, 40)),
        OneStepLate(GradientDescent(textbook.cosine(0.1, 40))),
        steps=STEPS,
        regimes=["normal"],
    )
    assert "weight, element (" in late.verdicts[1].sentence
    assert "differs first at step 1: Optax" in late.sentence
    with pytest.raises(AssertionError, match="differs first at step 1"):
        late.raise_if_failed()


def test_all_named_optimizers_have_a_rule():
    assert set(OPTIMIZERS) <= {case.name for case in CASES}


def test_quick_checks_pass():
    verdicts = list(optimizer_verdicts(quick=True))
    assert len(verdicts) >= 90
    assert [verdict.sentence for verdict in verdicts if verdict.outcome != "pass"] == []


@pytest.mark.slow
def test_full_checks_pass():
    verdicts = list(optimizer_verdicts())
    assert len({(v.subject, v.leaf, v.dtype, v.regime) for v in verdicts}) == len(verdicts) >= 600
    assert [verdict.sentence for verdict in verdicts if verdict.outcome != "pass"] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_gradients_nothing_moves_and_nothing_is_nan(case):
    """Step by step by hand, outside of the comparison. With weight decay, the weights fall and nothing else happens."""
    transformation, _ = case.pair("float32")
    parameters = {"w": jnp.array([0.5, -2.0])}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = transformation.init(parameters)
        for _ in range(3):
            updates, state = transformation.update({"w": jnp.zeros(2)}, state, parameters)
            assert np.isfinite(updates["w"]).all()
            shrinks = {"weight_decay", "l1", "l2", "min_norm"} & set(case.options)
            still = case.name == "yogi" or shrinks  # Yogi's momentum starts at 1e-6
            assert still or not np.any(updates["w"]), updates


def test_adams_first_step_is_the_learning_rate():
    """learning_rate g / (|g| + eps), which is what bias correction is for."""
    for rule in (Adam(0.5), textbook.AdamW(0.5, weight_decay=0.0), textbook.AdaMax(0.5)):
        g = np.array([1e-8, -3.0, 1e8, 0.0])
        (w,), _ = rule.update([np.zeros(4)], [g], rule.start([np.zeros(4)]), 1)
        np.testing.assert_allclose(w, -0.5 * g / (np.abs(g) + 1e-8), rtol=1e-12)


def test_penalty_is_decay_for_gradient_descent_and_not_for_adam():
    decay = {"steps": STEPS, "regimes": ["normal"]}
    add = optax.add_decayed_weights(0.1)
    penalized = textbook.Penalized
    assert check_optimizer(optax.chain(add, optax.sgd(0.1)), penalized(GradientDescent(0.1), l2=0.1), **decay).passed
    late = optax.chain(optax.identity(), add, optax.scale_by_learning_rate(0.1))
    assert check_optimizer(late, penalized(GradientDescent(0.1), l2=0.1), **decay).passed
    adamw = optax.adamw(0.1, weight_decay=0.1)
    assert check_optimizer(adamw, textbook.AdamW(0.1, weight_decay=0.1), **decay).passed
    wrong = check_optimizer(adamw, penalized(Adam(0.1), l2=0.1), **decay)
    assert {verdict.outcome for verdict in wrong.verdicts} == {"fail"}
    assert {verdict.step for verdict in wrong.verdicts} == {1}


def test_the_paper_of_radam_rectifies_one_step_earlier():
    report = check_optimizer(optax.radam(0.01), textbook.RAdam(0.01, threshold=4.0), steps=STEPS, regimes=["normal"])
    assert report.failures[0].step == 5


def test_optax_rprop_is_one_step_late():
    """A difference that is Optax's: its update is the one of the step before."""
    gradients = {"w": np.array([[1.0], [2.0], [0.5], [3.0]])}
    report = check_optimizer(optax.rprop(0.1), textbook.Rprop(0.1), {"w": np.zeros(1)}, gradients=gradients)
    assert report.failures[0].step == 1
    assert report.failures[0].hand == 0
    assert report.failures[0].arbiter == -0.1
    assert check_optimizer(
        optax.rprop(0.1), StaleGradient(textbook.Rprop(0.1)), {"w": np.zeros(1)}, gradients=gradients
    ).passed


def test_rprop_takes_a_schedule():
    start, gradients = {"w": np.ones(2)}, {"w": np.array([[1.0, -1.0], [2.0, 1.0], [1.0, 1.0]])}
    constant, schedule = textbook.Rprop(0.1), textbook.Rprop(lambda count: 0.1)
    reports = [check_optimizer(optax.rprop(0.1), rule, start, gradients=gradients) for rule in (constant, schedule)]
    assert len({report.verdicts[0].arbiter for report in reports}) == 1


def test_where_rounding_decides_the_verdict_is_inconclusive():
    """Of gradients that never change, the variance is the difference of equal numbers."""
    rule = textbook.CenteredRMSProp(0.01, decay=0.9, eps_root=1e-8)
    transformation = optax.rmsprop(0.01, decay=0.9, eps=1e-8, centered=True)
    given = {"gradients": {"w": np.full((300, 1), 1e4)}, "parameters": {"w": np.zeros(1)}}
    (verdict,) = check_optimizer(transformation, rule, **given).verdicts
    assert verdict.outcome == "inconclusive"
    assert "rounding alone" in verdict.sentence
    (verdict,) = check_optimizer(transformation, WrongSign(rule), **given).verdicts
    assert (verdict.outcome, verdict.step) == ("fail", 1)


def test_nan_is_a_failure():
    nan_at_5 = optax.sgd(optax.join_schedules([optax.constant_schedule(0.1), lambda count: jnp.nan], [4]))
    report = check_optimizer(nan_at_5, GradientDescent(0.1), steps=9, regimes=["normal"])
    assert [(verdict.outcome, verdict.step) for verdict in report.verdicts] == [("fail", 5)] * 2


def test_python_floats_are_two_numbers_in_float32():
    """float32(0.999) and float32(1 - 0.999) do not sum to 1, which shows at step 1 as 6.7e-6 of the step."""
    b1, b2, eps, rate = (np.float32(value) for value in (0.9, 0.999, 1e-8, 0.01))
    rule = Adam(rate, b1=b1, b2=b2, eps=eps)
    given = {"dtype": "float32", "tolerance": 4e-6, "steps": STEPS, "regimes": ["normal"]}
    assert check_optimizer(optax.adam(rate, b1=b1, b2=b2, eps=eps), rule, ZERO, **given).passed
    report = check_optimizer(optax.adam(0.01), rule, ZERO, **given)
    assert report.failures[0].step == 1
    assert 6e-6 < report.failures[0].error < 7e-6


@pytest.mark.parametrize("rule", [Adam(0.01), textbook.AdaBelief(0.01), textbook.LAMB(0.01, weight_decay=0.1)])
def test_the_reference_agrees_with_mpmath_and_with_itself_at_80_digits(rule):
    mpmath = pytest.importorskip("mpmath")
    scenario = scenarios({"w": np.array([0.3, -0.7])}, STEPS)["scales"]
    at_50, at_80 = (exact_trajectory(rule, scenario, digits=digits)[0] for digits in (50, 80))
    np.testing.assert_array_equal(at_50, at_80)
    with mpmath.workdps(50):
        convert = np.vectorize(mpmath.mpf, otypes=[object])
        in_mpmath = rule.in_arithmetic(mpmath.mpf)
        parameters = [convert(scenario.parameters["w"])]
        state = in_mpmath.start(parameters)
        for step, g in enumerate(convert(scenario.gradients["w"]), 1):
            parameters, state = in_mpmath.update(parameters, [g], state, step)
            np.testing.assert_array_equal(parameters[0].astype(float), at_50[step - 1])


def test_optax_runs_each_of_several_scenarios_alone(float64):
    known = list(scenarios({"w": np.array([0.3, -0.7])}, 9).values())
    together = optax_trajectories(optax.adam(0.1), known)
    for one, alone in zip(together, known, strict=True):
        np.testing.assert_array_equal(one["w"], optax_trajectories(optax.adam(0.1), [alone])[0]["w"])


def test_a_rule_of_ones_own_with_a_nested_tree():
    @dataclass(frozen=True)
    class Halved(TextbookRule):
        rate: float

        def start(self, parameters):
            return None

        def update(self, parameters, gradients, state, step):
            return [w - self.rate * g / 2 for w, g in zip(parameters, gradients, strict=True)], None

    parameters = {"dense_0": {"weight": np.ones((2, 1)), "bias": np.ones(1)}, "scale": np.ones(())}
    report = check_optimizer(optax.sgd(0.05), Halved(0.1), parameters, steps=9)
    assert report.passed, report
    assert {verdict.leaf for verdict in report.verdicts} == {"dense_0/bias", "dense_0/weight", "scale"}
    assert "Halved" in report.verdicts[0].sentence


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"dtype": "int32"}, "dtype"),
        ({"textbook_rule": "adam"}, "textbook_rule"),
        ({"parameters": {}}, "parameters"),
        ({"steps": 0}, "steps"),
        ({"regimes": ["odd"]}, "regimes"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"v": np.ones((3, 2))}}, "gradients"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"w": np.ones((3, 3))}}, "gradients of w"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"w": np.ones((0, 2))}}, "gradients"),
        (
            {"parameters": {"w": np.ones(()), "v": np.ones(())}, "gradients": {"w": np.ones(3), "v": np.ones(4)}},
            "gradients",
        ),
        ({"parameters": {"w": np.ones(2)}, "gradients": None, "curvature": 2.0}, "curvature"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"w": np.ones((3, 2))}, "regimes": ["normal"]}, "regimes"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"w": np.full((3, 2), np.nan)}}, "gradients"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"w": "abc"}}, "gradients"),
        ({"parameters": {"w": np.full(2, np.nan)}}, "parameters"),
    ],
)
def test_bad_arguments_are_named(arguments, argument):
    given = {"transformation": optax.sgd(0.1), "textbook_rule": GradientDescent(0.1)} | arguments
    with pytest.raises(InputError) as caught:
        check_optimizer(**given)
    assert caught.value.argument == argument


def test_the_page_has_every_rule_in_the_letters_of_the_code():
    page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "optimizers.md").read_text("utf-8")
    rules = [rule for name in textbook.__all__ if getattr(rule := getattr(textbook, name), "formula", "")]
    assert len(rules) > 20
    for rule in rules:
        row = next(line for line in page.splitlines() if line.startswith(f"| {rule.__name__} |"))
        for part in rule.formula.replace("|", "\\|").split(";"):
            assert f"`{part.strip()}`" in row
        assert rule.source in row


def test_pytorch_rprop_follows_the_textbook_and_optax_loses_moves():
    """Recorded from PyTorch 2: its path is the rule's, also where the gradient changes its sign, and Optax stays."""
    gradients = np.array([[1.0, -2.0], [1.0, 2.0], [0.0, 2.0], [1.0, -2.0], [1.0, -2.0], [1.0, 1.0], [-1.0, 1.0]])
    pytorch = [
        *([-0.1, 0.1], [-0.22, 0.1], [-0.22, 0.05], [-0.34, 0.05]),
        *([-0.484, 0.075], [-0.6568, 0.075], [-0.6568, 0.0625]),
    ]
    rule = textbook.Rprop(0.1)
    w = np.zeros(2)
    state = rule.start_leaf(w)
    for t, (g, expected) in enumerate(zip(gradients, pytorch, strict=True), 1):
        w, state = rule.update_leaf(w, g, state, t)
        np.testing.assert_allclose(w, expected, rtol=1e-12)
    transformation = optax.rprop(0.1)
    state, moved = transformation.init(jnp.zeros(2)), jnp.zeros(2)
    for g in gradients:
        update, state = transformation.update(jnp.asarray(g, moved.dtype), state)
        moved = moved + update
        assert moved[1] == 0
