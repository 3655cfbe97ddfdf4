"""The benchmarks: arguments that cannot work, the peers of the workloads, and the texts and networks of W6 and W7."""

from importlib import import_module

import jax
import numpy as np
import optax
import pytest
from benchmarks import data, w1, w2, w3, w4, w5, w6, w7
from benchmarks.peers import CannotRun, c, plain_jax
from benchmarks.peers import functional_nn as ours

import functional_nn as fnn

TINY = w6.LanguageSizes(count=58, time=64, features=8, depth=1, heads=2, batch=2)


@pytest.mark.parametrize(("workload", "read"), [(w6, data.read_sonnets), (w7, data.read_letters)])
def test_the_windows_are_those_that_the_workload_names(workload, read):
    train, test = read()
    assert train.shape == (workload.WINDOWS, workload.SIZES.time + 1)
    assert workload.WINDOWS == workload.STEPS * workload.BATCH_SIZE
    assert train.dtype == test.dtype == np.int32
    assert max(train.max(), test.max()) == workload.SIZES.count - 1
    np.testing.assert_array_equal(train[0, workload.STRIDE :], train[1, : -workload.STRIDE])


@pytest.mark.parametrize("module", ["equinox", "flax_nnx", "pytorch"])
def test_the_peers_have_the_same_networks(module):
    """As many parameters; in W6 but for biases of the keys, which change nothing."""
    pytest.importorskip({"equinox": "equinox", "flax_nnx": "flax", "pytorch": "torch"}[module])
    peers = import_module(f"benchmarks.peers.{module}")

    def theirs(network, sizes):
        if module == "pytorch":
            return sum(parameter.numel() for parameter in network(sizes).parameters())
        if module == "equinox":
            return _size(peers.partitioned_network(network(sizes, jax.random.key(0)))[1])
        return _size(peers.split_network(network(sizes, peers.nnx.Rngs(0)))[1])

    expected = _size(ours.language_network(TINY).init(jax.random.key(0), (TINY.time,))[0])
    assert abs(expected - theirs(peers.LanguageModel, TINY)) <= TINY.depth * TINY.features
    assert theirs(peers.TinyGpt, w7.SIZES) == w7.PARAMETERS


def test_the_tiny_gpt_is_that_of_plain_jax():
    params, tokens = plain_jax.tiny_gpt_start(jax.random.key(0), w7.SIZES), data.read_letters().test[:2, :-1]
    net = ours.tiny_gpt(w7.SIZES)
    own, state = jax.eval_shape(lambda key: net.init(key, (w7.SIZES.time,)), jax.random.key(0))
    names = ("output", "embedding", "positions", "key", "attended", "query", "value", "first", "second")
    own = jax.tree.unflatten(
        jax.tree.structure(own),
        [params[name].reshape(leaf.shape) for name, leaf in zip(names, jax.tree.leaves(own), strict=True)],
    )
    logits, expected = jax.jit(
        lambda: (net.apply(own, state, tokens, train=False)[0], plain_jax.tiny_gpt(params, tokens, w7.SIZES.heads))
    )()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert _size(own) == w7.PARAMETERS


def test_the_loop_in_c_has_the_losses_of_plain_jax():
    """From the same start, step by step."""
    params, windows = plain_jax.tiny_gpt_start(jax.random.key(0), w7.SIZES), data.read_letters().train[:20]
    try:
        in_c = c.TinyGpt(np.concatenate([np.ravel(leaf) for leaf in params.values()]))
    except CannotRun as error:
        pytest.skip(str(error))
    state = params, optax.adam(w7.LEARNING_RATE).init(params)
    _, losses = jax.jit(plain_jax.letters_epoch)(state, windows)
    np.testing.assert_allclose(in_c.train(windows), losses, atol=1e-4)


def _size(params) -> int:
    return fnn.trees.size(params)


@pytest.mark.parametrize("workload", [w1, w2, w3, w4, w5, w6, w7], ids=lambda workload: workload.__name__)
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
