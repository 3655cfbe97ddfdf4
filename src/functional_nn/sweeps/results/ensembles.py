"""Ensembles: several members of a sweep as one classifier, and their gain in accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from functional_nn.core.errors import FormulaMissing, InputError
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import as_host_array, check_choice, is_array, shown
from functional_nn.sweeps.execution.static_groups import StaticValues, traced_names, with_types
from functional_nn.sweeps.results.member import Member, check_result
from functional_nn.sweeps.results.results import SweepResult, reader_of
from functional_nn.training.optimizers.precision import as_precision
from functional_nn.training.prediction import predict_probabilities
from functional_nn.training.programs.recipe import ModelFunction, network_of

COMBINATIONS = ("average", "vote")
TRAINED = ("finished", "stopped early")


class EnsembleGain(NamedTuple):
    """The accuracy of an ensemble beside that of its members.

    Args:
        accuracy: that of the ensemble.
        mean, best: the mean and the largest accuracy of its members. The best member is chosen by the same labels, so
            its accuracy is too optimistic.
        members: the number of members.
    """

    accuracy: float
    mean: float
    best: float
    members: int

    @property
    def gain(self) -> float:
        """The gain over the mean of the members. Which member is best is known only with labels."""
        return self.accuracy - self.mean

    def __str__(self) -> str:
        return (
            f"{self.members} members together {self.accuracy:.4f}: {100 * self.gain:+.2f} points over their mean "
            f"{self.mean:.4f}, {100 * (self.accuracy - self.best):+.2f} over the best, {self.best:.4f}"
        )


def ensemble_probabilities(
    result: SweepResult, x: ArrayLike, *, members: Iterable[Member] | None = None, combine: str = "average"
) -> np.ndarray:
    """The class probabilities of several members together.

    Math:
        p = Σₘ pₘ / n; or, by vote, the share of the members that give the class their largest probability

    If two classes have the same number of votes, ``argmax`` takes the one with the smaller number. Members that differ
    only in parameters and traced numbers share a compiled program.

    Args:
        result: the result of a sweep with ``keep=True``.
        x: (examples, …); images are flattened if training flattened them.
        members: the members, such as ``result.ranked()[:5]``; by default all that are finished or stopped early.
        combine: ``"average"`` or ``"vote"``.

    Raises:
        InputError: if there is no such member, or if a given member is not finite or has no parameters.

    >>> import functional_nn as fnn, optax
    >>> data = fnn.load_dataset("mnist5k")
    >>> result = fnn.sweep(fnn.dense(10), optax.adam(1e-3), fnn.grid(seed=range(3)), data, epochs=1)
    >>> ensemble_probabilities(result, data.test_images[:5]).shape
    (5, 10)

    References:
        Hansen and Salamon 1990, "Neural network ensembles"; Lakshminarayanan, Pritzel and Blundell 2017, "Simple and
        scalable predictive uncertainty estimation using deep ensembles".
    """
    _check_combination(combine)
    chosen = _chosen(result, members)
    return _combined(_probabilities(result, chosen, x), len(chosen), combine)


def ensemble_gain(
    result: SweepResult,
    x: ArrayLike,
    labels: ArrayLike,
    *,
    members: Iterable[Member] | None = None,
    combine: str = "average",
) -> EnsembleGain:
    """The accuracy of an ensemble, compared with the accuracies of its members.

    Args:
        result, x, members, combine: as for ``ensemble_probabilities``.
        labels: the class of each example, (examples,).

    Raises:
        InputError: as ``ensemble_probabilities``, or for labels that do not fit.

    >>> EnsembleGain(accuracy=0.95, mean=0.93, best=0.94, members=8).gain.__round__(4)
    0.02
    """
    _check_combination(combine)
    chosen = _chosen(result, members)
    x, labels = as_host_array("x", x), as_host_array("labels", labels)
    if x.ndim < 2:
        raise InputError("x", "(examples, …)", shown(x))
    if labels.shape != (len(x),) or not np.issubdtype(labels.dtype, np.integer):
        given = f"{labels.dtype} of shape {labels.shape}"
        raise InputError("labels", f"one integer for each example, shape ({len(x)},)", given)
    accuracies: list[float] = []

    # The probabilities are read one member at a time, so those of all members are never in memory together.
    def with_accuracies() -> Iterator[np.ndarray]:
        for probabilities in _probabilities(result, chosen, x):
            accuracies.append(_accuracy(probabilities, labels))
            yield probabilities

    accuracy = _accuracy(_combined(with_accuracies(), len(chosen), combine), labels)
    return EnsembleGain(accuracy, float(np.mean(accuracies)), max(accuracies), len(chosen))


def _chosen(result: SweepResult, members: object) -> Sequence[Member]:
    check_result(result)
    if members is not None and (is_array(members) or not isinstance(members, Iterable)):
        raise InputError("members", "members of the result", shown(members), "Write result.ranked()[:5].")
    if members is None:
        chosen = [member for member in result.members if member.status in TRAINED and member.params is not None]
        given = f"none of {len(result.members)}"
    else:
        chosen = list(members)
        given = "none"
        for member in chosen:
            if not isinstance(member, Member):
                raise InputError("members", "members of the result", repr(member), "Write result.ranked()[:5].")
            if not member.has_result or member.params is None:
                reason = "without parameters" if member.has_result else member.status
                given = f"member {member.number}, {reason}"
                raise InputError("members", "trained members with parameters", given, "Leave it out.")
    if not chosen:
        remedy = "Call sweep with keep=True."
        raise InputError("members", "at least one trained member with parameters", given, remedy)
    return chosen


def _probabilities(result: SweepResult, members: Sequence[Member], x: ArrayLike) -> Iterator[np.ndarray]:
    """The class probabilities of each member. Members that share a program follow each other."""
    x = as_host_array("x", x)
    if x.ndim < 2 or math.prod(x.shape[1:]) != math.prod(result.in_shape):
        raise InputError("x", f"(examples, …) with examples of shape {result.in_shape}", f"shape {x.shape}")
    precision = as_precision(result.precision)
    traced = traced_names([member.hyperparameters for member in result.members], result.static)

    # Members share a program if the static hyper-parameters are equal that the model reads.
    sharing: dict[StaticValues, list[Member]] = {}
    for member in members:
        reader = reader_of(member)
        network_of(result.model, reader)
        fixed = with_types({name: reader[name] for name in reader.names_read if name not in traced})
        sharing.setdefault(fixed, []).append(member)
    for fixed, together in sharing.items():
        net = _common_network(result.model, fixed)
        examples = x.reshape(len(x), *_in_shape(result, together[0], x.shape[1:]))
        for member in together:
            numbers = {name: np.asarray(member.hyperparameters[name], precision.parameters) for name in traced}
            state = {"network": member.state, "hyperparameters": numbers}
            params = {} if member.params is None else member.params
            yield predict_probabilities(net, params, state, examples, precision=precision)


def _in_shape(result: SweepResult, member: Member, shape: Shape) -> Shape:
    """The shape of an example for which the member's network has parameters of these shapes.

    In one sweep, a convolution may have got images, and a dense layer flat vectors.
    """
    net = result.network(member)
    shapes = jax.tree.map(np.shape, member.params)
    for in_shape in (result.in_shape, shape, (math.prod(shape),)):
        try:
            params, _ = jax.eval_shape(lambda key, shape=in_shape: net.init(key, shape), jax.random.key(0))
        except (TypeError, ValueError):
            continue
        if jax.tree.map(np.shape, params) == shapes:
            return in_shape
    raise InputError("x", f"examples that the network of member {member.number} takes", f"examples of shape {shape}")


# The same values give the same network object, for which predict_probabilities has its compiled program already.
@lru_cache(maxsize=32)
def _common_network(model: ModelFunction, fixed: StaticValues) -> Layer:
    """One network for all members with these static values. The other hyper-parameters are in its state."""

    values = {name: value for name, _, value in fixed}

    def forward(params, state, x, *, train, key=None):
        net = network_of(model, values | state["hyperparameters"])
        y, _, residuals = net.forward(params, state["network"], x, train=train, key=key)
        return y, state, residuals

    def only_evaluates(*arguments):
        raise FormulaMissing("The common network of an ensemble can only be evaluated. Use result.network(member).")

    return Layer("ensemble", init=only_evaluates, forward=forward, backward=only_evaluates)


def _combined(each: Iterator[np.ndarray], count: int, combine: str) -> np.ndarray:
    def share(probabilities: np.ndarray) -> np.ndarray:
        if combine == "average":
            return probabilities.astype(np.float64)
        return (np.arange(probabilities.shape[-1]) == probabilities.argmax(axis=-1, keepdims=True)).astype(np.float64)

    return reduce(np.add, map(share, each)) / count


def _accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(probabilities.argmax(axis=-1) == labels))


def _check_combination(combine: str) -> None:
    check_choice("combine", combine, COMBINATIONS)
