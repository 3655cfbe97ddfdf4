"""The recipe of a run: network, loss, optimizer and penalty, or functions of hyper-parameters that make them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import optax

from functional_nn.core.errors import InputError, suggest
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.validation import check_function
from functional_nn.losses.loss import Loss
from functional_nn.losses.penalties import Penalty
from functional_nn.training.step import LossFunction, PenaltyFunction


class Recipe(NamedTuple):
    """What a run trains: the network, its loss, the optimizer, and the penalty or None."""

    net: Layer
    loss: LossFunction
    optimizer: optax.GradientTransformation
    penalty: PenaltyFunction | None = None

    def __call__(self, hyperparameters: Mapping[str, Any]) -> Recipe:
        """Itself: the recipe of a run alone, which has no hyper-parameters."""
        return self


Model: TypeAlias = Layer | Callable[[Mapping[str, Any]], Layer]


Optimizer: TypeAlias = optax.GradientTransformation | Callable[[Mapping[str, Any]], optax.GradientTransformation]


LossOf: TypeAlias = Loss | Callable[[Mapping[str, Any]], LossFunction]


PenaltyOf: TypeAlias = Penalty | Callable[[Mapping[str, Any]], PenaltyFunction | None] | None


OF_THE_RUN = ("seed", "data")
"""Hyper-parameters of the run itself: the key and the data set, which no function of them is given."""


COUNTS = ("epochs", "batch_size", "steps")
"""What every function of hyper-parameters is given besides them; ``steps`` are the updates of the whole run."""


class Given(Mapping):
    """Hyper-parameters as functions read them: an unknown name is answered with the nearest, and reading is noted."""

    def __init__(self, values: Mapping[str, Any]):
        self._values, self.read = dict(values), set()

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            remedy = "The seed makes the run's key." if name == "seed" else suggest(str(name), self._values)
            raise InputError("hyper-parameter", "a name in the grid", repr(name), remedy)
        self.read.add(name)
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values


@dataclass(frozen=True)
class RecipeOf:
    """Makes a member's recipe: the functions of a sweep, and what is the same for a static group."""

    model: Model
    optimizer: Optimizer
    loss: LossOf
    penalty: PenaltyOf
    static: tuple[tuple[str, Any], ...] = ()

    def __call__(self, traced: Mapping[str, Any]) -> Recipe:
        return self.read(traced)[0]

    def check(self) -> None:
        """Refuses what is neither part of a recipe nor a function that makes one."""
        if not isinstance(self.model, Layer) and not hasattr(self.model, "as_layer"):
            check_function("model", self.model, "a layer, or a function of the hyper-parameters that makes one")
        if not hasattr(self.optimizer, "update"):
            expected = "an Optax transformation, or a function of the hyper-parameters that makes one"
            check_function("optimizer", self.optimizer, expected)
        check_function("loss", self.loss, "a loss, such as cross_entropy, or a function")
        if self.penalty is not None:
            check_function("penalty", self.penalty, "a penalty, or a function of the hyper-parameters that makes one")

    def read(self, traced: Mapping[str, Any]) -> tuple[Recipe, set[str]]:
        """The recipe, and the names of the hyper-parameters that went into it."""
        h = Given(dict(self.static) | dict(traced))
        optimizer = self.optimizer if hasattr(self.optimizer, "update") else self.optimizer(h)  # pyright: ignore
        loss: Any = self.loss if isinstance(self.loss, Loss) or _takes_two(self.loss) else self.loss(h)
        penalty: Any = self.penalty if self.penalty is None or isinstance(self.penalty, Penalty) else self.penalty(h)
        return Recipe(self.network(h), loss, optimizer, penalty), h.read  # pyright: ignore[reportArgumentType]

    def network(self, hyperparameters: Mapping[str, Any]) -> Layer:
        """The network of these hyper-parameters."""
        if isinstance(self.model, Layer) or hasattr(self.model, "as_layer"):
            return as_layer(self.model)
        return as_layer(self.model(hyperparameters))  # pyright: ignore[reportCallIssue]


def _takes_two(function: Any) -> bool:
    """Whether a function is a loss, of outputs and labels, and not one of hyper-parameters that makes a loss."""
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return len(required) == 2
