"""The small run that tests vary: programs that one test has compiled are used again by the others."""

import jax
import numpy as np
import optax

import functional_nn as fnn
from functional_nn.training import Run

NET, RULE = fnn.dense(3), optax.sgd(0.1)
DEEP, ADAM = fnn.chain(fnn.dense(6), fnn.batch_norm(), fnn.relu, fnn.dropout(0.1), fnn.dense(3)), optax.adam(1e-2)
"""A network with a state and with noise, and an optimizer with a state."""
ASCENT = optax.sgd(-0.1)
random = np.random.default_rng(0)
LABELS = random.integers(0, 3, 60).astype(np.int32)
X = (3 * random.normal(size=(3, 5))[LABELS] + random.normal(size=(60, 5))).astype(np.float32)
DATA = fnn.data.Split(X[:40], LABELS[:40], X[40:], LABELS[40:])
"""Three classes that a small network can tell apart: two batches of 20 examples to train on, and one to test."""
TRAIN = fnn.data.Split(X[:40], LABELS[:40])
VALIDATED = DATA.with_validation(0.5)
"""20 examples each to train on, to validate and to test."""


def fit(net=NET, loss=fnn.cross_entropy, optimizer=RULE, data=DATA, **options) -> Run:
    return fnn.fit(net, loss, optimizer, data, **{"epochs": 3, "batch_size": 20, "progress": False, **options})


def bits(run: Run) -> list[bytes]:
    """Every bit of what a run has learned."""
    trained = run.params, run.state, run.train_state.optimizer_state
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trained)]
