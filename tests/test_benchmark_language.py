"""W6: the windows of the sonnets, and one network for all peers."""

import jax
import numpy as np
import pytest
from benchmarks import sonnets, w6
from benchmarks.peers import donated_steps, language_functional_nn

import functional_nn as fnn

TINY = w6.LanguageSizes(count=58, time=64, features=8, depth=1, heads=2, batch=2)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax and plain JAX programs let JAX convert types and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def few_windows(monkeypatch):
    """W6 with a tiny network and three batches of two windows."""
    text = sonnets.read_sonnets()
    few = sonnets.Sonnets(text.train[:6], text.test[:3])
    for module in (language_functional_nn, donated_steps):
        monkeypatch.setattr(module, "read_sonnets", lambda: few)
    monkeypatch.setattr(w6, "SIZES", TINY)
    monkeypatch.setattr(w6, "BATCH_SIZE", TINY.batch)


def test_the_windows_are_those_that_the_workload_names():
    train, test = sonnets.read_sonnets()
    assert train.shape == (w6.WINDOWS, w6.SIZES.time + 1) == (w6.STEPS * w6.BATCH_SIZE, 65)
    assert train.dtype == test.dtype == np.int32
    assert max(train.max(), test.max()) == w6.SIZES.count - 1
    np.testing.assert_array_equal(train[0, w6.STRIDE :], train[1, : -w6.STRIDE])
    assert sonnets.TEXT.read_text("ascii").index(sonnets.HELD_OUT) >= (w6.WINDOWS - 1) * w6.STRIDE + w6.SIZES.time


def test_right_characters_are_counted():
    windows = np.array([[0, 1, 2], [0, 2, 2]])
    logits = np.eye(3)[[[1, 0], [2, 2]]]
    assert sonnets.share_of_right_characters(logits, windows) == 0.75


def test_the_peers_of_functional_nn_train(few_windows):
    for make in (language_functional_nn.sonnets_by_hand, language_functional_nn.sonnets_automatically):
        peer = make(None, 0)
        peer.train_epoch()
        assert 0 <= peer.accuracy() <= 1


def test_a_loop_of_steps_trains(few_windows):
    layer = language_functional_nn.network(TINY)
    params, state = layer.init(jax.random.key(0), (TINY.time,))
    peer = donated_steps.epochs_of_sonnets(
        lambda params, tokens: layer.apply(params, state, tokens, train=True)[0], params, TINY, 0
    )
    peer.train_epoch()
    assert 0 <= peer.accuracy() <= 1


@pytest.mark.parametrize("module", ["equinox", "flax_nnx", "pytorch"])
def test_the_peers_have_the_same_network(module):
    """As many parameters, but for biases of the keys, which change nothing, and logits for each token."""
    library = {"equinox": "equinox", "flax_nnx": "flax", "pytorch": "torch"}[module]
    pytest.importorskip(library)
    ours = _size(language_functional_nn.network(TINY).init(jax.random.key(0), (TINY.time,))[0])
    if module == "pytorch":
        from benchmarks.peers.language_pytorch import Network

        theirs = sum(parameter.numel() for parameter in Network(TINY).parameters())
    elif module == "equinox":
        from benchmarks.peers.language_equinox import partitioned_network

        theirs = _size(partitioned_network(TINY, 0)[1])
    else:
        from benchmarks.peers.language_flax_nnx import split_network

        theirs = _size(split_network(TINY, 0)[1])
    assert abs(ours - theirs) <= TINY.depth * TINY.features


def _size(params) -> int:
    return fnn.trees.size(params)
