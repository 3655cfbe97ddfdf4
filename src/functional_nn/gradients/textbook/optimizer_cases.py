"""Every optimizer of Optax that has a textbook rule, beside it, with the numbers that both are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import jax
import numpy as np
import optax

from functional_nn.core.layer import Params
from functional_nn.gradients import textbook
from functional_nn.gradients.textbook import Clipped, Penalized, TextbookRule
from functional_nn.losses import penalties


@dataclass(frozen=True)
class OptimizerCase:
    """An Optax optimizer and its rule.

    Args:
        name: the optimizer's, as flags and Optax know it.
        make: Optax's function of the learning rate and of options.
        textbook: the rule's class, or a function of the same arguments.
        options: the hyper-parameters, under Optax's names.
        names: where the rule has another name for one.
        learning_rate: of the comparison.
        quick: whether a quick run includes it.
    """

    name: str
    make: Callable[..., optax.GradientTransformation]
    textbook: Callable[..., TextbookRule]
    options: Mapping[str, float] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    learning_rate: float = 0.01
    quick: bool = True

    def pair(
        self, dtype: str = "float64", *, schedule_steps: int | None = None
    ) -> tuple[optax.GradientTransformation, TextbookRule]:
        """The two parties, given the same numbers rounded to ``dtype``; on a cosine schedule where steps are given."""
        number = np.dtype(dtype).type
        rate = number(self.learning_rate)
        optax_rate, rule_rate = rate, rate
        if schedule_steps is not None:
            optax_rate = optax.cosine_decay_schedule(rate, schedule_steps)
            rule_rate = textbook.cosine(float(rate), schedule_steps)
        options = {name: number(value) for name, value in self.options.items()}
        rule = self.textbook(rule_rate, **{self.names.get(name, name): value for name, value in options.items()})
        return self.make(optax_rate, **options), rule


def _clipped(make: Callable[..., Any], rate: Any, *, max_norm: Any, **options: Any) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(max_norm), make(rate, **options))


def _clipped_rule(rule: Callable[..., TextbookRule], rate: Any, *, max_norm: Any, **options: Any) -> TextbookRule:
    return Clipped(rule(rate, **options), max_norm)


def _penalized(
    make: Callable[..., Any], rate: Any, *, l1: Any, l2: Any, **options: Any
) -> optax.GradientTransformation:
    lasso = penalties.l1(l1, "*")
    subgradient = optax.stateless(lambda g, w: jax.tree.map(lambda a, b: a + b, g, lasso.gradient(cast(Params, w))))
    return optax.chain(subgradient, optax.add_decayed_weights(l2), make(rate, **options))


def _penalized_rule(rule: Callable[..., TextbookRule], rate: Any, *, l1: Any, l2: Any, **options: Any) -> TextbookRule:
    return Penalized(rule(rate, **options), l1, l2)


def _decayed(make: Callable[..., Any], rate: Any, *, weight_decay: Any) -> optax.GradientTransformation:
    return optax.chain(make(), optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(rate))


ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 1e-10}
ROOT = {"eps": "eps_root"}
Case = OptimizerCase

CASES: tuple[OptimizerCase, ...] = (
    Case("sgd", optax.sgd, textbook.GradientDescent),
    Case("momentum", optax.sgd, textbook.Momentum, {"momentum": 0.9}),
    Case("nesterov", partial(optax.sgd, nesterov=True), textbook.Nesterov, {"momentum": 0.9}),
    Case(
        "adagrad",
        optax.adagrad,
        textbook.AdaGrad,
        {"initial_accumulator_value": 0.1, "eps": 1e-7},
        {"initial_accumulator_value": "initial"} | ROOT,
    ),
    Case(
        "adadelta", optax.adadelta, textbook.AdaDelta, {"rho": 0.9, "eps": 1e-6}, ROOT, learning_rate=1.0, quick=False
    ),
    Case("rmsprop", optax.rmsprop, textbook.RMSProp, {"decay": 0.9, "eps": 1e-8}, ROOT),
    Case("adam", optax.adam, textbook.Adam, ADAM),
    Case("adamw", optax.adamw, textbook.AdamW, ADAM | {"weight_decay": 0.01}),
    Case("adamax", optax.adamax, textbook.AdaMax, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    Case("nadam", optax.nadam, textbook.NAdam, ADAM, quick=False),
    Case("radam", optax.radam, textbook.RAdam, ADAM | {"threshold": 5.0}),
    Case("amsgrad", optax.amsgrad, textbook.AMSGrad, ADAM, quick=False),
    Case("adabelief", optax.adabelief, textbook.AdaBelief, ADAM | {"eps": 1e-16, "eps_root": 1e-16}, quick=False),
    Case("lamb", optax.lamb, textbook.LAMB, ADAM | {"eps": 1e-6, "weight_decay": 0.01}, learning_rate=0.001),
    Case("lion", optax.lion, textbook.Lion, {"b1": 0.9, "b2": 0.99, "weight_decay": 0.001}),
    Case(
        "rmsprop with momentum",
        optax.rmsprop,
        textbook.RMSProp,
        {"decay": 0.9, "eps": 1e-8, "momentum": 0.9},
        ROOT,
        quick=False,
    ),
    Case(
        "centered rmsprop",
        partial(optax.rmsprop, centered=True),
        textbook.CenteredRMSProp,
        {"decay": 0.9, "eps": 1e-8, "momentum": 0.9},
        ROOT,
    ),
    Case(
        "rmsprop, eps outside",
        partial(optax.rmsprop, eps_in_sqrt=False),
        partial(textbook.RMSProp, eps_root=0.0),
        {"decay": 0.9, "eps": 1e-8},
        quick=False,
    ),
    Case(
        "adagrad from 0",
        optax.adagrad,
        textbook.AdaGrad,
        {"initial_accumulator_value": 0.0, "eps": 0.0},
        {"initial_accumulator_value": "initial"} | ROOT,
        quick=False,
    ),
    Case("adamaxw", optax.adamaxw, textbook.AdaMax, {"b1": 0.9, "b2": 0.999, "weight_decay": 0.01}, quick=False),
    Case("sign_sgd", optax.sign_sgd, textbook.SignDescent, quick=False),
    Case("signum", optax.signum, textbook.Signum, {"beta": 0.9}, quick=False),
    Case("yogi", optax.yogi, textbook.Yogi, {"b1": 0.9, "b2": 0.999, "eps": 1e-3}, quick=False),
    Case(
        "novograd",
        optax.novograd,
        textbook.NovoGrad,
        {"b1": 0.9, "b2": 0.25, "eps": 1e-6, "weight_decay": 0.01},
        learning_rate=0.001,
        quick=False,
    ),
    Case(
        "lars",
        optax.lars,
        textbook.LARS,
        {"weight_decay": 0.01, "trust_coefficient": 0.1, "eps": 1e-9, "momentum": 0.9},
        learning_rate=0.001,
        quick=False,
    ),
    Case("fromage", optax.fromage, textbook.Fromage, {"min_norm": 1e-6}, learning_rate=0.001, quick=False),
    Case(
        "optimistic_gradient_descent",
        optax.optimistic_gradient_descent,
        textbook.OptimisticGradientDescent,
        {"alpha": 1.0, "beta": 0.5},
        quick=False,
    ),
    Case(
        "clipped adam",
        partial(_clipped, optax.adam),
        partial(_clipped_rule, textbook.Adam),
        ADAM | {"max_norm": 1.0},
        quick=False,
    ),
    Case(
        "clipped sgd", partial(_clipped, optax.sgd), partial(_clipped_rule, textbook.GradientDescent), {"max_norm": 1.0}
    ),
    Case(
        "penalized adam",
        partial(_penalized, optax.adam),
        partial(_penalized_rule, textbook.Adam),
        ADAM | {"l1": 0.003, "l2": 0.01},
        quick=False,
    ),
    Case(
        "penalized sgd",
        partial(_penalized, optax.sgd),
        partial(_penalized_rule, textbook.GradientDescent),
        {"l1": 0.003, "l2": 0.01},
        quick=False,
    ),
    Case(
        "decayed sgd",
        partial(_decayed, optax.identity),
        partial(_penalized_rule, textbook.GradientDescent, l1=0.0),
        {"weight_decay": 0.01},
        {"weight_decay": "l2"},
        quick=False,
    ),
)
"""The comparisons, by name: every name in ``functional_nn.OPTIMIZERS``, Optax's others, and what stands around them."""
