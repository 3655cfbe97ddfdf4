"""Every layer, activation, loss and penalty with inputs to try it on: what the contracts run over.

Sizes are small, distinct and prime, so that a transposed or broadcast axis cannot pass unseen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn

BATCH = 7


class LayerCase(NamedTuple):
    name: str
    layer: fnn.Layer
    in_shape: tuple[int, ...]
    draws: bool = False


class LossCase(NamedTuple):
    name: str
    loss: fnn.Loss
    y: np.ndarray
    labels: np.ndarray


LAYERS = [
    LayerCase("neuron", fnn.neuron(), (5,)),
    *(LayerCase(f"neuron_{f.name}", fnn.neuron(f), (5,)) for f in (fnn.sigmoid, fnn.tanh, fnn.relu)),
    LayerCase("dense", fnn.dense(3), (5,)),
    LayerCase("dense_without_bias", fnn.dense(3, bias=False), (5,)),
    LayerCase("dense_on_sequences", fnn.dense(3), (11, 5)),
    LayerCase("dense_pytorch_start", fnn.dense(3, initializer="pytorch"), (5,)),
    LayerCase("flatten", fnn.flatten(), (2, 3, 5)),
    LayerCase("reshape", fnn.reshape((3, -1)), (2, 15)),
    LayerCase("dropout", fnn.dropout(0.3), (13,), draws=True),
    LayerCase("batch_norm", fnn.batch_norm(), (5,)),
    LayerCase("batch_norm_on_images", fnn.batch_norm(momentum=0.7, epsilon=1e-3), (2, 3, 5)),
    LayerCase("chain_empty", fnn.chain(), (5,)),
    LayerCase("chain", fnn.chain(fnn.dense(3), fnn.tanh, fnn.dense(2)), (5,)),
    LayerCase("chain_of_chains", fnn.chain(fnn.chain(fnn.dense(3), fnn.gelu), fnn.chain(fnn.dropout(0.5))), (5,), True),
    LayerCase("mlp", fnn.mlp(3, hidden=(11, 7)), (5, 2)),
    LayerCase(
        "mlp_with_all", fnn.mlp(3, hidden=(11, 7), dropout=0.2, batch_norm=True, activation=fnn.silu), (5, 2), True
    ),
    *(LayerCase(name, f.as_layer(), (5, 3)) for name, f in fnn.ACTIVATIONS.items()),
]

_random = np.random.default_rng(0)
_logits = _random.normal(size=(BATCH, 5)) * 3
_integers = _random.integers(0, 5, BATCH)
_soft = _random.dirichlet(np.ones(5), BATCH)
_targets = _random.normal(size=(BATCH, 5))
_smoothed = fnn.cross_entropy_with(label_smoothing=0.1, ignore_index=-1)

LOSSES = [
    LossCase("mean_squared_error", fnn.mean_squared_error, _logits, _targets),
    LossCase("mean_squared_error_of_vectors", fnn.mean_squared_error, _logits[:, 0], _targets[:, 0]),
    LossCase("mean_absolute_error", fnn.mean_absolute_error, _logits, _targets),
    LossCase("huber", fnn.huber, _logits, _targets),
    LossCase("huber_with", fnn.huber_with(0.3), _logits, _targets),
    LossCase("binary_cross_entropy", fnn.binary_cross_entropy, _logits, (_targets > 0).astype(int)),
    LossCase("binary_cross_entropy_soft", fnn.binary_cross_entropy, _logits, _soft),
    LossCase(
        "binary_cross_entropy_from_probabilities",
        fnn.binary_cross_entropy_from_probabilities,
        1 / (1 + np.exp(-_logits)),
        (_targets > 0).astype(int),
    ),
    LossCase("cross_entropy", fnn.cross_entropy, _logits, _integers),
    LossCase("cross_entropy_soft", fnn.cross_entropy, _logits, _soft),
    LossCase("cross_entropy_on_sequences", fnn.cross_entropy, _logits.reshape(1, BATCH, 5), _integers[None]),
    LossCase("cross_entropy_smoothed", fnn.cross_entropy_with(label_smoothing=0.2), _logits, _integers),
    LossCase("cross_entropy_smoothed_ignoring", _smoothed, _logits, np.where(_integers == 2, -1, _integers)),
    LossCase("cross_entropy_smoothed_soft", _smoothed, _logits, _soft),
]

PENALTIES = [
    ("l1", fnn.l1(0.3)),
    ("l2", fnn.l2(0.7)),
    ("l1_by_path", fnn.l1(0.3, paths=["*bias", "dense_1/*"])),
    ("l2_by_function", fnn.l2(0.7, paths=lambda path: "dense_0" in path)),
]


def started(case: LayerCase, seed: int = 0) -> tuple[Any, Any, jax.Array]:
    """Parameters and state drawn at random everywhere (no zero biases to hide behind), and an input."""
    params, state = case.layer.init(jax.random.key(seed), case.in_shape)
    random = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten((params, state))
    drawn = [jnp.asarray(random.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    params, state = jax.tree.unflatten(structure, drawn)
    state = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.5, state)
    x = jnp.asarray(random.normal(size=(BATCH, *case.in_shape)), float)
    return params, state, x


def of(cases):
    """The arguments of ``pytest.mark.parametrize``, with readable names."""
    return {"argvalues": cases, "ids": [case[0] for case in cases]}
