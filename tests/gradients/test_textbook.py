"""Optax against the textbook, and the comparison itself against errors that are planted in the textbook."""

import math
from dataclasses import dataclass, fields, replace

import jax
import numpy as np
import optax
import pytest

from functional_nn.core.errors import InputError
from functional_nn.gradients.textbook import (
    DIGITS,
    Adam,
    GradientDescent,
    RMSProp,
    TextbookRule,
    check_optimizer,
    optimizer_cases,
    optimizer_verdicts,
    rule_trajectory,
    scenarios,
)

CASES = optimizer_cases()
STEPS = 40
ZERO = {"weight": np.zeros((2, 3)), "bias": np.zeros(3)}
PLANTED = [pytest.param(name, marks=() if name in ("sgd", "adamw") else pytest.mark.slow) for name in CASES]


def normal():
    """Parameters and gradients from a normal distribution."""
    random = np.random.default_rng(3)
    parameters = {path: random.normal(size=w.shape) for path, w in ZERO.items()}
    gradients = {path: random.normal(size=(STEPS, *w.shape)) for path, w in ZERO.items()}
    return {"parameters": parameters, "gradients": gradients}


def tiny():
    random = np.random.default_rng(7)
    return {path: 1e-9 * random.normal(size=(STEPS, *w.shape)) for path, w in ZERO.items()}


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


class OneSquareMissing(Adam):
    def update_leaf(self, w, g, state, t):
        return super().update_leaf(w, g, (state[0], 0 * state[1]) if t == 30 else state, t)


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_error_is_found(name):
    """Each hyper-parameter off by a millionth, and the errors one makes."""
    transformation, rule = CASES[name]

    def outcomes(mutant):
        far = check_optimizer(transformation, mutant, **normal())
        near = check_optimizer(transformation, mutant, ZERO, gradients=tiny())
        return {verdict.outcome for report in (far, near) for verdict in report.verdicts}

    assert outcomes(rule) == {"pass"}
    planted = {"sign": WrongSign(rule), "stale": StaleGradient(rule)}
    for field in fields(rule):
        # AdaGrad's eps_root is 1e-7 beside 0.1, so a millionth of it is below rounding.
        factor = 1.5 if (name, field.name) == ("adagrad", "eps_root") else 1 + 1e-6
        if (value := getattr(rule, field.name)) != 0:
            planted[field.name] = replace(rule, **{field.name: value * factor})
    if isinstance(rule, Adam):
        planted["late"] = OneStepLate(rule)
    if jax.tree.leaves(rule.start([np.ones(2)])):
        planted["forgetful"] = Forgetful(rule)
    assert [error for error, mutant in planted.items() if "fail" not in outcomes(mutant)] == []


def test_the_first_step_that_differs_is_named():
    report = check_optimizer(optax.adam(0.01), OneSquareMissing(0.01), **normal())
    assert all("differs first at step 30: Optax" in verdict.sentence for verdict in report.verdicts)


def test_a_schedule_counts_the_steps_done():
    def cosine(count):
        return 0.1 * (1 + math.cos(math.pi * count / 40)) / 2

    schedule = optax.cosine_decay_schedule(0.1, 40)
    assert check_optimizer(optax.sgd(schedule), GradientDescent(cosine), steps=STEPS).passed
    assert check_optimizer(optax.adam(schedule), Adam(cosine), **normal()).passed
    late = check_optimizer(optax.sgd(schedule), OneStepLate(GradientDescent(cosine)), **normal())
    assert "weight, element (" in late.verdicts[1].sentence
    assert "differs first at step 1: Optax" in late.sentence
    with pytest.raises(AssertionError, match="differs first at step 1"):
        late.raise_if_failed()


def test_quick_checks_pass():
    verdicts = list(optimizer_verdicts(quick=True))
    assert len(verdicts) == 56
    assert [verdict.sentence for verdict in verdicts if verdict.outcome != "pass"] == []


@pytest.mark.slow
def test_full_checks_pass():
    verdicts = list(optimizer_verdicts())
    assert len({(v.subject, v.leaf, v.dtype, v.regime) for v in verdicts}) == len(verdicts) == 112
    assert [verdict.sentence for verdict in verdicts if verdict.outcome != "pass"] == []


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"eps_in_sqrt": False}, {}])
def test_the_forms_of_rmsprop(options):
    where = "eps" if "eps_in_sqrt" in options else "eps_root"
    rule = RMSProp(0.01, **({"eps_root": 0.0} | {where: 1e-8}), momentum=options.get("momentum", 0.0))
    assert check_optimizer(optax.rmsprop(0.01, eps=1e-8, **options), rule, steps=STEPS).passed


def test_the_reference_agrees_with_mpmath_and_with_itself_at_80_digits():
    rule = Adam(0.01)
    mpmath = pytest.importorskip("mpmath")
    scenario = scenarios({"w": np.array([0.3, -0.7])}, STEPS)["scales"]
    at_50, at_80 = (rule_trajectory(rule, scenario, digits)[0] for digits in (DIGITS, 80))
    np.testing.assert_array_equal(at_50, at_80)
    with mpmath.workdps(DIGITS):
        convert = np.vectorize(mpmath.mpf, otypes=[object])
        in_mpmath = rule.in_arithmetic(mpmath.mpf)
        parameters = [convert(scenario.parameters["w"])]
        state = in_mpmath.start(parameters)
        for step, g in enumerate(convert(scenario.gradients["w"]), 1):
            parameters, state = in_mpmath.update(parameters, [g], state, step)
            np.testing.assert_array_equal(parameters[0].astype(float), at_50[step - 1])


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
        ({"parameters": {"w": np.ones(2)}, "gradients": {"v": np.ones((3, 2))}}, "gradients"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"w": np.ones((3, 3))}}, "gradients of w"),
        ({"parameters": {"w": np.ones(2)}, "gradients": {"w": np.full((3, 2), np.nan)}}, "gradients"),
    ],
)
def test_bad_arguments_are_named(arguments, argument):
    given = {"transformation": optax.sgd(0.1), "textbook_rule": GradientDescent(0.1)} | arguments
    with pytest.raises(InputError) as caught:
        check_optimizer(**given)
    assert caught.value.argument == argument
