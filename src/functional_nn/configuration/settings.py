# ruff: noqa: RUF009 (`setting` makes a field, as `dataclasses.field` does)
"""The settings of a run: one table, which makes flags, the checks of ``config.json`` and the table of the reference.

Below the table: the network and the optimizer that the settings make, and values for them from files and recipes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

import click

from functional_nn import names
from functional_nn.configuration.flag_types import (
    COUNT,
    COUNT_OR_ZERO,
    IMAGE_SIZE,
    LARGEST_SEED,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    SIZES,
    FlagValue,
    Named,
    Several,
    as_written,
    from_value,
)
from functional_nn.core.errors import DataError, InputError, check, escaped, shortened, shown

if TYPE_CHECKING:
    import jax
    import optax

    from functional_nn.core.layer import Layer
    from functional_nn.data.dataset import Dataset
    from functional_nn.training.recipe import Hyperparameters, Recipe
    from functional_nn.training.step import PenaltyFunction

Number: TypeAlias = "float | jax.Array"
"""A number; for a member of a sweep, it may be a traced array inside the compiled program."""
Function = TypeVar("Function", bound=Callable[..., object])


class Setting(NamedTuple):
    """What the table says about a setting, besides its type for Python and its default.

    Args:
        group: the part of the help that it stands in. ``import`` has the flags of data and network only.
        kind: the type of its flag, which also checks a value in a file.
        help: what its flag says.
        several: what its flag says in ``sweep``, if that is something else.
        unset: what None stands for, in words.
        metavar: the name of its value in the help.
        swept: whether the members of a sweep may have different values: by a flag, only in a grid file, or not at all.
        separator: the text between two values in ``sweep``.
        alone: whether only ``train`` has its flag.
        may_change: whether a run that goes on may have another value.
    """

    group: str
    kind: click.ParamType
    help: str
    several: str = ""
    unset: str = ""
    metavar: str | None = None
    swept: Literal["flag", "file", "no"] = "no"
    separator: str = ","
    alone: bool = False
    may_change: bool = False

    def is_of(self, command: str) -> bool:
        """Whether a command has the flag."""
        if command == "import":
            return self.group != TRAINING
        return command == "train" or not self.alone


def setting(group: str, kind: click.ParamType, default: object, help: str, **more: Any) -> Any:
    """A field of the table. None, False and 0 mean that nothing is chosen, or that it is off."""
    return field(default=default, metadata={"setting": Setting(group, kind, help, **more)})


DATA, NETWORK, TRAINING = "Data", "Network", "Training"


@dataclass(frozen=True)
class Configuration:
    """The choices of a training run. The fields have the names of the command's flags.

    A new setting needs a row here, and a line below where it is used.
    """

    dataset: str = setting(
        DATA,
        click.STRING,
        "mnist5k",
        "mnist5k (in the package), folder:PATH (a folder of images for each class), csv:FILE (a table), mnist, "
        "fashion_mnist, kmnist, or any TFDS image set.",
        metavar="NAME",
    )
    data_dir: str | None = setting(
        DATA, click.STRING, None, "Folder of IDX files, or a prepared TFDS folder.", metavar="DIR", may_change=True
    )
    image_size: tuple[int, ...] | None = setting(
        DATA,
        IMAGE_SIZE,
        None,
        "Height and width for images of folder:PATH: 64, or 48,64.",
        unset="their common size, else 64",
        metavar="SIZE",
    )
    image_color: str | None = setting(
        DATA,
        Named(("gray", "rgb")),
        None,
        "Colors for images of folder:PATH.",
        unset="gray if all are gray",
    )
    label: str | None = setting(DATA, click.STRING, None, "Column of csv:FILE that has the classes.", metavar="COLUMN")
    model: str = setting(NETWORK, Named(names.MODELS), "mlp", "The network.", swept="flag")
    hidden: tuple[int, ...] | None = setting(
        NETWORK,
        SIZES,
        None,
        "Hidden sizes, such as 128,64, or none.",
        several="Hidden sizes, one list or several: 128,64/256.",
        unset="the model's",
        metavar="SIZES",
        swept="flag",
        separator="/",
    )
    activation: str | None = setting(
        NETWORK,
        Named(names.ACTIVATIONS),
        None,
        "What follows each hidden layer.",
        unset="the model's",
        swept="flag",
    )
    dropout: Number = setting(NETWORK, SHARE, 0.0, "Share of hidden outputs to drop in training.", swept="flag")
    batch_norm: bool = setting(NETWORK, click.BOOL, False, "Normalize each hidden layer over the batch.", swept="file")
    precision: str = setting(NETWORK, Named(names.PRECISIONS), "float32", "The type the network computes in.")
    optimizer: str = setting(TRAINING, Named(names.OPTIMIZERS), "adam", "The optimizer.", swept="flag")
    learning_rate: Number = setting(TRAINING, POSITIVE, 1e-3, "Learning rate; a schedule's largest.", swept="flag")
    schedule: str = setting(TRAINING, Named(names.SCHEDULES), "constant", "Learning rate over the run.", swept="flag")
    weight_decay: Number | None = setting(
        TRAINING,
        NOT_NEGATIVE,
        None,
        "Decay of the weights, for sgd, adamw and their like.",
        unset="the optimizer's",
        swept="flag",
    )
    clip_norm: Number | None = setting(
        TRAINING, POSITIVE, None, "Largest norm of a step's gradient.", unset="none", swept="flag"
    )
    label_smoothing: Number = setting(
        TRAINING, SHARE, 0.0, "Share of each label that is spread over all classes.", swept="flag"
    )
    l1: Number = setting(TRAINING, NOT_NEGATIVE, 0.0, "Rate of the penalty rate · Σ|w| on the weights.", swept="flag")
    l2: Number = setting(TRAINING, NOT_NEGATIVE, 0.0, "Rate of the penalty rate/2 · Σw² on the weights.", swept="flag")
    validation: float = setting(
        TRAINING,
        SHARE,
        0.0,
        "Share of the training examples that is kept to choose by. Test examples are then used once, at the end.",
    )
    shift: int = setting(TRAINING, COUNT_OR_ZERO, 0, "Places that training images move by at most.", swept="flag")
    deform: Number = setting(TRAINING, SHARE, 0.0, "Largest stretch and slant of training images.", swept="flag")
    epochs: int = setting(TRAINING, COUNT, 10, "Passes over the training data.", swept="flag")
    batch_size: int = setting(TRAINING, COUNT, 64, "Examples in a step.", swept="flag")
    patience: int | None = setting(
        TRAINING,
        COUNT,
        None,
        "Stop after this number of epochs without a lower loss.",
        several="Stop a model after this number of epochs without a lower loss.",
        may_change=True,
    )
    keep_best: bool = setting(
        TRAINING,
        click.BOOL,
        False,
        "Keep the epoch with the lowest loss, not the last one; needs --out.",
        alone=True,
        may_change=True,
    )
    seed: int = setting(
        TRAINING, SEED, 0, "For initial values, shuffling and noise.", several="The first seed.", swept="file"
    )
    gradient: str = setting(
        TRAINING,
        Named(names.GRADIENTS),
        "auto",
        "jax: jax.grad; formula: the hand-derived backward pass; auto: the faster one for its layers.",
        swept="file",
    )
    non_finite: str = setting(
        TRAINING, Named(names.NON_FINITE), "stop", "After a step that is not finite: stop; or skip it.", alone=True
    )
    freeze: str | None = setting(
        TRAINING,
        click.STRING,
        None,
        "Parameters that keep their values, such as 'conv_*,dense_0/*'; see --from.",
        unset="none",
        metavar="PATTERNS",
        alone=True,
    )
    devices: int = setting(
        TRAINING, COUNT, 1, "Devices that share each batch; on a CPU, as many cores.", alone=True, may_change=True
    )
    metrics: tuple[str, ...] | None = setting(
        TRAINING,
        Several(Named(names.NUMBERS)),
        None,
        f"Some of: {', '.join(names.NUMBERS)}.",
        unset="accuracy",
        metavar="NAMES",
        may_change=True,  # fit compares them itself
    )

    def completed(self) -> Configuration:
        """Fills in the model's defaults for values that were not given.

        Raises:
            InputError: for a flag that the model does not take.
        """
        taken = inspect.signature(names.MODELS[self.model]).parameters
        changes = {}
        for name in MODEL_FLAGS:
            value = getattr(self, name)
            known = ", ".join(flag_of(flag) for flag in MODEL_FLAGS if flag in taken)
            is_taken = name in taken
            check(flag_of(name), value, f"only flags that {self.model} takes ({known})", is_taken or not is_on(value))
            if is_taken and value is None:
                # The default of an activation is an object; the configuration has its name.
                default = taken[name].default
                changes[name] = getattr(default, "name", default)
        return replace(self, **changes)

    def network_name(self, classes: int) -> str:
        """The model and the sizes of its layers, as in "mlp 128-64-10"."""
        return f"{self.model} {'-'.join(map(str, (*(self.hidden or ()), classes)))}"

    def of_member(self, hyperparameters: Hyperparameters) -> Configuration:
        """The configuration of a member of a sweep. Some of its numbers may be traced."""
        return replace(self, **{name: value for name, value in hyperparameters.items() if name in SETTINGS}).completed()

    def load_data(self, progress: bool | None = None) -> Dataset:
        """The data set, with its validation images. A bar shows the progress as for `load_dataset`."""
        from functional_nn.data.sources import load_dataset

        # A single number is both height and width.
        size = None if self.image_size is None else (self.image_size[0], self.image_size[-1])
        data = load_dataset(
            self.dataset,
            self.data_dir,
            image_size=size,
            image_color=self.image_color,
            label=self.label,
            progress=progress,
        )
        is_fit = data.features is None or self.model == "mlp"
        check("--model", self.model, "mlp for a table, since the other models take images", is_fit)
        return data.with_validation(self.validation) if self.validation else data

    @property
    def has_augmentation(self) -> bool:
        """Whether training images are moved or deformed. Then the network is the last layer of a chain."""
        return is_on(self.deform) or is_on(self.shift)

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

    def recipe(self, classes: int, examples: int | None) -> Recipe:
        """What is trained and how: the network, the loss, the optimizer, the penalty and the metrics.

        Args:
            classes: the number of classes.
            examples: the number of training examples, on which the number of steps depends; see ``transformation``.
        """
        from functional_nn.losses.classification import cross_entropy, cross_entropy_with
        from functional_nn.training.recipe import Recipe

        metrics = None if self.metrics is None else tuple((name, names.METRICS[name]) for name in self.metrics)
        loss = cross_entropy
        if is_on(self.label_smoothing):
            loss = cross_entropy_with(label_smoothing=self.label_smoothing)
        return Recipe(self.network(classes), loss, self.transformation(examples), self.penalty(), metrics)

    def network(self, classes: int) -> Layer:
        """The network, with one output per class."""
        from functional_nn.layers.augmentation import random_deformation, random_shift
        from functional_nn.layers.combinators.chain import chain
        from functional_nn.training.recipe import with_gradient

        options = {name: value for name in MODEL_FLAGS if is_on(value := getattr(self, name))}
        if "activation" in options:
            options["activation"] = names.ACTIVATIONS[options["activation"]]
        net = names.MODELS[self.model](classes, **options)
        augmentation = []
        if is_on(self.deform):
            augmentation.append(random_deformation(self.deform))
        if is_on(self.shift):
            augmentation.append(random_shift(self.shift))
        if augmentation:
            net = chain(*augmentation, net)
        return with_gradient(net, self.gradient)[0]

    def transformation(self, examples: int | None) -> optax.GradientTransformation:
        """The optimizer, with its schedule over the steps of the run, its weight decay, clipping and freezing.

        Without a number of examples there is no schedule. The rate is a number in the optimizer's state then, which
        may be changed there.
        """
        import optax

        from functional_nn.training.optimizers import schedule, with_clipping, with_frozen

        # The optimizer's state has the rate of the last step, which fit reports for each epoch. A constant rate is a
        # schedule, too: so it stays a constant of the compiled step, and the step computes the same bits as without.
        rate = self.learning_rate
        if examples is not None:
            rate = schedule(self.schedule, rate, self.epochs * math.ceil(examples / self.batch_size))
        rule = optax.inject_hyperparams(self._rule)(learning_rate=rate)
        if self.clip_norm is not None:
            rule = with_clipping(rule, self.clip_norm)
        # Outside of the clipping, so that gradients of frozen parameters do not count for the norm.
        return rule if self.freeze is None else with_frozen(rule, self.is_frozen)

    def _rule(self, learning_rate: float | jax.Array) -> optax.GradientTransformation:
        import optax

        make = names.OPTIMIZERS[self.optimizer]
        if self.weight_decay is None:
            return make(learning_rate)
        able = [name for name, make in names.OPTIMIZERS.items() if "weight_decay" in inspect.signature(make).parameters]
        if self.optimizer in able:
            return make(learning_rate, weight_decay=self.weight_decay)
        expected = f"an optimizer with weight decay ({', '.join((*GRADIENT_DESCENT, *able))})"
        check("--weight-decay", self.optimizer, expected, self.optimizer in GRADIENT_DESCENT)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), make(learning_rate))

    def penalty(self) -> PenaltyFunction | None:
        """The sum of the penalties, or None if there is none."""
        rates = {name: getattr(self, name) for name in names.PENALTIES}
        penalties = [names.PENALTIES[name](rate) for name, rate in rates.items() if is_on(rate)]
        if not penalties:
            return None
        return lambda params: reduce(lambda a, b: a + b, (penalty(params) for penalty in penalties))

    def to_dict(self) -> dict[str, object]:
        """The configuration as ``config.json`` stores it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def settings(self) -> dict[str, object]:
        """The values that must stay the same for a run to be resumed.

        The number of epochs may change unless the schedule depends on it.
        """
        may_change = {name for name, one in SETTINGS.items() if one.may_change}
        if self.schedule == "constant":
            may_change.add("epochs")
        return {name: value for name, value in self.to_dict().items() if name not in may_change}

    @classmethod
    def from_dict(cls, values: Mapping[str, object], path: Path, *, is_completed: bool = True) -> Configuration:
        """Reads what ``to_dict`` wrote, also before a setting was added; ``path`` is named in errors.

        The configuration of a run is complete. That of a sweep is not: each member completes it.
        """
        configuration = cls(**{name: _from_json(name, values[name], path) for name in SETTINGS if name in values})
        try:
            complete = configuration.completed()
        except InputError as error:
            raise DataError(str(path), "a run's configuration", f"one whose model does not fit ({error})") from None
        if not is_completed:
            return configuration
        # A run writes its completed configuration. So if a value is still missing, it was removed from the file.
        if missing := [name for name, value in asdict(configuration).items() if value != getattr(complete, name)]:
            raise DataError(str(path), "a run's configuration", f"one with {', '.join(missing)} missing")
        return configuration


SETTINGS: dict[str, Setting] = {one.name: one.metadata["setting"] for one in fields(Configuration)}
"""The table, by the names of the fields."""
DEFAULTS = Configuration().to_dict()
"""The defaults, as ``config.json`` stores them. They are used for settings that were added after a folder was made."""
AXES = tuple(name for name, one in SETTINGS.items() if one.swept == "flag")
"""The settings whose flags take several values in a sweep, one for each member."""
MODEL_FLAGS = ("hidden", "activation", "dropout", "batch_norm")
"""The settings that are passed to the model if it takes them."""
GRADIENT_DESCENT = ("sgd", "momentum", "nesterov")
"""The optimizers for which weight decay is added to the gradient, as for an L2 penalty."""


def is_on(value: object) -> bool:
    """Whether a value chooses something. None, False and 0 do not. A traced value always does."""
    return bool(value) if isinstance(value, bool | int | float) else value is not None


def flag_of(name: str) -> str:
    """The flag that sets a field: ``--batch-norm`` for ``batch_norm``."""
    return "--" + name.replace("_", "-")


def with_settings(command: str) -> Callable[[Function], Function]:
    """Gives a command the flags of its settings."""

    def add(function: Function) -> Function:
        for name, one in reversed(SETTINGS.items()):
            if one.is_of(command):
                function = _option(name, in_sweep=command == "sweep")(function)
        return function

    return add


def _option(name: str, *, in_sweep: bool) -> Callable[[Function], Function]:
    one, default = SETTINGS[name], getattr(Configuration, name)
    text, kind, metavar = one.several if in_sweep and one.several else one.help, one.kind, one.metavar
    if kind is click.BOOL:
        return click.option(flag_of(name), is_flag=True, help=text)
    takes_several = in_sweep and name in AXES
    if isinstance(kind, Named):
        metavar = "NAMES" if takes_several else "NAME"
        text += f" {'Some' if takes_several else 'One'} of: {', '.join(kind.choices)}."
    if takes_several:
        kind, metavar = Several(kind, one.separator), metavar or "NUMBERS"
        default = None if default is None else as_written(default)
    if one.unset:
        text += f"  [default: {one.unset}]"
    return click.option(flag_of(name), type=kind, default=default, metavar=metavar, help=text)


EVERYDAY, OUTPUT, SEVERAL = "Everyday", "Output and start", "Several computers"
"""Groups of flags in the help, besides those of the settings."""
GROUP_OF_FLAG = {
    **{name: one.group for name, one in SETTINGS.items()},
    **dict.fromkeys(("dataset", "model", "hidden", "optimizer", "learning_rate", "epochs", "batch_size"), EVERYDAY),
    **dict.fromkeys(("seeds", "recipe", "out", "resume"), EVERYDAY),
    **dict.fromkeys(("distributed", "coordinator", "num_processes", "process_id", "wait"), SEVERAL),
    "part": SEVERAL,
}
"""The groups of the flags. All other flags are in ``OUTPUT``."""


class GroupedCommand(click.Command):
    """A command whose help has a part for each group of settings, and the everyday ones first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                groups.setdefault(GROUP_OF_FLAG.get(parameter.name or "", OUTPUT), []).append(record)
        for group in filter(groups.get, (EVERYDAY, DATA, NETWORK, TRAINING, OUTPUT, SEVERAL)):
            with formatter.section(group):
                formatter.write_dl(groups[group])


RECIPES: dict[str, dict[str, str]] = {
    name: dict(pair.split("=") for pair in text.split())
    for name, text in {
        "fast": "model=lenet epochs=1 learning_rate=0.02 schedule=one-cycle",
        "best": "model=deep_cnn dropout=0.25 shift=2 deform=0.2 epochs=15 batch_size=128 optimizer=adamw "
        "learning_rate=0.003 weight_decay=0.01 schedule=one-cycle",
    }.items()
}
"""Values by flag, written as on the command line. docs/reference/models.md has the measured accuracies and times."""


def use_recipe(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """Replaces the defaults of the flags by the recipe's values."""
    if name is not None:
        context.default_map = {**(context.default_map or {}), **RECIPES[name]}


RECIPE = click.option(
    "--recipe",
    type=Named(RECIPES),
    is_eager=True,
    expose_value=False,
    callback=use_recipe,
    help="Values for flags that go together: fast, MNIST to 99% in seconds; best, to 99.6%.",
)


def members_of_file(members: Sequence[Mapping[str, object]], path: Path) -> list[dict[str, FlagValue]]:
    """Converts each value of a grid file's members by the flag of the same name.

    Args:
        members: as ``read_grid`` gives them.
        path: of the file, for errors.

    Raises:
        InputError: for a name that is not one of the settings that members may have.
        click.BadParameter: for a value that the flag refuses. The error names the file, the member and the column.
    """
    known = [name for name, one in SETTINGS.items() if one.swept != "no"]
    if unknown := sorted(members[0].keys() - set(known)):
        raise InputError("--grid", f"names of flags ({', '.join(known)})", shortened(", ".join(unknown)))

    def convert(number: int, name: str, value: object) -> FlagValue:
        try:
            return from_value(flag_of(name), SETTINGS[name].kind, value)
        except click.BadParameter as error:
            place = f"{escaped(str(path))}, member {number}, {name}"
            raise click.BadParameter(f"{place}: {error.message}", param_hint=f"'{flag_of(name)}'") from None

    return [
        {name: convert(number, name, value) for name, value in member.items()} for number, member in enumerate(members)
    ]


def _from_json(name: str, value: object, path: Path) -> FlagValue:
    """The value of a setting in ``config.json``, which has to be the one that the flag makes of its text."""
    if value is None and getattr(Configuration, name) is None:
        return None
    reason = ""
    try:
        found = from_value(flag_of(name), SETTINGS[name].kind, value)
        # JSON may hold integers of any size. The largest one that a setting may have is that of a seed.
        is_too_large = type(value) is int and abs(value) > LARGEST_SEED
        if not is_too_large and found == (tuple(value) if isinstance(value, list) else value):
            return found
    except click.BadParameter as error:
        reason = f" ({error.message.rstrip('.')})"
    raise DataError(str(path), "a run's configuration", f"one with {name} {shown(value)}{reason}")
