"""Textbook rules of optimizers, and their comparison with Optax's, step by step.

The rules are gradient descent, momentum, Nesterov, AdaGrad, RMSProp, Adam and AdamW. The letters are the same in each:
w is a parameter, g its gradient, t the step, counted from 1. ``learning_rate`` is the size of a step; ``eps`` is added
outside of a root, and ``eps_root`` inside. Every accumulator starts at 0 unless a rule says otherwise.
"""

from __future__ import annotations

import decimal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from functional_nn.core import trees
from functional_nn.core.errors import InputError, shown
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import as_host_array, check_choice, check_count
from functional_nn.gradients.compare.compared_values import relative_error
from functional_nn.gradients.compare.problem import check_finite, converted_anew
from functional_nn.gradients.compare.report import Outcome, Report, Verdict

Number: TypeAlias = Any
"""A hyper-parameter: a float, a NumPy number, ``Decimal`` or ``mpmath.mpf``. Python has no type for all of them."""
Array: TypeAlias = Any
"""A NumPy array of floating-point numbers, or of objects with +, -, *, / and ``sqrt()``, such as ``Decimal``."""
RuleState: TypeAlias = Any
"""The state that a rule keeps from step to step: numbers and arrays, in tuples and lists."""
Schedule: TypeAlias = Callable[[int], Number]
"""The learning rate as a function of the number of completed steps: 0 at the first step, as in Optax."""
TOLERANCES = {"float64": 1e-12, "float32": 1e-4}
"""The largest distance of a parameter, relative to the sum of the absolute values of its start and of all its moves."""
MARGIN = 10
"""Rounding in another order may cause an error this many times larger than the rule's own rounding error."""
DIGITS = 50
REFERENCE = f"textbook rule, {DIGITS} digits"


@dataclass(frozen=True)
class TextbookRule:
    """An optimizer as in its paper: its state from step to step, and how it changes the parameters.

    A rule of your own is a dataclass like those below, with either ``start`` and ``update``, or ``start_leaf`` and
    ``update_leaf``. All its numbers are fields, or integers in the code. Any other literal would be a binary fraction
    that Optax does not have, and ``Decimal`` numbers cannot be mixed with it.
    """

    def start(self, parameters: Sequence[Array]) -> RuleState:
        """The state before the first step. By default it has the state of each array."""
        return [self.start_leaf(w) for w in parameters]

    def update(
        self, parameters: Sequence[Array], gradients: Sequence[Array], state: RuleState, step: int
    ) -> tuple[list[Array], RuleState]:
        """The parameters and the state after this step, counted from 1. By default each array is treated by itself."""
        leaves = zip(parameters, gradients, state, strict=True)
        updated = [self.update_leaf(w, g, leaf_state, step) for w, g, leaf_state in leaves]
        return [w for w, _ in updated], [leaf_state for _, leaf_state in updated]

    def start_leaf(self, w: Array) -> RuleState:
        """The state of one array before the first step."""
        return ()

    def update_leaf(self, w: Array, g: Array, state: RuleState, t: int) -> tuple[Array, RuleState]:
        """One array and its state after step t."""
        raise NotImplementedError

    def in_arithmetic(self, number: Callable[[float], Number]) -> Self:
        """The same rule with every hyper-parameter converted by ``number`` from a Python float, without rounding.

        >>> from decimal import Decimal
        >>> from functional_nn.gradients.textbook import GradientDescent
        >>> GradientDescent(0.5).in_arithmetic(Decimal)
        GradientDescent(learning_rate=Decimal('0.5'))
        """

        def convert(value: Number | Schedule | TextbookRule) -> Number | Schedule | TextbookRule:
            if isinstance(value, TextbookRule):
                return value.in_arithmetic(number)
            if callable(value):
                return lambda count: number(float(cast("Schedule", value)(count)))
            return number(float(value))

        return replace(self, **{field.name: convert(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class GradientDescent(TextbookRule):
    """A step against the gradient: w = w - learning_rate g.

    ``learning_rate`` is a number or a schedule. A schedule counts the steps done, from 0, as Optax does; papers write
    alpha_t with t = 1 at the first step.

    References:
        Cauchy 1847; Goodfellow, Bengio, Courville 2016, Algorithm 8.1.
    """

    learning_rate: Number | Schedule

    def rate(self, t: int) -> Number:
        """The learning rate of step t."""
        return self.learning_rate(t - 1) if callable(self.learning_rate) else self.learning_rate

    def update_leaf(self, w, g, state, t):
        return w - self.rate(t) * g, state


@dataclass(frozen=True)
class Momentum(GradientDescent):
    """The heavy ball: m = momentum m + g; w = w - learning_rate m. Gradients accumulate without a factor 1 - momentum.

    The learning rate is outside of the accumulator. If it is constant, this is Polyak's
    w - learning_rate g + momentum (w - w_before); with a schedule, the two differ.

    References:
        Polyak 1964; Sutskever et al. 2013, equations 1 and 2.
    """

    momentum: Number = 0.9

    def start_leaf(self, w):
        return 0 * w

    def update_leaf(self, w, g, state, t):
        m = self.momentum * state + g
        return w - self.rate(t) * m, m


class Nesterov(Momentum):
    """Momentum that looks ahead: m = momentum m + g; w = w - learning_rate (g + momentum m).

    The textbook takes the gradient at w + momentum v. Here w is that advanced point, so the gradient is taken at w (the
    usual change of variables).

    References:
        Nesterov 1983; Sutskever et al. 2013, equations 3 and 4; Bengio, Boulanger-Lewandowski, Pascanu 2013.
    """

    def update_leaf(self, w, g, state, t):
        m = self.momentum * state + g
        return w - self.rate(t) * (g + self.momentum * m), m


@dataclass(frozen=True)
class AdaGrad(GradientDescent):
    """The rate of each parameter falls with the sum of its squared gradients. If all were 0, it does not move.

    s = s + g²; w = w - learning_rate g / (sqrt(s + eps_root) + eps); s starts at ``initial``. The paper starts at 0 and
    adds its delta outside of the root. Optax starts at 0.1 and adds eps inside.

    References:
        Duchi, Hazan, Singer 2011, Figure 1 (diagonal); Goodfellow, Bengio, Courville 2016, Algorithm 8.4.
    """

    initial: Number = 0.0
    eps: Number = 0.0
    eps_root: Number = 0.0

    def start_leaf(self, w):
        return 0 * w + self.initial

    def update_leaf(self, w, g, state, t):
        s = state + g * g
        divisor = np.where(s > 0, np.sqrt(s + self.eps_root) + self.eps, 1)
        return w - self.rate(t) * (g / divisor), s


@dataclass(frozen=True)
class RMSProp(GradientDescent):
    """The gradient divided by the root of its moving mean square. The learning rate is inside the momentum, if any.

    s = decay s + (1 - decay) g²; m = momentum m + learning_rate g / (sqrt(s + eps_root) + eps); w = w - m. Hinton's
    lecture has no eps. Graves and Optax add it inside the root, PyTorch outside. None corrects the bias.

    References:
        Tieleman and Hinton 2012, lecture 6e; Graves 2013, equations 38 to 45, without the mean.
    """

    decay: Number = 0.9
    eps: Number = 0.0
    eps_root: Number = 1e-8
    momentum: Number = 0.0

    def start_leaf(self, w):
        return 0 * w, 0 * w

    def update_leaf(self, w, g, state, t):
        s, m = state
        s = mean(self.decay, s, g * g)
        m = self.momentum * m + self.rate(t) * (g / (np.sqrt(s + self.eps_root) + self.eps))
        return w - m, (s, m)


@dataclass(frozen=True)
class Adam(GradientDescent):
    """The corrected mean of the gradients, divided by the root of their corrected mean square.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²; m_hat = m / (1 - b1^t); v_hat = v / (1 - b2^t);
    w = w - learning_rate m_hat / (sqrt(v_hat + eps_root) + eps).

    eps is added outside of the root, as in Algorithm 1. The form "just before section 2.1" of the paper (TensorFlow's
    "epsilon hat") adds it to the root of the uncorrected v. Only Optax has eps_root. The first step is
    learning_rate g / (|g| + eps).

    References:
        Kingma and Ba 2015, Algorithm 1.
    """

    b1: Number = 0.9
    b2: Number = 0.999
    eps: Number = 1e-8
    eps_root: Number = 0.0

    def start_leaf(self, w):
        return 0 * w, 0 * w

    def update_leaf(self, w, g, state, t):
        m, v = state
        m, v = mean(self.b1, m, g), mean(self.b2, v, g * g)
        m_hat, v_hat = m / (1 - self.b1**t), v / (1 - self.b2**t)
        return w - self.rate(t) * (m_hat / (np.sqrt(v_hat + self.eps_root) + self.eps)), (m, v)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay that is not divided by the size of the gradients.

    w = w - learning_rate (m_hat / (sqrt(v_hat + eps_root) + eps) + weight_decay w). The learning rate multiplies the
    decay too, as in Optax and PyTorch. In the paper only the schedule's factor does, so its weight decay is
    learning_rate times the one here.

    References:
        Loshchilov and Hutter 2019, Algorithm 2.
    """

    weight_decay: Number = 1e-4

    def update_leaf(self, w, g, state, t):
        moved, state = super().update_leaf(w, g, state, t)
        return moved - self.rate(t) * self.weight_decay * w, state


def mean(b: Number, old: Array, new: Array) -> Array:
    """The exponential moving average: b old + (1 - b) new."""
    return b * old + (1 - b) * new


def check_optimizer(
    transformation: optax.GradientTransformation,
    textbook_rule: TextbookRule,
    parameters: PyTree = None,
    *,
    gradients: PyTree = None,
    steps: int = 1000,
    dtype: str = "float64",
    subject: str = "",
) -> Report:
    """Follows an Optax optimizer and a textbook rule step by step, and says at which step they differ.

    Optax runs in one compiled scan, in ``dtype``. The rule runs in 50 decimal digits, on the exact binary values of
    the parameters, the gradients and the hyper-parameters. After every step, the distance of each element is divided
    by the sum of the absolute values of its start and of all its moves so far. It may be 1e-12 in float64 and 1e-4 in
    float32. The rule also runs in ``dtype``. As soon as this run has a larger error, rounding alone could explain a
    difference. Then the verdict is inconclusive.

    In float32, build the optimizer and the rule from the same float32 numbers: from a Python float 0.999, Optax makes
    both float32(0.999) and float32(1 - 0.999), whose sum is not 1.

    Args:
        transformation: the optimizer, or any chain with updates that are added to the parameters.
        textbook_rule: a rule from ``functional_nn.gradients.textbook``, or your own.
        parameters: a tree of arrays; by default a weight of shape (2, 3) and a bias of shape (3,).
        gradients: the same tree with a leading axis of steps; by default four regimes, see ``scenarios``.
        steps: the number of steps, if no gradients are given.
        dtype: ``"float64"`` or ``"float32"``.
        subject: the name in tables; by default the rule's.

    Raises:
        InputError: an argument cannot be used.

    >>> import functional_nn as fnn, numpy as np, optax
    >>> from functional_nn.gradients.textbook import Adam
    >>> fnn.gradients.check_optimizer(optax.adam(0.1), Adam(0.1), steps=20).passed
    True
    >>> report = fnn.gradients.check_optimizer(optax.adam(0.1), Adam(0.1, eps=1e-6), gradients={"w": np.ones((9, 1))},
    ...                          parameters={"w": np.zeros(1)})
    >>> print(report.sentence)
    Adam: w, element (0,) (trajectory, float64, scan, given): differs first at step 1: Optax -0.099999999, ...
    """
    started = time.perf_counter()
    if not (callable(getattr(transformation, "init", None)) and callable(getattr(transformation, "update", None))):
        raise InputError("transformation", "an Optax transformation", shown(transformation))
    check_choice("dtype", dtype, TOLERANCES)
    if not isinstance(textbook_rule, TextbookRule):
        raise InputError("textbook_rule", "a TextbookRule", repr(textbook_rule), "Derive yours from TextbookRule.")
    if parameters is None:
        random = np.random.default_rng(0)
        parameters = {"weight": random.normal(size=(2, 3)), "bias": random.normal(size=3)}
    parameters = jax.tree.map(lambda w: _finite("parameters", w).astype(dtype), parameters)
    if not all(leaf.size for leaf in jax.tree.leaves(parameters)) or not jax.tree.leaves(parameters):
        raise InputError("parameters", "at least one number in each array", "none")
    if gradients is None:
        check_count("steps", steps)
        runs = scenarios(parameters, steps)
    else:
        runs = {"given": _given_scenario(parameters, gradients)}

    def one_step() -> object:
        arrays = jax.tree.map(jnp.asarray, parameters)
        return transformation.update(arrays, transformation.init(arrays), arrays)

    title, tolerance = subject or type(textbook_rule).__name__, TOLERANCES[dtype]
    same = {"tolerance": tolerance, "kind": "trajectory", "dtype": dtype, "transform": "scan", "reference": REFERENCE}
    verdict = partial(Verdict, title, **same)
    verdicts = []
    with converted_anew(one_step), jax.enable_x64(dtype == "float64"):
        for regime, scenario in runs.items():
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                visited = _optax_trajectory(transformation, scenario)
            verdicts += _compared(textbook_rule, scenario, visited, tolerance, partial(verdict, regime=regime))
    return Report(tuple(verdicts), seconds=time.perf_counter() - started, title=title)


def optimizer_verdicts(quick: bool = False) -> Iterator[Verdict]:
    """Compares Optax's optimizers with their textbook rules, in every regime.

    A full comparison takes 1,000 steps in float64 and 300 in float32, a quick one 100 steps in float64.
    """
    for dtype, steps in [("float64", 100)] if quick else [("float64", 1000), ("float32", 300)]:
        for name, (transformation, rule) in optimizer_cases(dtype).items():
            yield from check_optimizer(transformation, rule, steps=steps, dtype=dtype, subject=name).verdicts


def optimizer_cases(dtype: str = "float64") -> dict[str, tuple[optax.GradientTransformation, TextbookRule]]:
    """Optax's optimizers and their rules, made from the same numbers of a type."""
    number = np.dtype(dtype).type
    rate, momentum, eps = number(0.01), number(0.9), number(1e-8)
    adagrad = {"initial": number(0.1), "eps_root": number(1e-7)}
    adam = {"b1": number(0.9), "b2": number(0.999), "eps": eps, "eps_root": number(1e-10)}
    adamw = adam | {"weight_decay": number(0.01)}
    return {
        "sgd": (optax.sgd(rate), GradientDescent(rate)),
        "momentum": (optax.sgd(rate, momentum), Momentum(rate, momentum)),
        "nesterov": (optax.sgd(rate, momentum, nesterov=True), Nesterov(rate, momentum)),
        "adagrad": (optax.adagrad(rate, *adagrad.values()), AdaGrad(rate, **adagrad)),
        "rmsprop": (optax.rmsprop(rate, number(0.9), eps), RMSProp(rate, number(0.9), eps_root=eps)),
        "adam": (optax.adam(rate, **adam), Adam(rate, **adam)),
        "adamw": (optax.adamw(rate, **adamw), AdamW(rate, **adamw)),
    }


class Scenario(NamedTuple):
    """The start of a run and its gradients: at step t, ``gradients[t - 1] + curvature * parameters``.

    With curvature 0 the gradients are fixed in advance. Otherwise they are the gradients of a quadratic function, and
    ``gradients`` sets its center.

    Args:
        parameters: a tree of NumPy arrays of one floating type.
        gradients: the same tree, of arrays of shape (steps, *shape of the parameter).
        curvature: a number.
    """

    parameters: PyTree
    gradients: PyTree
    curvature: float = 0.0


def scenarios(parameters: PyTree, steps: int) -> dict[str, Scenario]:
    """Makes scenarios of four kinds from the same parameters, by the name of their regime.

    - ``normal``: gradients from a normal distribution;
    - ``zeros``: all gradients are 0 for five steps; after that, nine in ten are 0. The gradient of every third
      element is always 0;
    - ``scales``: signs alternate, and sizes go from 1e-8 to 1e8;
    - ``quadratic``: gradients depend on the parameters, and lead towards a center far away.
    """
    random = np.random.default_rng(steps)

    def recorded(draw: Callable[[tuple[int, ...]], np.ndarray], curvature: float = 0.0) -> Scenario:
        gradients = jax.tree.map(lambda w: draw((steps, *w.shape)).astype(w.dtype), parameters)
        return Scenario(parameters, gradients, curvature)

    def zeros(shape):
        drawn = random.normal(size=shape) * (random.random(shape) < 0.1)
        drawn[:5] = 0
        drawn.reshape(steps, -1)[:, ::3] = 0  # the reshaped array is a view, so this changes ``drawn``
        return drawn

    def scales(shape):
        signs = np.resize([1.0, -1.0], steps).reshape(-1, *(1 for _ in shape[1:]))
        return signs * 10.0 ** random.uniform(-8, 8, size=shape)

    def slope(shape):
        return np.broadcast_to(random.choice([-10.0, 10.0], size=shape[1:]) * random.uniform(1, 2, shape[1:]), shape)

    return {
        "normal": recorded(lambda shape: random.normal(size=shape)),
        "zeros": recorded(zeros),
        "scales": recorded(scales),
        "quadratic": recorded(slope, curvature=0.5),
    }


def _given_scenario(parameters: PyTree, gradients: PyTree) -> Scenario:
    if jax.tree.structure(gradients) != jax.tree.structure(parameters):
        expected = f"the parameters' tree {jax.tree.structure(parameters)}"
        raise InputError("gradients", expected, jax.tree.structure(gradients))
    gradients = jax.tree.map(lambda w, g: _finite("gradients", g).astype(w.dtype), parameters, gradients)
    lengths = {g.shape[:1] for g in jax.tree.leaves(gradients)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise InputError("gradients", "the same number of steps in front of every array", sorted(lengths))
    for (path, w), g in zip(trees.flatten(parameters).items(), jax.tree.leaves(gradients), strict=True):
        if g.shape[1:] != w.shape:
            raise InputError(f"gradients of {path}", f"shape (steps, *{w.shape})", g.shape)
    return Scenario(parameters, gradients)


def _finite(argument: str, array: ArrayLike) -> np.ndarray:
    numbers = as_host_array(argument, array)
    check_finite(argument, [numbers])
    return numbers


@partial(jax.jit, static_argnums=0)
def _optax_trajectory(transformation: optax.GradientTransformation, scenario: Scenario) -> PyTree:
    """Runs Optax in one compiled scan. It returns the parameters after each step, (steps, *shape)."""

    def step(carry, recorded):
        parameters, state = carry
        gradients = jax.tree.map(lambda g, w: g + scenario.curvature * w, recorded, parameters)
        updates, state = transformation.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return (parameters, state), parameters

    start = (scenario.parameters, transformation.init(scenario.parameters))
    return jax.lax.scan(step, start, scenario.gradients)[1]


def rule_trajectory(rule: TextbookRule, scenario: Scenario, digits: int | None = None) -> list[np.ndarray]:
    """Runs the textbook rule in the scenario's own type, or from the exact binary values in decimal numbers.

    The decimal numbers are the standard library's ``Decimal``, in C: seven times as fast as mpmath's, with the same
    result. It is rounded at the very end.
    """
    number, convert = jax.tree.leaves(scenario.parameters)[0].dtype.type, np.asarray
    if digits is not None:
        exact = np.vectorize(Decimal, otypes=[object])
        number, convert = Decimal, lambda array: exact(array.astype(np.float64))
    with np.errstate(all="ignore"), decimal.localcontext(decimal.Context(prec=digits or DIGITS, traps=[])):
        rule = rule.in_arithmetic(number)
        parameters = [convert(leaf) for leaf in jax.tree.leaves(scenario.parameters)]
        recorded = [convert(leaf) for leaf in jax.tree.leaves(scenario.gradients)]
        curvature = number(scenario.curvature)
        state, visited = rule.start(parameters), []
        for index in range(len(recorded[0])):
            gradients = [g[index] + curvature * w for g, w in zip(recorded, parameters, strict=True)]
            parameters, state = rule.update(parameters, gradients, state, index + 1)
            visited.append(parameters)
        return [np.stack(leaf).astype(np.float64) for leaf in zip(*visited, strict=True)]


def _compared(
    rule: TextbookRule, scenario: Scenario, visited: PyTree, tolerance: float, verdict: Callable[..., Verdict]
) -> Iterator[Verdict]:
    """One verdict for each array of parameters. ``hand`` is Optax's value; ``arbiter`` is the rule's.

    Args:
        rule: the textbook rule.
        scenario: the start and the gradients.
        visited: Optax's parameters after every step.
        tolerance: the largest error allowed.
        verdict: makes a verdict from what differs from array to array.
    """
    # The rule in the scenario's own type shows how far rounding alone leads from the exact run.
    exact, rounded = rule_trajectory(rule, scenario, DIGITS), rule_trajectory(rule, scenario)
    starts = trees.flatten(scenario.parameters)
    arrays = zip(starts.items(), jax.tree.leaves(visited), exact, rounded, strict=True)
    for (path, start), leaf, right, in_type in arrays:
        ours = np.asarray(leaf, np.float64)
        # The sum of the absolute values of the start and of all moves so far.
        moves = np.abs(np.diff(right, axis=0, prepend=start[None].astype(np.float64)))
        terms = np.abs(start) + np.cumsum(moves, axis=0)
        quotients = (relative_error(found - right, terms) for found in (ours, in_type))
        error, rounding = (np.where(np.isnan(quotient), np.inf, quotient) for quotient in quotients)
        # The largest rounding error so far, over all elements: rounding may move from one element to another.
        rounding = np.maximum.accumulate(rounding, axis=0)
        rounding = np.broadcast_to(rounding.max(axis=tuple(range(1, rounding.ndim)), keepdims=True), rounding.shape)
        outcome, place = _decide(error, rounding, tolerance)
        step, *index = place
        size, by_optax, by_rule = (float(array[place]) for array in (rounding, ours, right))
        found = {"reference_error": size, "hand": by_optax, "arbiter": by_rule, "index": tuple(index)}
        numbers = f"(error {error[place]:.2g} terms, {tolerance:.2g} allowed)."
        notes = {
            "pass": "",
            "fail": f"differs first at step {step + 1}: Optax {by_optax:.9g}, textbook {by_rule:.9g} {numbers}",
            "inconclusive": f"cannot be told from step {step + 1} on: rounding alone is too large {numbers}",
        }
        yield verdict(path, outcome, float(error[place]), note=notes[outcome], **found)


def _decide(error: np.ndarray, rounding: np.ndarray, tolerance: float) -> tuple[Outcome, tuple[int, ...]]:
    """The outcome, and the index (step, *element) that decides it: the worst element of the first wrong step."""
    # Above the tolerance, the size of the rounding no longer matters. The bound avoids ∞ - ∞ in the next line.
    rounding = np.minimum(rounding, MARGIN * tolerance)
    failed = (error - MARGIN * rounding > tolerance) & (rounding <= tolerance)
    unclear = error + rounding > tolerance
    decisive: dict[Outcome, np.ndarray] = {"fail": failed, "inconclusive": unclear}
    for outcome, places in decisive.items():
        steps = np.flatnonzero(places.reshape(len(places), -1).any(axis=1))
        if len(steps):
            step = int(steps[0])
            worst = np.argmax(np.where(places[step], error[step], -1.0))
            element = np.unravel_index(worst, error.shape[1:])
            return outcome, (step, *map(int, element))
    return "pass", tuple(map(int, np.unravel_index(np.argmax(error), error.shape)))
