"""The functions whose errors are measured: in functional_nn with the formula, in plain JAX, and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn
from benchmarks.tails import points, pytorch
from functional_nn.activations import ACTIVATIONS, VectorActivation

Function = Callable[[jax.Array], jax.Array]
HandVJP = Callable[[jax.Array, jax.Array], jax.Array]

LABEL = 0
TARGETS = (0.2, 0.3, 0.5)
DIRECTION = (1.0, 2.0, 3.0)
SMOOTHING = 0.1
CLASS_WEIGHTS = (0.5, 2.0, 1.0)
SIZE = 3
"""The number of elements of a vector."""


@dataclass(frozen=True)
class Case:
    """One function.

    Args:
        name: its name on the page.
        ours: the function of one number, or of a vector, in functional_nn.
        hand_vjp: its hand-derived backward pass, ``hand_vjp(x, y_bar) -> x_bar``.
        plain: the function of JAX or Optax, differentiated by ``jax.grad``; None if ``ours`` is used for this, too.
        pytorch: the function in PyTorch. It takes many points at once: (points,) or (points, n).
        size: the number of elements of the vector; None for a function of one number.
        points: makes the points of each regime.
    """

    name: str
    ours: Function
    hand_vjp: HandVJP
    plain: Function | None = None
    pytorch: pytorch.Function | None = None
    size: int | None = None
    points: points.MakePoints = points.numbers


IN_JAX: dict[str, Function] = {
    "identity": jax.nn.identity,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softsign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
    "log_sigmoid": jax.nn.log_sigmoid,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "relu6": jax.nn.relu6,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
}
"""The function of JAX for each activation."""


def _activation(activation: fnn.Activation | VectorActivation) -> Case:
    name, plain, theirs = activation.name, IN_JAX[activation.name], partial(pytorch.activation, activation.name)
    if isinstance(activation, VectorActivation):
        return Case(name, activation, activation.pullback, plain, theirs, SIZE, points.vectors)
    return Case(name, activation, activation.pullback, plain, theirs)


def _with_masked_class(case: Case) -> Case:
    """Adds a masked element, -∞, to the input of a case."""

    def hidden(x):
        return jnp.concatenate([x, jnp.full(1, -jnp.inf, x.dtype)])

    def ours(x):
        return case.ours(hidden(x))

    def hand_vjp(x, y_bar):
        return case.hand_vjp(hidden(x), y_bar)[:-1]

    def plain(x):
        return (case.plain or case.ours)(hidden(x))

    theirs = partial(pytorch.with_masked_class, case.pytorch)
    return replace(case, ours=ours, hand_vjp=hand_vjp, plain=plain, pytorch=theirs, points=points.masked)


def _masked_softmax(activation: VectorActivation) -> Case:
    """A vector activation whose input has an additional masked element, -∞. Its output there is not compared."""

    def masked(function, x):
        return function(jnp.concatenate([x, jnp.full(1, -jnp.inf, x.dtype)]))[:-1]

    def hand_vjp(x, y_bar):
        hidden = jnp.concatenate([x, jnp.full(1, -jnp.inf, x.dtype)])
        return activation.pullback(hidden, jnp.concatenate([y_bar, jnp.zeros(1, x.dtype)]))[:-1]

    ours, plain = partial(masked, activation), partial(masked, IN_JAX[activation.name])
    theirs = partial(pytorch.masked_activation, activation.name)
    return Case(activation.name, ours, hand_vjp, plain, theirs, SIZE, points.masked)


def _class_loss(name: str, loss: fnn.losses.Loss, plain: Function, theirs: pytorch.Function) -> Case:
    """A loss of the logits of one example with the label 0."""
    labels = jnp.array([LABEL])

    def ours(y):
        return loss(y[None], labels)

    def hand_vjp(y, bar):
        return bar * loss.gradient(y[None], labels)[0]

    return Case(name, ours, hand_vjp, plain, theirs, SIZE, points.vectors)


def _smoothed(y):
    return optax.losses.smooth_labels(jax.nn.one_hot(LABEL, SIZE, dtype=y.dtype), SMOOTHING)


def _plain_hard(y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(y, LABEL)


def _plain_smoothed(y):
    return optax.losses.softmax_cross_entropy(y, _smoothed(y))


def _plain_weighted(y):
    weights = jnp.array(CLASS_WEIGHTS, y.dtype)
    return -jnp.sum(weights * _smoothed(y) * jax.nn.log_softmax(y)) / CLASS_WEIGHTS[LABEL]


def _plain_log_likelihood(x):
    return -jax.nn.log_softmax(x)[LABEL]


def _plain_divergence(x):
    return optax.losses.kl_divergence(jax.nn.log_softmax(x), jnp.array(TARGETS, x.dtype))


def _of_log_probabilities(name: str, loss: fnn.losses.Loss, plain: Function, theirs: pytorch.Function) -> Case:
    """A loss that takes log-probabilities, as a function of the logits: log_softmax is applied first."""

    def labels(x):
        return jnp.array([LABEL]) if name == "negative_log_likelihood" else jnp.array([TARGETS], x.dtype)

    def ours(x):
        return loss(fnn.log_softmax(x)[None], labels(x))

    def hand_vjp(x, bar):
        gradient = loss.gradient(fnn.log_softmax(x)[None], labels(x))[0]
        return fnn.log_softmax.pullback(x, bar * gradient)

    return Case(f"{name} of log_softmax", ours, hand_vjp, plain, theirs, SIZE, points.vectors)


def _binary(name: str, loss: fnn.losses.Loss, target: float) -> Case:
    """A binary loss as a function of one output, for one label."""

    def ours(y):
        return loss(y[None, None], jnp.array([[target]], y.dtype))

    def hand_vjp(y, bar):
        return bar * loss.gradient(y[None, None], jnp.array([[target]], y.dtype))[0, 0]

    from_logits = loss is fnn.binary_cross_entropy
    plain = partial(optax.losses.sigmoid_binary_cross_entropy, labels=target) if from_logits else None
    theirs = partial(pytorch.binary_cross_entropy, target, from_logits)
    made = points.numbers if from_logits else partial(points.probabilities, target)
    return Case(f"{name}, label {target:g}", ours, hand_vjp, plain, theirs, None, made)


def _cosine() -> Case:
    loss = fnn.cosine_distance

    def labels(y):
        return jnp.array([DIRECTION], y.dtype)

    def ours(y):
        return loss(y[None], labels(y))

    def hand_vjp(y, bar):
        return bar * loss.gradient(y[None], labels(y))[0]

    def plain(y):
        return optax.losses.cosine_distance(y, labels(y)[0])

    made = partial(points.directions, DIRECTION)
    return Case("cosine_distance", ours, hand_vjp, plain, partial(pytorch.cosine, DIRECTION), SIZE, made)


def _attention() -> Case:
    """Attention of one query. Keys and values are unit vectors, so the scores are q, and y is their softmax."""
    layer = fnn.dot_product_attention(scale=1.0)

    def arguments(q):
        unit = jnp.eye(SIZE, dtype=q.dtype)[None, :, None]
        return (q[None, None, None], unit, unit)

    def ours(q):
        return layer.apply({}, {}, arguments(q), train=False)[0].reshape(-1)

    def hand_vjp(q, y_bar):
        y, _, pullback = layer.vjp({}, {}, arguments(q), train=False)
        return pullback(y_bar.reshape(y.shape))[1][0].reshape(-1)

    return Case("dot_product_attention", ours, hand_vjp, None, pytorch.attention, SIZE, points.vectors)


CELL, HIDDEN = 0.75, 0.5
"""The state of a recurrent cell before the step."""


def _cell(name: str, layer: fnn.Layer, gates: int, theirs: pytorch.Function) -> Case:
    """One step of a recurrent cell with one unit. With its weights, x is the vector of the gates' arguments."""

    def params(x):
        unit = jnp.eye(gates, dtype=x.dtype)
        found = {"input_weight": unit, "bias": jnp.zeros(gates, x.dtype), "hidden_weight": jnp.zeros_like(unit[:1])}
        if name == "gru_cell":  # the candidate needs a term that the reset gate multiplies
            return found | {"hidden_weight": unit[-1:], "hidden_bias": jnp.zeros(1, x.dtype)}
        return found

    def argument(x):
        state = jnp.full((1, 1), HIDDEN, x.dtype)
        return (x[None], (state, jnp.full((1, 1), CELL, x.dtype)) if name == "lstm_cell" else state)

    def joined(y):
        return jnp.concatenate([part.reshape(-1) for part in jax.tree.leaves(y)])

    def ours(x):
        return joined(layer.apply(params(x), {}, argument(x), train=False)[0])

    def hand_vjp(x, y_bar):
        y, _, pullback = layer.vjp(params(x), {}, argument(x), train=False)
        parts = [part.reshape(1, 1) for part in y_bar]
        return pullback(jax.tree.unflatten(jax.tree.structure(y), parts))[1][0][0]

    return Case(name, ours, hand_vjp, None, theirs, gates, points.cells)


def _all() -> list[Case]:
    cross_entropy_with = fnn.losses.cross_entropy_with
    smoothed = cross_entropy_with(label_smoothing=SMOOTHING)
    weighted = cross_entropy_with(label_smoothing=SMOOTHING, class_weights=CLASS_WEIGHTS)
    from_probabilities = fnn.losses.binary_cross_entropy_from_probabilities
    hard = _class_loss("cross_entropy", fnn.cross_entropy, _plain_hard, pytorch.cross_entropy)
    theirs = partial(pytorch.cross_entropy, smoothing=SMOOTHING)
    theirs_weighted = partial(pytorch.cross_entropy, smoothing=SMOOTHING, weights=CLASS_WEIGHTS)
    activations = [_activation(activation) for activation in ACTIVATIONS.values()]
    return [
        *(case for case in activations if case.size is None),
        *(_binary("binary_cross_entropy", fnn.binary_cross_entropy, target) for target in (1.0, 0.3)),
        *(_binary("binary_cross_entropy_from_probabilities", from_probabilities, target) for target in (1.0, 0.3)),
        *(case for case in activations if case.size is not None),
        _masked_softmax(fnn.softmax),
        _masked_softmax(fnn.log_softmax),
        hard,
        _with_masked_class(hard),
        _class_loss("cross_entropy, smoothed", smoothed, _plain_smoothed, theirs),
        _class_loss("cross_entropy, smoothed and weighted", weighted, _plain_weighted, theirs_weighted),
        _of_log_probabilities(
            "negative_log_likelihood", fnn.negative_log_likelihood, _plain_log_likelihood, pytorch.cross_entropy
        ),
        _of_log_probabilities(
            "kl_divergence", fnn.kl_divergence, _plain_divergence, partial(pytorch.divergence, TARGETS)
        ),
        _cosine(),
        _attention(),
        _cell("rnn_cell", fnn.rnn_cell(1), 1, pytorch.rnn_cell),
        _cell("lstm_cell", fnn.lstm_cell(1), 4, partial(pytorch.lstm_cell, HIDDEN, CELL)),
        _cell("gru_cell", fnn.gru_cell(1), 3, partial(pytorch.gru_cell, HIDDEN)),
    ]


CASES = _all()
NAMES = list(dict.fromkeys(case.name for case in CASES))
