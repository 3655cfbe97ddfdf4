"""Types of command-line flags, and recipes: named sets of their values."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from functional_nn.core.errors import short_repr
from functional_nn.core.texts import suggest

if TYPE_CHECKING:
    from functional_nn.metrics import Metric

MODELS = ("mlp", "cnn", "lenet", "deep_cnn", "resnet", "rnn", "lstm", "gru", "transformer")
ACTIVATIONS = (
    "identity",
    "sigmoid",
    "tanh",
    "softsign",
    "softplus",
    "log_sigmoid",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "relu6",
    "hard_tanh",
    "hard_sigmoid",
    "hard_silu",
    "softmax",
    "log_softmax",
)
OPTIMIZERS = (
    "sgd",
    "momentum",
    "nesterov",
    "adagrad",
    "adadelta",
    "rmsprop",
    "adam",
    "adamw",
    "adamax",
    "nadam",
    "radam",
    "amsgrad",
    "adabelief",
    "lamb",
    "lion",
)
GRADIENTS = ("auto", "jax", "formula")
SCHEDULES = ("constant", "cosine", "one-cycle", "step")
NON_FINITE = ("stop", "skip")
PRECISIONS = ("float32", "bfloat16", "float16", "float64")
CHIPS = ("tpu-v5e", "tpu-v6e", "cuda-h100")
METRIC_NAMES = ("accuracy", "precision_score", "recall_score", "f1_score", "calibration_error", "brier_score")
LARGEST_SEED = 2**32 - 1
MOST_SIZES = 200
"""The largest number of hidden layers. More take long, even to compute shapes: 300 took 7 s, 1,500 took 50 s."""

FlagValue: TypeAlias = Any
"""The value of a flag as click converts it. What it is depends on the type of the flag."""


class Named(click.Choice):
    """A name from a list. For an unknown name, the error suggests the most similar one."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            self.fail(f"{short_repr(value)} is not known. {suggest(str(value), map(str, self.choices))}", param, ctx)
        return value


class Number(click.ParamType):
    """A number that meets a condition, such as ``Number("a number above 0", lambda x: x > 0)``."""

    name = "number"

    def __init__(self, expected: str, condition: Callable[[float], bool]):
        self.expected, self.condition = expected, condition

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"expected {self.expected}, got {short_repr(value)}.", param, ctx)
        if not self.condition(number):
            self.fail(f"expected {self.expected}, got {value}.", param, ctx)
        return number


class WholeNumber(click.IntRange):
    """A whole number in a range, such as ``WholeNumber("1 or more", min=1)``. The help shows the range."""

    def __init__(self, expected: str, min: int, max: int | None = None):
        super().__init__(min, max)
        self.expected = expected

    def convert(self, value: FlagValue, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number, {self.expected}, got {short_repr(value)}.", param, ctx)


class Sizes(click.ParamType):
    """Positive integers separated by commas, or ``none`` for no sizes."""

    name = "sizes"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        try:
            sizes = tuple(int(part) for part in value.split(","))
        except ValueError:
            sizes = (0,)
        if min(sizes) < 1:
            self.fail(f"expected positive integers such as 128,64, or none, got {value!r}.", param, ctx)
        if len(sizes) > MOST_SIZES:
            self.fail(f"expected at most {MOST_SIZES:,} sizes, got {len(sizes):,}.", param, ctx)
        return sizes


class ImageSize(Sizes):
    """The height and width of images: ``64`` for both, or ``48,64``."""

    name = "size"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        sizes = super().convert(value, param, ctx)
        if len(sizes) not in (1, 2):
            self.fail(f"expected a number of pixels such as 64, or height and width 48,64, got {value!r}.", param, ctx)
        return sizes


Values: TypeAlias = list[FlagValue] | None
"""The values of a flag that takes several; None if it is not given."""


class Several(click.ParamType):
    """A list of values of one type.

    Args:
        kind: the type of each value.
        separator: the text between two values.
    """

    name = "values"

    def __init__(self, kind: click.ParamType, separator: str = ","):
        self.kind, self.separator = kind, separator

    def convert(self, value: str | Values, param: click.Parameter | None, ctx: click.Context | None) -> Values:
        if not isinstance(value, str):
            return value
        return [self.kind.convert(part, param, ctx) for part in value.split(self.separator)]


class Doubled(Several):
    """Counts separated by commas. ``1..4096`` stands for 1, 2, 4, … up to 4096."""

    def __init__(self):
        super().__init__(COUNT)

    def convert(self, value: str | Values, param: click.Parameter | None, ctx: click.Context | None) -> Values:
        if not isinstance(value, str) or ".." not in value:
            return super().convert(value, param, ctx)
        first, _, last = value.partition("..")
        low, high = self.kind.convert(first, param, ctx), self.kind.convert(last, param, ctx)
        if low > high:
            self.fail(f"expected two numbers, the smaller number first, got {value!r}.", param, ctx)
        # low 2ⁿ is at most high for n = 0, …, ⌊log₂(high / low)⌋, and the bit length is this bound plus 1.
        return [low * 2**n for n in range((high // low).bit_length())]


class Part(click.ParamType):
    """A part of a sweep: ``2/8`` is the second of eight parts."""

    name = "part"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        number, _, parts = value.partition("/")
        if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            self.fail(f"expected a part and the number of parts, such as 1/8 to 8/8, got {value!r}.", param, ctx)
        return int(number), int(parts)


class Setting(click.ParamType):
    """A name and a value, such as ``gpus_per_node=1``. A value that is a number becomes one."""

    name = "name=value"

    def convert(
        self,
        value: str | tuple[str, int | float | str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int | float | str]:
        if isinstance(value, tuple):
            return value
        name, _, text = value.partition("=")
        if not (name.isidentifier() and text):
            self.fail(f"expected a name and a value such as timeout_min=60, got {value!r}.", param, ctx)
        for number in (int, float):
            with suppress(ValueError):
                return name, number(text)
        return name, text


class NewFile(click.Path):
    """A file to write, in a folder that exists. Devices and pipes are written to, and links are followed."""

    def __init__(self):
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not value or "\0" in str(value):
            self.fail(f"expected the path of a file, got {short_repr(value)}.", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"expected a file in a folder that exists, got {value}. Make the folder first.", param, ctx)
        # A file is replaced by a new one in its folder. A device or a pipe is written to.
        is_replaced = path.is_file() or not path.exists()
        if not os.access(path.resolve().parent if is_replaced else path, os.W_OK):
            self.fail(f"expected a file that can be written to, got {value}.", param, ctx)
        return path


COUNT = WholeNumber("1 or more", min=1)
COUNT_OR_ZERO = WholeNumber("0 or more", min=0)
SEED = WholeNumber(f"from 0 to {LARGEST_SEED}", min=0, max=LARGEST_SEED)
POSITIVE = Number("a number above 0", lambda number: 0 < number < float("inf"))
NOT_NEGATIVE = Number("a number not below 0", lambda number: 0 <= number < float("inf"))
SHARE = Number("a number in [0, 1)", lambda number: 0 <= number < 1)
IMAGE_SIZE = click.option(
    "--image-size",
    type=ImageSize(),
    metavar="SIZE",
    help="Height and width for images of folder:PATH: 64, or 48,64.  [default: their common size, else 64]",
)
IMAGE_COLOR = click.option(
    "--image-color",
    type=Named(("gray", "rgb")),
    help="Colors for images of folder:PATH: gray or rgb.  [default: gray if all are gray]",
)
JSON_FILE = click.option("--json", "json_file", type=NewFile(), metavar="FILE", help="File for the result as JSON.")
METRICS = click.option(
    "--metrics",
    type=Several(Named(METRIC_NAMES), ","),
    metavar="NAMES",
    help=f"Some of: {', '.join(METRIC_NAMES)}.  [default: accuracy]",
)


def is_given(name: str) -> bool:
    """Whether a flag of the running command is on the command line. A recipe's value is not."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def metrics_by_name(names: list[str] | None) -> dict[str, Metric] | None:
    """The metrics of the flag ``--metrics`` for ``fit`` and ``sweep``; None if the flag was not given."""
    if names is None:
        return None
    from functional_nn.metrics import METRICS as known

    return {name: known[name] for name in names}


RECIPES: dict[str, dict[str, str]] = {
    "fast": {"model": "lenet", "epochs": "1", "learning_rate": "0.02", "schedule": "one-cycle"},
    "best": {
        "model": "deep_cnn",
        "dropout": "0.25",
        "shift": "2",
        "deform": "0.2",
        "epochs": "15",
        "batch_size": "128",
        "optimizer": "adamw",
        "learning_rate": "0.003",
        "weight_decay": "0.01",
        "schedule": "one-cycle",
    },
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
