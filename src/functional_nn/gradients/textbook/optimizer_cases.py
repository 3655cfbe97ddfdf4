"""Cases: every Optax optimizer that has a textbook rule, with its rule and the hyper-parameters of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, cast

import jax
import numpy as np
import optax

from functional_nn.core.layer import Params
from functional_nn.gradients import textbook
from functional_nn.gradients.textbook import Clipped, Penalized, TextbookRule
from functional_nn.gradients.textbook.rule import Number
from functional_nn.losses import penalties

Rate: TypeAlias = optax.ScalarOrSchedule
MakeOptimizer: TypeAlias = Callable[..., optax.GradientTransformation]
MakeRule: TypeAlias = Callable[..., TextbookRule]


@dataclass(frozen=True)
class OptimizerCase:
    """An Optax optimizer and its rule.

    Args:
        name: the name of the optimizer, in Optax and in this package.
        make: Optax's function of the learning rate and of the options.
        textbook: the class of the rule, or a function of the same arguments.
        options: the hyper-parameters, by Optax's names.
        names: the rule's name of a hyper-parameter, by Optax's name, if they differ.
        learning_rate: the learning rate of the comparison.
        quick: whether a quick run includes it.
    """

    name: str
    make: MakeOptimizer
    textbook: MakeRule
    options: Mapping[str, float] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    learning_rate: float = 0.01
    quick: bool = True

    def pair(
        self, dtype: str = "float64", *, schedule_steps: int | None = None
    ) -> tuple[optax.GradientTransformation, TextbookRule]:
        """The optimizer and the rule, made from the same numbers rounded to ``dtype``.

        With ``schedule_steps`` the learning rate follows a cosine schedule of this many steps.
        """
        number = np.dtype(dtype).type
        rate = number(self.learning_rate)
        optax_rate, rule_rate = rate, rate
        if schedule_steps is not None:
            optax_rate = optax.cosine_decay_schedule(rate, schedule_steps)
            rule_rate = textbook.cosine(float(rate), schedule_steps)
        options = {name: number(value) for name, value in self.options.items()}
        rule = self.textbook(rule_rate, **{self.names.get(name, name): value for name, value in options.items()})
        return self.make(optax_rate, **options), rule


def _clipped(make: MakeOptimizer, rate: Rate, *, max_norm: Number, **options: Number) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(max_norm), make(rate, **options))


def _clipped_rule(rule: MakeRule, rate: Rate, *, max_norm: Number, **options: Number) -> TextbookRule:
    return Clipped(rule(rate, **options), max_norm)


def _penalized(
    make: MakeOptimizer, rate: Rate, *, l1: Number, l2: Number, **options: Number
) -> optax.GradientTransformation:
    lasso = penalties.l1(l1, "*")
    subgradient = optax.stateless(lambda g, w: jax.tree.map(lambda a, b: a + b, g, lasso.gradient(cast(Params, w))))
    return optax.chain(subgradient, optax.add_decayed_weights(l2), make(rate, **options))


def _penalized_rule(rule: MakeRule, rate: Rate, *, l1: Number, l2: Number, **options: Number) -> TextbookRule:
    return Penalized(rule(rate, **options), l1, l2)


def _decayed(make: MakeOptimizer, rate: Rate, *, weight_decay: Number) -> optax.GradientTransformation:
    return optax.chain(make(), optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(rate))


ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 1e-10}
ROOT = {"eps": "eps_root"}
"""Optax adds the eps of some optimizers inside the root."""

CASES: tuple[OptimizerCase, ...] = (
    OptimizerCase("sgd", optax.sgd, textbook.GradientDescent),
    OptimizerCase("momentum", optax.sgd, textbook.Momentum, {"momentum": 0.9}),
    OptimizerCase("nesterov", partial(optax.sgd, nesterov=True), textbook.Nesterov, {"momentum": 0.9}),
    OptimizerCase(
        "adagrad",
        optax.adagrad,
        textbook.AdaGrad,
        {"initial_accumulator_value": 0.1, "eps": 1e-7},
        {"initial_accumulator_value": "initial"} | ROOT,
    ),
    OptimizerCase(
        "adadelta", optax.adadelta, textbook.AdaDelta, {"rho": 0.9, "eps": 1e-6}, ROOT, learning_rate=1.0, quick=False
    ),
    OptimizerCase("rmsprop", optax.rmsprop, textbook.RMSProp, {"decay": 0.9, "eps": 1e-8}, ROOT),
    OptimizerCase("adam", optax.adam, textbook.Adam, ADAM),
    OptimizerCase("adamw", optax.adamw, textbook.AdamW, ADAM | {"weight_decay": 0.01}),
    OptimizerCase("adamax", optax.adamax, textbook.AdaMax, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    OptimizerCase("nadam", optax.nadam, textbook.NAdam, ADAM, quick=False),
    OptimizerCase("radam", optax.radam, textbook.RAdam, ADAM | {"threshold": 5.0}),
    OptimizerCase("amsgrad", optax.amsgrad, textbook.AMSGrad, ADAM, quick=False),
    OptimizerCase(
        "adabelief", optax.adabelief, textbook.AdaBelief, ADAM | {"eps": 1e-16, "eps_root": 1e-16}, quick=False
    ),
    OptimizerCase("lamb", optax.lamb, textbook.LAMB, ADAM | {"eps": 1e-6, "weight_decay": 0.01}, learning_rate=0.001),
    OptimizerCase("lion", optax.lion, textbook.Lion, {"b1": 0.9, "b2": 0.99, "weight_decay": 0.001}),
    OptimizerCase(
        "rmsprop with momentum",
        optax.rmsprop,
        textbook.RMSProp,
        {"decay": 0.9, "eps": 1e-8, "momentum": 0.9},
        ROOT,
        quick=False,
    ),
    OptimizerCase(
        "centered rmsprop",
        partial(optax.rmsprop, centered=True),
        textbook.CenteredRMSProp,
        {"decay": 0.9, "eps": 1e-8, "momentum": 0.9},
        ROOT,
    ),
    OptimizerCase(
        "rmsprop, eps outside",
        partial(optax.rmsprop, eps_in_sqrt=False),
        partial(textbook.RMSProp, eps_root=0.0),
        {"decay": 0.9, "eps": 1e-8},
        quick=False,
    ),
    OptimizerCase(
        "adagrad from 0",
        optax.adagrad,
        textbook.AdaGrad,
        {"initial_accumulator_value": 0.0, "eps": 0.0},
        {"initial_accumulator_value": "initial"} | ROOT,
        quick=False,
    ),
    OptimizerCase(
        "adamaxw", optax.adamaxw, textbook.AdaMax, {"b1": 0.9, "b2": 0.999, "weight_decay": 0.01}, quick=False
    ),
    OptimizerCase("sign_sgd", optax.sign_sgd, textbook.SignDescent, quick=False),
    OptimizerCase("signum", optax.signum, textbook.Signum, {"beta": 0.9}, quick=False),
    OptimizerCase("yogi", optax.yogi, textbook.Yogi, {"b1": 0.9, "b2": 0.999, "eps": 1e-3}, quick=False),
    OptimizerCase(
        "novograd",
        optax.novograd,
        textbook.NovoGrad,
        {"b1": 0.9, "b2": 0.25, "eps": 1e-6, "weight_decay": 0.01},
        learning_rate=0.001,
        quick=False,
    ),
    OptimizerCase(
        "lars",
        optax.lars,
        textbook.LARS,
        {"weight_decay": 0.01, "trust_coefficient": 0.1, "eps": 1e-9, "momentum": 0.9},
        learning_rate=0.001,
        quick=False,
    ),
    OptimizerCase("fromage", optax.fromage, textbook.Fromage, {"min_norm": 1e-6}, learning_rate=0.001, quick=False),
    OptimizerCase(
        "optimistic_gradient_descent",
        optax.optimistic_gradient_descent,
        textbook.OptimisticGradientDescent,
        {"alpha": 1.0, "beta": 0.5},
        quick=False,
    ),
    OptimizerCase(
        "clipped adam",
        partial(_clipped, optax.adam),
        partial(_clipped_rule, textbook.Adam),
        ADAM | {"max_norm": 1.0},
        quick=False,
    ),
    OptimizerCase(
        "clipped sgd", partial(_clipped, optax.sgd), partial(_clipped_rule, textbook.GradientDescent), {"max_norm": 1.0}
    ),
    OptimizerCase(
        "penalized adam",
        partial(_penalized, optax.adam),
        partial(_penalized_rule, textbook.Adam),
        ADAM | {"l1": 0.003, "l2": 0.01},
        quick=False,
    ),
    OptimizerCase(
        "penalized sgd",
        partial(_penalized, optax.sgd),
        partial(_penalized_rule, textbook.GradientDescent),
        {"l1": 0.003, "l2": 0.01},
        quick=False,
    ),
    OptimizerCase(
        "decayed sgd",
        partial(_decayed, optax.identity),
        partial(_penalized_rule, textbook.GradientDescent, l1=0.0),
        {"weight_decay": 0.01},
        {"weight_decay": "l2"},
        quick=False,
    ),
)
"""Every name in ``functional_nn.training.OPTIMIZERS``, other optimizers of Optax, and clipping and penalties."""
