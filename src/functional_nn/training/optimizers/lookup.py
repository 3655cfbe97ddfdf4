"""Learning-rate and optimizer lookup by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.texts import suggest
from functional_nn.core.validation import check_choice, check_count, check_number, is_function, shown

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "nesterov": partial(optax.sgd, momentum=0.9, nesterov=True),
    "adagrad": optax.adagrad,
    "adadelta": optax.adadelta,
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "adamw": optax.adamw,
    "adamax": optax.adamax,
    "nadam": optax.nadam,
    "radam": optax.radam,
    "amsgrad": optax.amsgrad,
    "adabelief": optax.adabelief,
    "lamb": optax.lamb,
    "lion": optax.lion,
}
"""Every named optimizer: a function of the learning rate (a number, a traced array or a schedule)."""


def optimizer(name: str, learning_rate: optax.ScalarOrSchedule, **options) -> optax.GradientTransformation:
    """The Optax optimizer with a name. ``momentum`` and ``nesterov`` are gradient descent with momentum 0.9.

    ``options`` are keyword arguments of the Optax function, such as ``b1`` of ``adam``. Parameters in float16 are
    refused if the rule's ``eps`` is 0 in float16, as Adam's 1e-8 is: a gradient of 0 would make them NaN.

    >>> import jax.numpy as jnp
    >>> rule = optimizer("sgd", 0.5)
    >>> updates, _ = rule.update(jnp.array(2.0), rule.init(jnp.array(0.0)))
    >>> print(updates)
    -1.0
    """
    check_choice("optimizer", name, OPTIMIZERS)
    make = OPTIMIZERS[name]
    if not is_function(learning_rate):
        check_number("learning_rate", learning_rate, "a finite number, or a schedule")
    known = [parameter for parameter in inspect.signature(make).parameters if parameter != "learning_rate"]
    for option, value in options.items():
        if option not in known:
            raise InputError("options", f"options of {name}", option, suggest(option, known))
        # A dtype may be given by its name. No other option is a string or a sequence.
        if isinstance(value, str | bytes | list | tuple) and not option.endswith("dtype"):
            raise InputError(option, f"a value that Optax's {name} accepts", shown(value))
    return _refusing_vanished_eps(name, make(learning_rate, **options), _eps(make, options))


def _eps(make, options) -> float | None:
    """The number ``eps`` that a rule adds to a denominator; None if there is none, or if it is traced."""
    default = inspect.signature(make).parameters.get("eps")
    eps = options.get("eps", None if default is None else default.default)
    return float(eps) if eps is not None and is_concrete(eps) else None


def _refusing_vanished_eps(name, rule, eps):
    """Makes the rule refuse float16 parameters if ``eps`` is 0 in float16: a gradient of 0 would become 0 / 0."""
    if eps is None or np.float16(eps) != 0:
        return rule

    def init(params):
        if any(jnp.result_type(leaf) == jnp.float16 for leaf in jax.tree.leaves(params)):
            remedy = "Keep the parameters in float32, as precision='float16' of fit does, or give eps=1e-4."
            given = f"float16, in which {name}'s eps = {eps:g} is 0"
            raise InputError("params", "parameters in float32, float64 or bfloat16", given, remedy)
        return rule.init(params)

    return rule._replace(init=init)


SCHEDULES: dict[str, Callable[[float | jax.Array, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
    "one-cycle": lambda rate, steps: optax.cosine_onecycle_schedule(steps, rate),
    "step": lambda rate, steps: optax.piecewise_constant_schedule(rate, _step_boundaries(steps)),
}
"""Every named schedule: a function of the learning rate and the number of steps in the run."""


def _step_boundaries(steps: int) -> dict[int, float]:
    """The steps at which the schedule ``step`` divides the rate by 10; step 0 is left out, in very short runs."""
    return {boundary: 0.1 for boundary in (steps // 2, steps * 3 // 4) if boundary > 0}


def schedule(name: str, learning_rate: float | jax.Array, steps: int) -> optax.Schedule:
    """The learning rate over a run of ``steps`` updates.

    ``constant`` keeps the rate. ``cosine`` lowers it to 0. ``one-cycle`` raises it in the first 30% of the steps and
    then lowers it nearly to 0. ``step`` divides it by 10 after half of the steps, and again after three quarters.

    >>> rate = schedule("step", 0.1, steps=100)
    >>> print(rate(0), round(float(rate(60)), 4), round(float(rate(80)), 5))
    0.1 0.01 0.001
    """
    check_choice("schedule", name, SCHEDULES)
    check_number("learning_rate", learning_rate)
    steps = check_count("steps", steps)
    return SCHEDULES[name](learning_rate, steps)
