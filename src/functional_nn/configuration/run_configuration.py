"""The configuration of a training run: flags, ``config.json``, and the network and optimizer they make."""

from __future__ import annotations

import inspect
import math
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from functional_nn.configuration.flag_types import LARGEST_SEED, FlagValue
from functional_nn.configuration.run_flags import flag_value, run_flag
from functional_nn.core.errors import DataError, InputError, short_repr
from functional_nn.core.texts import suggest

if TYPE_CHECKING:
    import jax
    import optax

    from functional_nn.core.layer import Layer
    from functional_nn.data.dataset import Dataset
    from functional_nn.training.step import PenaltyFunction

Number: TypeAlias = "float | jax.Array"
"""A number; for a member of a sweep, it may be a traced array inside the compiled program."""

JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "tuple[int, ...] | None": (list, type(None)),
    "int": (int,),
    "float": (int, float),
    "Number": (int, float),
    "Number | None": (int, float, type(None)),
    "bool": (bool,),
}
"""For each annotation of a field, the types that its value may have in JSON."""

LARGEST_INTEGER = LARGEST_SEED
"""The largest integer that a configuration may have. This limit is the one for seeds, which may be large."""

MODEL_FLAGS = ("hidden", "activation", "dropout", "batch_norm")
"""The flags that are passed to the model if it takes them."""

GRADIENT_DESCENT = ("sgd", "momentum", "nesterov")
"""The optimizers for which weight decay is added to the gradient, as for an L2 penalty."""


@dataclass(frozen=True)
class Configuration:
    """The choices of a training run. The fields have the names of the command's flags."""

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
    validation: float = 0.0
    image_size: tuple[int, ...] | None = None
    image_color: str | None = None
    freeze: str | None = None

    def completed(self) -> Configuration:
        """Fills in the model's defaults for values that were not given.

        Raises:
            InputError: for a flag that the model does not take.
        """
        from functional_nn.models import FASTER_BY_FORMULA
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
                # The default of an activation is an object; the configuration has its name.
                default = taken[name].default
                changes[name] = getattr(default, "name", default)
        if self.gradient == "auto":
            changes["gradient"] = "formula" if self.model in FASTER_BY_FORMULA else "jax"
        return replace(self, **changes)

    def load_data(self, progress: bool | None = None) -> Dataset:
        """The data set, with its validation images. A bar shows the progress as for `load_dataset`."""
        from functional_nn.data.sources import load_dataset

        # A single number is both height and width.
        size = None if self.image_size is None else (self.image_size[0], self.image_size[-1])
        data = load_dataset(
            self.dataset, self.data_dir, image_size=size, image_color=self.image_color, progress=progress
        )
        return data.with_validation(self.validation) if self.validation else data

    @property
    def has_augmentation(self) -> bool:
        """Whether training images are moved or deformed. Then the network is the last layer of a chain."""
        return is_given(self.deform) or bool(self.shift)

    def network_path(self, path: str) -> str:
        """The path of a parameter in the network without augmentation of images, from its path in the whole network.

        With augmentation, the network is a layer of a chain, whose name is the first part of each path.
        """
        return path.partition("/")[2] if self.has_augmentation else path

    @property
    def frozen_patterns(self) -> tuple[str, ...]:
        """The patterns of ``freeze``, which match paths without augmentation."""
        return tuple(pattern.strip() for pattern in (self.freeze or "").split(",") if pattern.strip())

    def is_frozen(self, path: str) -> bool:
        """Whether the parameter at this path keeps its value."""
        return any(fnmatchcase(self.network_path(path), pattern) for pattern in self.frozen_patterns)

    def network(self, classes: int) -> Layer:
        """The network, with one output per class."""
        from functional_nn.activations.table import activation
        from functional_nn.layers.augmentation import random_deformation, random_shift
        from functional_nn.layers.combinators.chain import chain
        from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
        from functional_nn.models.named_models import model

        given = {name: getattr(self, name) for name in MODEL_FLAGS}
        options = {name: value for name, value in given.items() if is_given(value)}
        if "activation" in options:
            options["activation"] = activation(options["activation"])
        net = model(self.model, classes, **options)
        augmentation = []
        if is_given(self.deform):
            augmentation.append(random_deformation(self.deform))
        if self.shift:
            augmentation.append(random_shift(self.shift))
        if augmentation:
            net = chain(*augmentation, net)
        return with_hand_vjp(net) if self.gradient == "formula" else net

    def transformation(self, examples: int) -> optax.GradientTransformation:
        """The optimizer, with its schedule over the steps of the run, its weight decay, clipping and freezing."""
        import optax

        from functional_nn.training.optimizers import schedule, with_clipping, with_frozen

        steps = self.epochs * math.ceil(examples / self.batch_size)
        # The optimizer's state has the rate of the last step, which fit reports for each epoch. A constant rate is a
        # schedule, too: so it stays a constant of the compiled step, and the step computes the same bits as without.
        rate = schedule(self.schedule, self.learning_rate, steps)
        rule = optax.inject_hyperparams(self._rule)(learning_rate=rate)
        if self.clip_norm is not None:
            rule = with_clipping(rule, self.clip_norm)
        # Outside of the clipping, so that gradients of frozen parameters do not count for the norm.
        return rule if self.freeze is None else with_frozen(rule, self.is_frozen)

    def _rule(self, learning_rate: float | jax.Array) -> optax.GradientTransformation:
        import optax

        from functional_nn.training.optimizers import OPTIMIZERS, optimizer

        if self.weight_decay is None:
            return optimizer(self.optimizer, learning_rate)
        if self.optimizer in GRADIENT_DESCENT:
            return optax.chain(optax.add_decayed_weights(self.weight_decay), optimizer(self.optimizer, learning_rate))
        able = [name for name, make in OPTIMIZERS.items() if "weight_decay" in inspect.signature(make).parameters]
        if self.optimizer not in able:
            expected = f"an optimizer with weight decay ({', '.join((*GRADIENT_DESCENT, *able))})"
            raise InputError("--weight-decay", expected, self.optimizer)
        return optimizer(self.optimizer, learning_rate, weight_decay=self.weight_decay)

    def penalty(self) -> PenaltyFunction | None:
        """The sum of the penalties, or None if there is none."""
        from functional_nn.losses.penalties import l1, l2

        penalties: list[PenaltyFunction] = []
        if is_given(self.l1):
            penalties.append(l1(self.l1))
        if is_given(self.l2):
            penalties.append(l2(self.l2))
        if not penalties:
            return None
        first, *others = penalties
        return lambda params: sum((penalty(params) for penalty in others), first(params))

    def to_dict(self) -> dict[str, object]:
        """The configuration as ``config.json`` stores it."""
        sizes = {
            name: None if value is None else list(value)
            for name, value in (("hidden", self.hidden), ("image_size", self.image_size))
        }
        return {**asdict(self), **sizes}

    def settings(self) -> dict[str, object]:
        """The values that must stay the same for a run to be resumed.

        The folder of the data may change, and the number of devices. The number of epochs may change unless the
        schedule depends on it.
        """
        may_change = {"data_dir", "devices"}
        if self.schedule == "constant":
            may_change.add("epochs")
        return {name: value for name, value in self.to_dict().items() if name not in may_change}

    @classmethod
    def from_dict(cls, values: dict[str, object], path: Path) -> Configuration:
        """Reads what ``to_dict`` wrote; ``path`` is named in errors."""
        # A folder from an earlier version lacks newer fields. These have defaults.
        defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        values = defaults | values
        configuration = cls(
            **{field.name: _from_json(field, values.get(field.name, ...), path) for field in fields(cls)}
        )
        try:
            complete = configuration.completed()
        except InputError as error:
            raise DataError(str(path), "a run's configuration", f"one whose model does not fit ({error})") from None
        # A run writes its completed configuration. So if a value is still missing, it was removed from the file.
        if missing := [name for name, value in asdict(configuration).items() if value != getattr(complete, name)]:
            raise DataError(str(path), "a run's configuration", f"one with {', '.join(missing)} missing")
        return configuration


def _from_json(field: Field[object], value: object, path: Path) -> FlagValue:
    """Converts the JSON value of a field as the flag of ``functional-nn train`` does; ``...`` means it is missing."""
    # JSON may hold integers of any size, and True counts as an int in Python. So types are compared exactly, and
    # integers are bounded.
    is_of_type = type(value) in JSON_TYPES[str(field.type)]
    numbers = value if type(value) is list else [value]
    if type(value) is list:
        is_of_type = is_of_type and all(type(size) is int for size in value)
    is_too_large = any(type(number) is int and abs(number) > LARGEST_INTEGER for number in numbers)
    if not is_of_type or is_too_large:
        given = f"one with {field.name} missing" if value is ... else f"one with {field.name} {short_repr(value)}"
        raise DataError(str(path), "a run's configuration", given)
    if value is None:
        return None
    try:
        return flag_value(run_flag(field.name), value)
    except click.BadParameter as error:
        given = f"one with {field.name} {short_repr(value)} ({error.message.rstrip('.')})"
        raise DataError(str(path), "a run's configuration", given) from None


def is_given(value: object) -> bool:
    """Whether a flag was given and is not off. None, False and 0 mean off. A traced value always counts as given."""
    if isinstance(value, bool | int | float):
        return bool(value)
    return value is not None


def flag_of(name: str) -> str:
    """The flag that sets a field: ``--batch-norm`` for ``batch_norm``."""
    return "--" + name.replace("_", "-")
