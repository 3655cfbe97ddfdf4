"""What a run is made of, as flags and ``config.json`` name it."""

from __future__ import annotations

import inspect
import math
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from functional_nn.cli.flag_values import flag_value
from functional_nn.cli.run_flags import run_flag
from functional_nn.core.errors import DataError, InputError, short_repr, suggest

if TYPE_CHECKING:
    import jax
    import optax

    from functional_nn.core.layer import Layer
    from functional_nn.training.step import PenaltyFunction

Number: TypeAlias = "float | jax.Array"
"""A number; for a member of a sweep, it may be a traced array inside the compiled program."""

JSON_TYPES: dict[Any, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "tuple[int, ...] | None": (list, type(None)),
    "int": (int,),
    "Number": (int, float),
    "Number | None": (int, float, type(None)),
    "bool": (bool,),
}
"""What JSON makes of a field's type."""

MOST = 2**32 - 1
"""The largest integer of a configuration, which is the largest seed. No count comes near it."""

MODEL_FLAGS = ("hidden", "activation", "dropout", "batch_norm")
"""The flags that go to the model, as far as it takes them."""

DESCENT = ("sgd", "momentum", "nesterov")
"""The optimizers whose weight decay is added to the gradient, as an L2 penalty's."""

FASTER_BY_FORMULA = ("cnn", "lenet", "deep_cnn", "resnet", "rnn", "lstm", "gru")
"""The models that train faster on their hand-derived backward pass than by ``jax.grad``; see docs/performance.md."""


@dataclass(frozen=True)
class Configuration:
    """Every choice of a training run; the names are the command's flags."""

    dataset: str
    data_dir: str | None
    model: str
    hidden: tuple[int, ...] | None
    activation: str | None
    dropout: Number
    batch_norm: bool
    l1: Number
    l2: Number
    optimizer: str
    learning_rate: Number
    schedule: str
    epochs: int
    batch_size: int
    seed: int
    precision: str
    gradient: str
    weight_decay: Number | None = None
    shift: int = 0
    deform: Number = 0.0
    devices: int = 1
    clip_norm: Number | None = None
    non_finite: str = "stop"

    def completed(self) -> Configuration:
        """With the model's own values where nothing was chosen.

        Raises:
            InputError: for a flag that the model does not take.
        """
        from functional_nn.models.named_models import MODELS

        if self.model not in MODELS:
            raise InputError("--model", "a known name", short_repr(self.model), suggest(self.model, MODELS))
        taken = inspect.signature(MODELS[self.model]).parameters
        changes = {}
        for name in MODEL_FLAGS:
            value = getattr(self, name)
            if name not in taken and value:
                known = ", ".join(flag_of(flag) for flag in MODEL_FLAGS if flag in taken)
                raise InputError(flag_of(name), f"only flags that {self.model} takes ({known})", short_repr(value))
            if name in taken and value is None:
                default = taken[name].default
                changes[name] = getattr(default, "name", default)
        if self.gradient == "auto":
            changes["gradient"] = "formula" if self.model in FASTER_BY_FORMULA else "jax"
        return replace(self, **changes)

    def network(self, classes: int) -> Layer:
        """The network for so many classes."""
        from functional_nn.activations.table import activation
        from functional_nn.layers.augmentation import random_deformation, random_shift
        from functional_nn.layers.combinators.chain import chain
        from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
        from functional_nn.models.named_models import model

        options = {name: value for name in MODEL_FLAGS if is_given(value := getattr(self, name))}
        if "activation" in options:
            options["activation"] = activation(options["activation"])
        net = model(self.model, classes, **options)
        augmentation = [random_deformation(self.deform)] if is_given(self.deform) else []
        augmentation += [random_shift(self.shift)] if self.shift else []
        net = chain(*augmentation, net) if augmentation else net
        return with_hand_vjp(net) if self.gradient == "formula" else net

    def transformation(self, examples: int) -> optax.GradientTransformation:
        """The optimizer with its schedule over the run's steps, its decay and its clipping."""
        from functional_nn.training.optimizers.clipping import with_clipping
        from functional_nn.training.optimizers.lookup import schedule

        steps = self.epochs * math.ceil(examples / self.batch_size)
        constant = self.schedule == "constant"
        rule = self._rule(self.learning_rate if constant else schedule(self.schedule, self.learning_rate, steps))
        return rule if self.clip_norm is None else with_clipping(rule, self.clip_norm)

    def _rule(self, rate: Any) -> optax.GradientTransformation:
        import optax

        from functional_nn.training.optimizers.lookup import OPTIMIZERS, optimizer

        if self.weight_decay is None:
            return optimizer(self.optimizer, rate)
        if self.optimizer in DESCENT:
            return optax.chain(optax.add_decayed_weights(self.weight_decay), optimizer(self.optimizer, rate))
        able = [name for name, make in OPTIMIZERS.items() if "weight_decay" in inspect.signature(make).parameters]
        if self.optimizer not in able:
            expected = f"an optimizer with weight decay ({', '.join((*DESCENT, *able))})"
            raise InputError("--weight-decay", expected, self.optimizer)
        return optimizer(self.optimizer, rate, weight_decay=self.weight_decay)

    def penalty(self) -> PenaltyFunction | None:
        """The sum of the penalties, or None where there is none."""
        from functional_nn.losses.penalties import l1, l2

        penalties = [penalty(rate) for penalty, rate in ((l1, self.l1), (l2, self.l2)) if is_given(rate)]
        if not penalties:
            return None
        return lambda params: sum((penalty(params) for penalty in penalties[1:]), penalties[0](params))

    def to_dict(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        return {**asdict(self), "hidden": self.hidden and list(self.hidden)}

    def settings(self) -> dict[str, Any]:
        """What has to be equal for a run to go on: all but where data lie, and the length that no schedule follows."""
        free = {"data_dir"} | ({"epochs"} if self.schedule == "constant" else set())
        return {name: value for name, value in self.to_dict().items() if name not in free}

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> Configuration:
        """Reads what ``to_dict`` wrote; ``path`` is named in errors."""
        values = {field.name: field.default for field in fields(cls) if field.default is not MISSING} | values
        read = cls(**{field.name: _from_json(field, values.get(field.name, ...), path) for field in fields(cls)})
        try:
            complete = read.completed()
        except InputError as error:
            raise DataError(str(path), "a run's configuration", f"one whose model does not fit ({error})") from None
        if missing := [name for name, value in asdict(read).items() if value != getattr(complete, name)]:
            raise DataError(str(path), "a run's configuration", f"one with {', '.join(missing)} missing")
        return read


def _from_json(field: Field[Any], value: Any, path: Path) -> Any:
    """A field's value as its flag of ``functional-nn train`` takes it, from what JSON made of it."""
    # True is an int in Python, and so is 10**400, so types are compared, and numbers bounded.
    numbers = value if type(value) is list else [value]
    allowed = JSON_TYPES[field.type]
    is_of_type = type(value) in allowed and (type(value) is not list or all(type(size) is int for size in value))
    if not is_of_type or any(type(number) is int and abs(number) > MOST for number in numbers):
        given = f"one with {field.name} missing" if value is ... else f"one with {field.name} {short_repr(value)}"
        raise DataError(str(path), "a run's configuration", given)
    if value is None:
        return None
    try:
        return flag_value(run_flag(field.name), value)
    except click.BadParameter as error:
        given = f"one with {field.name} {short_repr(value)} ({error.message.rstrip('.')})"
        raise DataError(str(path), "a run's configuration", given) from None


def is_given(value: Any) -> bool:
    """Whether a flag was given: not None, no flag that is off, and no 0; what is traced may be anything."""
    return value is not None and (not isinstance(value, bool | int | float) or bool(value))


def flag_of(name: str) -> str:
    """A field as the command line writes it."""
    return "--" + name.replace("_", "-")
