"""The benchmarks: arguments that cannot work, the peers of the workloads, and the text and networks of W6."""

from importlib import import_module

import jax
import numpy as np
import pytest
from benchmarks import data, w1, w2, w3, w4, w5, w6
from benchmarks.peers import functional_nn as ours
from benchmarks.peers import jax_loops
from rich.console import Console

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
    text = data.read_sonnets()
    few = data.Sonnets(text.train[:6], text.test[:3])
    for module in (ours, jax_loops):
        monkeypatch.setattr(module, "read_sonnets", lambda: few)
    monkeypatch.setattr(w6, "SIZES", TINY)
    monkeypatch.setattr(w6, "BATCH_SIZE", TINY.batch)


def test_the_windows_are_those_that_the_workload_names():
    train, test = data.read_sonnets()
    assert train.shape == (w6.WINDOWS, w6.SIZES.time + 1) == (w6.STEPS * w6.BATCH_SIZE, 65)
    assert train.dtype == test.dtype == np.int32
    assert max(train.max(), test.max()) == w6.SIZES.count - 1
    np.testing.assert_array_equal(train[0, w6.STRIDE :], train[1, : -w6.STRIDE])
    assert data.TEXT.read_text("ascii").index(data.HELD_OUT) >= (w6.WINDOWS - 1) * w6.STRIDE + w6.SIZES.time


def test_right_characters_are_counted():
    windows = np.array([[0, 1, 2], [0, 2, 2]])
    logits = np.eye(3)[[[1, 0], [2, 2]]]
    assert data.share_of_right_characters(logits, windows) == 0.75


def test_w6_of_functional_nn_trains(few_windows):
    for make in (ours.sonnets_by_hand, ours.sonnets_by_grad):
        peer = make(None, 0)
        peer.train_epoch()
        assert 0 <= peer.accuracy() <= 1


def test_a_loop_of_steps_trains(few_windows):
    layer = ours.language_network(TINY)
    params, state = layer.init(jax.random.key(0), (TINY.time,))
    peer = jax_loops.epochs_of_sonnets(
        lambda params, tokens: layer.apply(params, state, tokens, train=True)[0], params, TINY, 0
    )
    peer.train_epoch()
    assert 0 <= peer.accuracy() <= 1


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


def test_a_page_is_not_made_from_results_of_another_file(monkeypatch, tmp_path):
    """Nothing is measured here, so the file does not even exist: a page could not be made from it."""
    from benchmarks import records
    from benchmarks.growth import measure

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if matplotlib were installed
    measure.compare(Console(quiet=True), [], 1, tmp_path / "none.jsonl", quick=False)
    assert records.is_of_documents(records.RESULTS / "growth.jsonl")


@pytest.mark.parametrize("peer", ["functional_n", "haiku_tuned"])
def test_the_baseline_of_a_race_is_one_of_its_peers(monkeypatch, capsys, peer):
    main = import_module("benchmarks.__main__")
    arguments = ["w1", "--data-dir", "none", "--peers", "functional_nn,jax_scan", "--baseline", peer]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        main.parse_arguments()
    assert "--baseline: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "flag", "expected"),
    [
        (["w1", "--data-dir", "none", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["compile", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["accelerator", "--out", "new", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["all", "--data-dir", "none", "--results", "file"], "--results", "expected a folder, got the file"),
        (["tables", "--results", "file"], "--results", "expected a folder, got the file"),
    ],
)
def test_results_that_could_not_be_written_are_refused_before_the_measurement(
    monkeypatch, capsys, tmp_path, arguments, flag, expected
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        import_module("benchmarks.__main__").parse_arguments()
    assert f"argument {flag}: {expected} {arguments[-1]}" in capsys.readouterr().err
