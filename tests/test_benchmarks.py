"""The benchmarks: arguments that cannot work, the peers of the workloads, and the text and networks of W6."""

from importlib import import_module

import jax
import numpy as np
import pytest
from benchmarks import data, w1, w2, w3, w4, w5, w6
from benchmarks.peers import functional_nn as ours

import functional_nn as fnn

TINY = w6.LanguageSizes(count=58, time=64, features=8, depth=1, heads=2, batch=2)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax and plain JAX programs let JAX convert types and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_the_windows_are_those_that_the_workload_names():
    train, test = data.read_sonnets()
    assert train.shape == (w6.WINDOWS, w6.SIZES.time + 1) == (w6.STEPS * w6.BATCH_SIZE, 65)
    assert train.dtype == test.dtype == np.int32
    assert max(train.max(), test.max()) == w6.SIZES.count - 1
    np.testing.assert_array_equal(train[0, w6.STRIDE :], train[1, : -w6.STRIDE])
    assert data.TEXT.read_text("ascii").index(data.HELD_OUT) >= (w6.WINDOWS - 1) * w6.STRIDE + w6.SIZES.time


@pytest.mark.parametrize("module", ["equinox", "flax_nnx", "pytorch"])
def test_the_peers_of_w6_have_the_same_network(module):
    """As many parameters, but for biases of the keys, which change nothing, and logits for each token."""
    library = {"equinox": "equinox", "flax_nnx": "flax", "pytorch": "torch"}[module]
    pytest.importorskip(library)
    expected = _size(ours.language_network(TINY).init(jax.random.key(0), (TINY.time,))[0])
    if module == "pytorch":
        from benchmarks.peers.pytorch import LanguageModel

        theirs = sum(parameter.numel() for parameter in LanguageModel(TINY).parameters())
    elif module == "equinox":
        from benchmarks.peers.equinox import partitioned_network

        theirs = _size(partitioned_network(TINY, 0)[1])
    else:
        from benchmarks.peers.flax_nnx import split_network

        theirs = _size(split_network(TINY, 0)[1])
    assert abs(expected - theirs) <= TINY.depth * TINY.features


def _size(params) -> int:
    return fnn.trees.size(params)


@pytest.mark.parametrize("workload", [w1, w2, w3, w4, w5, w6], ids=lambda workload: workload.__name__)
def test_the_peers_of_a_workload_exist(workload):
    """Those of libraries that are not installed are left out."""
    for place in workload.PEERS.values():
        module, function = place.split(":")
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name.startswith(("benchmarks", "functional_nn")):
                raise
        else:
            assert callable(getattr(found, function))


@pytest.mark.parametrize("peer", ["functional_n", "haiku_tuned"])
def test_the_baseline_of_a_race_is_one_of_its_peers(monkeypatch, capsys, peer):
    main = import_module("benchmarks.__main__")
    arguments = ["w1", "--data-dir", "none", "--peers", "functional_nn,jax_scan", "--baseline", peer]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        main.parse_arguments()
    assert "--baseline: " in capsys.readouterr().err
