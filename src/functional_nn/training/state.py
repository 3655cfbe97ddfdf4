"""The train state, everything that training changes as one pytree, and the random keys derived from it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.core.errors import InputError, inside, shown
from functional_nn.core.layer import Layer, Params, State, as_layer, checked_init
from functional_nn.core.shapes import Shapes, cast
from functional_nn.core.trees import PyTree, flatten
from functional_nn.core.validation import check_key, check_trees
from functional_nn.storage.arrays import differences
from functional_nn.storage.checkpoints import forms
from functional_nn.training.optimizers import check_gradient_transformation, explaining_optimizer, update_with
from functional_nn.training.precision import LossScale, Precision, as_precision

MOST_SHOWN = 12
"""How many arrays of the parameters, and of the state, the ``repr`` of a train state lists."""


class TrainState(NamedTuple):
    """Everything that training changes.

    Args:
        step: the number of updates so far, int32. At the largest int32 it stays there.
        params: the network's parameters.
        state: the network's state (running statistics).
        optimizer_state: the state of the Optax transformation.
        key: the run's key, which never changes. The keys of steps and epochs are derived from it and their numbers.
        loss_scale: the ``LossScale`` if the precision scales the loss (float16); otherwise None.
    """

    step: jax.Array
    params: Params
    state: State
    optimizer_state: PyTree
    key: jax.Array
    loss_scale: LossScale | None = None

    def __repr__(self) -> str:
        """The step and the shapes, since all arrays together would fill many pages.

        >>> import functional_nn as fnn
        >>> create_train_state(fnn.dense(2), optax.adam(1e-3), jax.random.key(0), (3,))
        TrainState(step=0, params={bias: (2,), weight: (3, 2)}, state={}, optimizer_state: 5 arrays)
        """
        arrays = len(jax.tree.leaves(self.optimizer_state))
        parts = [f"params={_listed(self.params)}", f"state={_listed(self.state)}", f"optimizer_state: {arrays} arrays"]
        return f"TrainState(step={self.step}, {', '.join(parts)})"

    def apply_gradient(
        self, gradient: PyTree, optimizer: optax.GradientTransformation, state: State | None = None, **extra: object
    ) -> TrainState:
        """Computes the train state after one update, for training loops of your own.

        Args:
            gradient: the gradient of the parameters.
            optimizer: the Optax transformation that the train state was made with.
            state: the network's new state, as ``apply`` returned it; None keeps the old one.
            **extra: what the optimizer takes in addition, such as ``value``. It gets only the names that it takes.

        >>> import functional_nn as fnn, jax, jax.numpy as jnp, optax
        >>> net, optimizer = fnn.dense(2, bias=False), optax.sgd(1.0)
        >>> start = fnn.training.create_train_state(net, optimizer, jax.random.key(0), (3,))
        >>> after = start.apply_gradient(start.params, optimizer)
        >>> print(after.step, jnp.abs(after.params["weight"]).sum())
        1 0.0
        """
        updates, optimizer_state = update_with(optimizer, gradient, self.optimizer_state, self.params, extra)
        params: PyTree = optax.apply_updates(self.params, updates)
        return self._replace(
            step=optax.safe_increment(self.step),
            params=params,
            state=self.state if state is None else state,
            optimizer_state=optimizer_state,
        )


def epochs_before(train_state: TrainState, steps_per_epoch: int) -> jax.Array:
    """The number of epochs that a train state has gone through, so that a run that continues it draws other orders.

    A skipped step is not in ``step``. The loss scale counts those that it skipped. Those that were skipped for another
    reason are not counted anywhere, so the number is rounded up. It is right if they are fewer than an epoch has.
    """
    scale = train_state.loss_scale
    steps = train_state.step if scale is None else train_state.step + scale.skipped_steps
    return -(-steps // steps_per_epoch)


Start: TypeAlias = TrainState | tuple[Params, State]
"""What training can start from: a train state, or parameters with the network's state."""


def create_train_state(
    net: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    in_shape: Shapes,
    precision: str | Precision = "float32",
    start: Start | None = None,
) -> TrainState:
    """Initializes a network and its optimizer, or the optimizer alone for parameters that are given.

    Args:
        net, optimizer, precision: as ``fit`` takes them.
        key: the run's key.
        in_shape: the shape of one example, or a pytree of such shapes if the network takes several arrays.
        start: parameters and state, ``(params, state)``, in place of initial values; or a ``TrainState``, which is
            returned as it is, with its own key.

    Raises:
        InputError: if ``start`` does not have the structure, shapes and types that the network and optimizer need.

    >>> import functional_nn as fnn, jax, optax
    >>> first = fnn.training.create_train_state(fnn.dense(2), optax.adam(1e-3), jax.random.key(0), (3,))
    >>> print(first.step, first.params["weight"].shape)
    0 (3, 2)
    """
    net, policy = as_layer(net), as_precision(precision)
    check_key(key)
    check_gradient_transformation(optimizer)
    if start is None:
        return _first_train_state(net, optimizer, key, in_shape, policy)
    check_start(start)
    # A train state keeps its own key, which may be of another generator.
    own_key = start.key if isinstance(start, TrainState) else key
    # Only the shapes of the initial values are needed, so none are drawn.
    expected = jax.eval_shape(lambda key: _first_train_state(net, optimizer, key, in_shape, policy), own_key)
    return train_state_from(start, optimizer, key, expected, policy)


def train_state_from(
    start: Start, optimizer: optax.GradientTransformation, key: jax.Array, expected: TrainState, precision: Precision
) -> TrainState:
    """The train state that a run starts from, if it is not from initial values.

    Args:
        start: as for ``create_train_state``.
        optimizer, key: for parameters without an optimizer's state.
        expected: the shapes and types of the train state that the run needs.
        precision: that of the run. Floating-point parameters of another type are cast.
    """
    if isinstance(start, TrainState):
        remedy = "To change the optimizer, give (params, state)."
        _check_equal_forms(start._replace(key=None), expected._replace(key=None), remedy)
        if start.key.dtype != expected.key.dtype:
            remedy = "Set jax_default_prng_impl to its generator. For another key, give (params, state)."
            raise InputError("start", f"a key of type {expected.key.dtype}", str(start.key.dtype), remedy)
        return start
    params, state = start
    params, state = cast(jax.tree.map(jnp.asarray, (dict(params), dict(state))), precision.parameters)
    _check_equal_forms({"params": params, "state": state}, {"params": expected.params, "state": expected.state})
    loss_scale = None if expected.loss_scale is None else LossScale.first()
    return TrainState(jnp.zeros((), jnp.int32), params, state, optimizer.init(params), key, loss_scale)


def check_start(start: object) -> None:
    """Raises an InputError unless this is a train state, or a pair of parameters and state."""
    if isinstance(start, TrainState):
        check_key(start.key)
        return
    if not isinstance(start, tuple) or len(start) != 2:
        remedy = "Write run.train_state." if hasattr(start, "train_state") else ""
        raise InputError("start", "a TrainState, or a pair (params, state)", shown(start), remedy)
    check_trees(*start)


KEY_USES = 16
"""The most uses of a run's key. There are more than needed, so that a new use does not change the other keys."""

SETTING_OF_BITS = "jax_threefry_partitionable"
"""The setting of JAX that changes all random bits. The text of a program does not show it."""


def derived_key(key: jax.Array, use: str, number: int | jax.Array = 0) -> jax.Array:
    """The key for one use: ``init``, ``shuffle`` with the number of an epoch, or ``noise`` with the number of a step.

    Numbers are 32 bits long, so the keys repeat after 2**28 epochs or steps (268 million).

    >>> keys = [derived_key(jax.random.key(0), *use) for use in (("init",), ("shuffle", 0), ("noise", 0), ("noise", 1))]
    >>> len({str(jax.random.key_data(key)) for key in keys})
    4
    """
    return jax.random.fold_in(key, number * KEY_USES + ("init", "shuffle", "noise").index(use))


def counts(train_state: TrainState) -> tuple[int, int]:
    """The numbers of steps of a run so far that were skipped, and that were clipped.

    They are those of ``with_clipping`` and of the loss scale; zeros if the train state has neither.
    """
    counters = train_state.optimizer_state, train_state.loss_scale
    skipped, clipped = (
        sum(int(count) for _, count in optax.tree.get_all_with_path(counters, name))
        for name in ("skipped_steps", "clipped_steps")
    )
    return skipped, clipped


def learning_rate(train_state: TrainState) -> float | None:
    """The learning rate of the last step, if ``optax.inject_hyperparams`` keeps it in the optimizer's state.

    It is None for other optimizers, which do not say what their rate was, and for a rate that is not one number.
    """
    found = optax.tree.get_all_with_path(train_state.optimizer_state, "learning_rate")
    rates = (rate for _, rate in found if isinstance(rate, jax.Array) and rate.ndim == 0)  # a schedule's state is none
    # The shortest number that is this one in the type of the rate: 0.003 and not 0.003000000026077032.
    return next((float(str(np.asarray(rate))) for rate in rates), None)


def _listed(tree: PyTree) -> str:
    """The paths and shapes of the first arrays of a pytree."""
    shapes = [f"{path}: {jnp.shape(leaf)}" for path, leaf in flatten(tree).items()]
    more = [f"… {len(shapes) - MOST_SHOWN} more"] if len(shapes) > MOST_SHOWN else []
    return f"{{{', '.join(shapes[:MOST_SHOWN] + more)}}}"


def _first_train_state(net, optimizer, key, in_shape, policy: Precision) -> TrainState:
    params, state = cast(checked_init(net, derived_key(key, "init"), in_shape), policy.parameters)
    loss_scale = LossScale.first() if policy.scales_loss else None
    with explaining_optimizer(optimizer):
        optimizer_state = optimizer.init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, state, optimizer_state, key, loss_scale)


def _check_equal_forms(start: PyTree, expected: PyTree, remedy: str = "") -> None:
    """Raises an InputError that lists the paths of arrays whose shape or type is another one."""
    with inside("start"):
        given_forms = forms(start)
    if different := differences(given_forms, forms(expected)):
        raise InputError("start", "the arrays that the network and the optimizer need", different, remedy)
