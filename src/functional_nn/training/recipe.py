"""Recipes: the network, loss, optimizer and penalty of a run, or functions of hyper-parameters that make them."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State, as_layer, is_faster_by_formula
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_function
from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
from functional_nn.losses.loss import Loss
from functional_nn.losses.penalties import Penalty
from functional_nn.metrics import Metric
from functional_nn.training.argument_checks import check_functions, check_gradient_function
from functional_nn.training.optimizers import is_of_optax
from functional_nn.training.state import TrainState

LossResult: TypeAlias = jax.Array | tuple[jax.Array, Mapping[str, jax.Array]]
"""What a loss function returns: one number, or a pair of it and a dict of numbers to report, such as its parts."""

LossFunction: TypeAlias = Callable[[PyTree, PyTree], LossResult]
PenaltyFunction: TypeAlias = Callable[[Params], jax.Array]

MetricFunction: TypeAlias = Metric | Loss | Callable[[PyTree, PyTree], jax.Array]
"""A metric, a loss, or a function ``(y, labels) -> number``, the mean over the examples of a batch."""

GradientFunction: TypeAlias = Callable[..., Callable[..., tuple[tuple[jax.Array, PyTree], Params]]]
"""A function with the interface of ``jax.value_and_grad``."""

Gradient: TypeAlias = str | GradientFunction
"""``"auto"``, ``"jax"`` or ``"formula"``, or a function in the place of ``jax.value_and_grad``."""

HyperparameterValue: TypeAlias = Any
"""A number, a boolean, a string, None, a tuple of these, or a traced number."""
Hyperparameters: TypeAlias = Mapping[str, HyperparameterValue]
ModelFunction: TypeAlias = Layer | Callable[[Hyperparameters], Layer]
OptimizerFunction: TypeAlias = optax.GradientTransformation | Callable[[Hyperparameters], optax.GradientTransformation]
LossMaker: TypeAlias = Loss | Callable[[Hyperparameters], LossFunction]
PenaltyMaker: TypeAlias = Penalty | Callable[[Hyperparameters], PenaltyFunction | None] | None
StartMaker: TypeAlias = tuple[Params, State] | Callable[[Hyperparameters], tuple[Params, State]] | None

NOT_FOR_FUNCTIONS = ("seed", "data")
"""Hyper-parameters that are not passed to functions: the seed makes the key, and ``data`` names the data set."""

STEPS = "steps"
COUNTS = ("epochs", "batch_size", STEPS)
"""Names that every function of hyper-parameters gets in addition to the grid's; ``steps`` are the updates of a run."""


class Recipe(NamedTuple):
    """What a run trains and how: the arguments of ``fit`` with these names.

    ``metrics`` are pairs of a name and a metric, since recipes are compared and hashed.
    """

    net: Layer
    loss: LossFunction
    optimizer: optax.GradientTransformation
    penalty: PenaltyFunction | None = None
    metrics: tuple[tuple[str, MetricFunction], ...] | None = None
    gradient: GradientFunction = jax.value_and_grad
    start: tuple[Params, State] | None = None


class RecipeMaker(Protocol):
    """A function that makes the recipe of a member of a sweep from its hyper-parameters, traced or not."""

    def __call__(self, hyperparameters: Hyperparameters, /) -> Recipe: ...


class HyperparameterReader(UserDict[str, HyperparameterValue]):
    """Hyper-parameters as the user's functions read them.

    An unknown name raises an error with the nearest known name. ``names_read`` collects the names that were read.
    """

    def __init__(self, values: Hyperparameters):
        self.names_read: set[str] = set()
        super().__init__(values)

    def __getitem__(self, name: str) -> HyperparameterValue:
        if name not in self:
            remedy = "The seed makes the run's key." if name == "seed" else suggest(str(name), self)
            raise InputError("hyper-parameter", "a name in the grid", repr(name), remedy)
        self.names_read.add(name)
        return self.data[name]


@dataclass(frozen=True)
class RecipeFunctions:
    """Makes recipes from the arguments of ``sweep``: parts of a recipe, or functions of hyper-parameters.

    Raises:
        InputError: unless each argument is a part of a recipe, or a function.
    """

    model: ModelFunction
    optimizer: OptimizerFunction
    loss: LossMaker
    penalty: PenaltyMaker
    metrics: tuple[tuple[str, MetricFunction], ...] | None = None
    gradient: Gradient = "auto"
    start: StartMaker = None

    def __post_init__(self):
        if not isinstance(self.model, Layer) and not hasattr(self.model, "as_layer"):
            check_function("model", self.model, "a layer, or a function of the hyper-parameters that makes one", "h")
        if not hasattr(self.optimizer, "update"):
            expected = "an Optax transformation, or a function of the hyper-parameters that makes one"
            check_function("optimizer", self.optimizer, expected, "h")
            if is_of_optax(self.optimizer):
                # Optax would take the hyper-parameters for the learning rate, and fail later.
                name = getattr(self.optimizer, "__name__", "…")
                remedy = f'Write lambda h: optax.{name}(h["learning_rate"]).'
                raise InputError("optimizer", expected, f"the function optax.{name} itself", remedy)
        expected = "a loss, such as cross_entropy, or a function"
        check_function("loss", self.loss, expected)
        if not _is_loss(self.loss):
            check_function("loss", self.loss, f"{expected} of outputs and labels, or one that makes it from h", "h")
        if self.penalty is not None:
            expected = "a penalty, or a function of the hyper-parameters that makes one"
            check_function("penalty", self.penalty, expected, "h")
        check_gradient_function(self.gradient)
        is_pair = isinstance(self.start, tuple) and len(self.start) == 2
        if self.start is not None and not is_pair:
            check_function("start", self.start, "a pair (params, state), or a function that makes one", "h")

    def __call__(self, hyperparameters: Hyperparameters, /) -> Recipe:
        """The recipe for these hyper-parameters."""
        optimizer = _made(self.optimizer, hasattr(self.optimizer, "update"), hyperparameters)
        loss = _made(self.loss, _is_loss(self.loss), hyperparameters)
        penalty = _made(self.penalty, self.penalty is None or isinstance(self.penalty, Penalty), hyperparameters)
        start = _made(self.start, not callable(self.start), hyperparameters)
        if isinstance(start, TrainState):
            # It has a key of its own, so the seeds of the members would be ignored.
            remedy = "Write (train_state.params, train_state.state)."
            raise InputError("start", "a pair (params, state)", "a TrainState", remedy)
        net, gradient = with_gradient(network_of(self.model, hyperparameters), self.gradient)
        check_functions(loss, optimizer, penalty)
        return Recipe(net, loss, optimizer, penalty, self.metrics, gradient, start)


@dataclass(frozen=True)
class WithStaticValues:
    """A recipe maker with given static hyper-parameters. It is called with the traced ones only.

    Each static hyper-parameter has its name, the type of its value, and its value. In Python 1 and True are equal, but
    functions may make different recipes from them.
    """

    make_recipe: RecipeMaker
    static: tuple[tuple[str, object, HyperparameterValue], ...]

    def __call__(self, traced: Hyperparameters, /) -> Recipe:
        return self.read(traced)[0]

    def read(self, traced: Hyperparameters) -> tuple[Recipe, set[str]]:
        """The recipe, and the names of the hyper-parameters that were read to make it.

        Raises:
            InputError: if a function needs the value of a traced number, as ``if`` does.
        """
        reader = HyperparameterReader({name: value for name, _, value in self.static} | dict(traced))
        try:
            return self.make_recipe(reader), reader.names_read
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            names = [name for name in traced if name in reader.names_read]
            expected = "functions that compute with numbers that vary, since one program trains all members"
            given = f"one that needs the value of {' or '.join(names)}, as an if does"
            remedy = f"Write jax.numpy.where(h[{names[0]!r}] > 0, …, …). Or compile each value: static={names}."
            raise InputError("grid", expected, given, remedy) from error


def network_of(model: ModelFunction, hyperparameters: Hyperparameters) -> Layer:
    """The network that a model makes from these hyper-parameters."""
    if isinstance(model, Layer) or hasattr(model, "as_layer"):
        return as_layer(model)
    return as_layer(model(hyperparameters))


def _made(part: Any, is_made: bool, hyperparameters: Hyperparameters) -> Any:
    """A part of a recipe: as it was given, or made from hyper-parameters."""
    return part if is_made else part(hyperparameters)


def _is_loss(function: Callable[..., object]) -> bool:
    """Whether a function is a loss: a ``Loss``, or one with two required arguments. A function that makes one has one.

    Only what may be given by place counts. ``*arguments`` count for the second one, and for both if there is no other.
    """
    if isinstance(function, Loss):
        return True
    parameters = signature(function).parameters.values()
    by_place = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    required = sum(one.kind in by_place and one.default is one.empty for one in parameters)
    takes_more = any(one.kind is Parameter.VAR_POSITIONAL for one in parameters)
    return required == 2 or (takes_more and required < 2)


def with_gradient(net: Layer, gradient: Gradient) -> tuple[Layer, GradientFunction]:
    """The network as it is trained, and the function that differentiates its loss.

    ``"jax"`` is automatic differentiation, and ``"formula"`` the hand-derived backward pass (``with_hand_vjp``).
    ``"auto"`` is the formula where a layer of the network says that it is faster, and else automatic differentiation.
    """
    check_gradient_function(gradient)
    if not isinstance(gradient, str):
        return net, gradient
    by_formula = gradient == "formula" or (gradient == "auto" and is_faster_by_formula(net))
    return (with_hand_vjp(net) if by_formula else net), jax.value_and_grad
