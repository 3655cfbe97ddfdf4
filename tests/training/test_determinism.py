"""The same seed gives the same bits: in one process, and in another on the same machine."""

import hashlib
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from tests.other_process import python

import functional_nn as fnn

FOLDER = str(Path(__file__).parent)


def digest() -> str:
    """Of all that a run and its predictions come to."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 6, 6, 1), dtype=np.uint8)
    labels = (np.arange(64) % 3).astype(np.int32)
    data = fnn.data.Split(images, labels, images[:30], labels[:30])
    convolution = fnn.chain(fnn.conv(3, 3), fnn.batch_norm(), fnn.relu, fnn.average_pool(2))
    net = fnn.chain(convolution, fnn.flatten(), fnn.dropout(0.3), fnn.dense(3))
    run = fnn.fit(net, fnn.cross_entropy, optax.adam(1e-2), data, epochs=2, batch_size=16, seed=7)
    assert run.status == "finished"
    history = [metrics._replace(seconds=0.0) for metrics in run.history]
    parts = run.params, run.state, run.train_state.optimizer_state, history
    answers = fnn.training.predict_probabilities(net, run.params, run.state, images[:30])
    bits = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((parts, answers))]
    return hashlib.sha256(b"".join(bits)).hexdigest()


@pytest.mark.processes
def test_same_seed_same_bits_in_this_process_and_in_another():
    code = f"import sys; sys.path.insert(0, {FOLDER!r}); import test_determinism as test; print(test.digest())"
    assert digest() == python(code).stdout.strip()
