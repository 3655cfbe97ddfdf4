"""The kinds of values that flags take, and the names they know (a test holds these against the package's tables)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from functional_nn.core.errors import short_repr, suggest

MODELS = ("mlp", "cnn", "lenet", "deep_cnn", "resnet", "rnn", "lstm", "gru", "transformer")
ACTIVATIONS = (
    *("identity", "sigmoid", "tanh", "softsign", "softplus", "log_sigmoid", "relu", "leaky_relu", "elu", "selu"),
    *("gelu", "gelu_tanh", "silu", "mish", "relu6", "hard_tanh", "hard_sigmoid", "hard_silu", "softmax", "log_softmax"),
)
OPTIMIZERS = (
    *("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "adamax", "nadam", "radam"),
    *("amsgrad", "adabelief", "lamb", "lion"),
)
GRADIENTS = ("auto", "jax", "formula")
SCHEDULES = ("constant", "cosine", "one-cycle", "step")
NON_FINITE = ("stop", "skip", "roll-back")
PRECISIONS = ("float32", "bfloat16", "float16", "float64")


class Named(click.Choice):
    """One of several names; a wrong one is answered with the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            self.fail(f"{short_repr(value)} is not known. {suggest(str(value), map(str, self.choices))}", param, ctx)
        return value


class Number(click.ParamType):
    """A number that a condition holds for, such as ``Number("a number above 0", lambda x: x > 0)``."""

    name = "number"

    def __init__(self, expected: str, condition: Callable[[float], bool]):
        self.expected, self.condition = expected, condition

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"expected {self.expected}, got {short_repr(value)}.", param, ctx)
        if not self.condition(number):
            self.fail(f"expected {self.expected}, got {value}.", param, ctx)
        return number


class Sizes(click.ParamType):
    """Positive integers separated by commas; ``none`` for none."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
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
        return sizes


class Several(click.ParamType):
    """Values of one kind, or a distribution to draw them from; ``("log-uniform", low, high)`` for the latter.

    Args:
        kind: of each value.
        separator: between values.
    """

    name = "values"

    def __init__(self, kind: click.ParamType, separator: str = ","):
        self.kind, self.separator = kind, separator

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name, *bounds = value.split(":")
        if bounds and name in DISTRIBUTIONS:
            if not isinstance(self.kind, Number) or len(bounds) != 2:
                self.fail(f"expected numbers as in {name}:LOW:HIGH, got {value!r}.", param, ctx)
            return (name, *(self.kind.convert(bound, param, ctx) for bound in bounds))
        return [self.kind.convert(part, param, ctx) for part in value.split(self.separator)]


COUNT = click.IntRange(min=1)


class Doubled(Several):
    """Counts separated by commas; ``1..4096`` for all that doubling gives from the first to the second."""

    def __init__(self):
        super().__init__(COUNT)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        low, dots, high = value.partition("..") if isinstance(value, str) else ("", "", "")
        if not dots:
            return super().convert(value, param, ctx)
        bounds = super().convert(f"{low},{high}", param, ctx)
        if len(bounds) != 2 or bounds[0] > bounds[1]:
            self.fail(f"expected two numbers, the smaller number first, got {value!r}.", param, ctx)
        first, last = bounds
        return [first * 2**n for n in range((last // first).bit_length())]


DISTRIBUTIONS = ("uniform", "log-uniform")


class NewFile(click.Path):
    """A file to write, in a folder that exists. Devices and pipes are written to; links are followed."""

    def __init__(self):
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value or "\0" in str(value):
            self.fail(f"expected the path of a file, got {short_repr(value)}.", param, ctx)
        path: Any = super().convert(value, param, ctx)
        if not path.parent.is_dir():
            self.fail(f"expected a file in a folder that exists, got {value}. Make the folder first.", param, ctx)
        return path


POSITIVE = Number("a number above 0", lambda number: 0 < number < float("inf"))
NOT_NEGATIVE = Number("a number not below 0", lambda number: 0 <= number < float("inf"))
SHARE = Number("a number in [0, 1)", lambda number: 0 <= number < 1)
JSON_FILE = click.option("--json", "json_file", type=NewFile(), metavar="FILE", help="File for the result as JSON.")
