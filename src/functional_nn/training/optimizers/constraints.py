"""Masks of parameters for Optax by their paths, and a bound on the norm of weights (max-norm)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from functional_nn.core import trees
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Params
from functional_nn.core.shapes import is_shape
from functional_nn.core.validation import check_number, shown


def path_mask(paths: trees.Paths = "*weight") -> Callable[[Params], trees.PyTree]:
    """Makes a mask for Optax, which says on which parameters a transformation acts, from their paths.

    For example, ``optax.adamw(1e-3, weight_decay=1e-2, mask=path_mask("*weight"))`` decays weights, but not biases and
    scales. ``optax.add_decayed_weights(1e-4, mask=path_mask("dense_0/*"))`` before ``optax.sgd(0.1)`` in
    ``optax.chain`` decays the weights and biases of one layer. For L1 and L2 in the loss see ``l1`` and ``l2``.

    Args:
        paths: a pattern, several patterns, or a function of the path; see ``trees.select``.

    Raises:
        InputError: when Optax initializes the transformation, if no parameter matches.

    >>> path_mask("*weight")({"dense_0": {"weight": 1.0, "bias": 2.0}})
    {'dense_0': {'bias': False, 'weight': True}}
    """
    trees.check_paths(paths)

    def mask(params):
        chosen = set(trees.select(params, paths))
        return trees.map_with_path(lambda path, leaf: path in chosen, params)

    return mask


def with_frozen(optimizer: optax.GradientTransformation, paths: trees.Paths) -> optax.GradientTransformationExtraArgs:
    """The optimizer with some parameters left as they are: no update, no weight decay, no memory for them.

    The parameters stay in one tree, as checkpoints and files need it. The layer ``frozen`` moves them to the state
    instead, and then their gradients are not computed either.

    Args:
        optimizer: what updates the other parameters.
        paths: which parameters to leave, see ``trees.select``.

    Raises:
        InputError: when Optax initializes the transformation, if no parameter matches.

    >>> rule = with_frozen(optax.sgd(1.0), "dense_0/*")
    >>> params = {"dense_0": {"bias": jnp.zeros(1)}, "dense_1": {"bias": jnp.zeros(1)}}
    >>> gradient = jax.tree.map(jnp.ones_like, params)
    >>> updates, _ = rule.update(gradient, rule.init(params), params)
    >>> print(updates["dense_0"]["bias"], updates["dense_1"]["bias"])
    [0.] [-1.]
    """
    mask = path_mask(paths)

    def labels(params):
        return jax.tree.map(lambda frozen: "frozen" if frozen else "trained", mask(params))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def max_norm(
    limit: float | jax.Array, paths: trees.Paths = "*weight", *, axis: int | tuple[int, ...] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keeps the norm of each unit's incoming weights at or below a limit. Put it last in ``optax.chain``.

    Math:
        w ← w' min(1, limit / ‖w'‖) with w' = w + update for each unit's weights w, so the update becomes
        w' min(1, limit / ‖w'‖) - w. The bound holds up to the rounding of that sum.

    Args:
        limit: the largest norm, above 0. May be a traced array.
        paths: which parameters, see ``trees.select``; by default the weights.
        axis: the axes along which the incoming weights of one unit lie. By default these are all axes but the last,
            as in dense and convolutional layers. A vector is taken as the weights of a single neuron. Other layers
            have other axes: those stacked by ``repeat``, ``unembedding``, ``conv_transpose``, and the heads of
            ``attention``. Leave them out by ``paths``, or use a second ``max_norm`` with another ``axis`` for them.

    Raises:
        InputError: if ``update`` is called without the parameters.

    >>> rule = optax.chain(optax.sgd(1.0), max_norm(2.5))
    >>> params = {"weight": jnp.array([[0.0], [4.0]])}
    >>> updates, _ = rule.update({"weight": jnp.array([[-3.0], [0.0]])}, rule.init(params), params)
    >>> print(optax.apply_updates(params, updates)["weight"].ravel())
    [1.5 2. ]

    References:
        Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", section 5.1.
    """
    check_number("limit", limit, "a number above 0", lambda limit: limit > 0)
    axes = (axis,) if isinstance(axis, int) else axis
    if axes is not None and not is_shape(axes):
        raise InputError("axis", "an axis, or a tuple of axes", shown(axis))

    def project(update, w):
        moved = w + update
        # A vector has one axis only, which is not left out.
        along = tuple(range(max(w.ndim - 1, 1))) if axes is None else axes
        if axes is not None and not all(-w.ndim <= one < w.ndim for one in axes):
            raise InputError("axis", f"axes of parameters of shape {w.shape}", shown(axis))
        # The norm is computed from w / max |w|, so that squares neither overflow nor vanish.
        largest = jnp.max(jnp.abs(moved), axis=along, keepdims=True)
        largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
        norm = largest * jnp.sqrt(jnp.sum(jnp.square(moved / largest), axis=along, keepdims=True))
        # For weights of 0, limit / 0 is infinite and the minimum is 1.
        return moved * jnp.minimum(jnp.asarray(limit, w.dtype) / norm, 1) - w

    def update(updates, params):
        if params is None:
            remedy = "Call update(gradients, state, params)."
            raise InputError("params", "the parameters, to compute their norm after the update", None, remedy)
        return jax.tree.map(project, updates, params)

    return optax.masked(optax.stateless(update), path_mask(paths))
