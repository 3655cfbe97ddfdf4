"""Compiled programs that outlive their process: found where all that made them is the same, and only there."""

import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.training import kept_programs, programs
from functional_nn.training.fit import prepared
from functional_nn.training.kept_programs import kept_programs as keeping

DESCRIPTION = {"hidden": [4], "rate": 0.1}


class Fits:
    """Fits a network as a process of its own would, and says whether it had to trace it."""

    def __init__(self):
        self.traces = 0

        def counted(x):
            self.traces += 1
            return x

        self.net = fnn.chain(fnn.dense(4), counted, fnn.relu, fnn.dense(3))

    def __call__(self, folder, description=None, examples=40, **options):
        programs._programs.cache_clear()
        random = np.random.default_rng(0)
        x, labels = random.normal(size=(60, 5)).astype(np.float32), random.integers(0, 3, 60).astype(np.int32)
        data = fnn.Split(x[:examples], labels[:examples], x[examples:], labels[examples:])
        prepared(self.net, fnn.cross_entropy, data)  # output shapes are traced once a process
        before = self.traces
        with keeping(folder, description or DESCRIPTION):
            options = {"epochs": 2, "batch_size": 16, **options}
            run = fnn.fit(self.net, fnn.cross_entropy, optax.adam(0.1), data, **options)
        assert run.status == "finished"
        leaves = jax.tree.leaves(run.train_state._replace(key=None))
        return self.traces > before, [np.asarray(leaf).tobytes() for leaf in leaves]


@pytest.fixture
def fits():
    return Fits()


def runs(folder):
    return sorted(folder.glob("*.run"))


def programs_in(folder):
    return sorted(folder.glob("*.program"))


def test_the_next_process_does_not_trace_and_has_the_same_bits(fits, tmp_path):
    traced, first = fits(tmp_path)
    assert traced
    assert len(runs(tmp_path)) == 1
    assert len(programs_in(tmp_path)) == 5
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert fits(tmp_path) == (False, first)
    assert fits(tmp_path, seed=1)[0] is False
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_without_a_folder_nothing_is_kept(fits, tmp_path):
    assert fits(None)[0]
    assert fits(None)[0]
    assert not list(tmp_path.iterdir())


def test_one_description_is_of_one_recipe(tmp_path):
    """The second network has the shapes of the first, and is not taken for it."""
    x, labels = np.ones((8, 2), np.float32), np.arange(8, dtype=np.int32) % 2
    data = fnn.Split(x, labels, x, labels)
    nets = [fnn.chain(fnn.dense(3), activation, fnn.dense(2)) for activation in (fnn.tanh, fnn.sigmoid)]

    def losses():
        programs._programs.cache_clear()
        runs = [fnn.fit(net, fnn.cross_entropy, optax.sgd(0.1), data, epochs=1, batch_size=4) for net in nets]
        return [run.history[0].train_loss for run in runs]

    apart = losses()
    assert apart[0] != apart[1]
    for _ in range(2):
        with keeping(tmp_path, {}):
            assert losses() == apart
        assert len(runs(tmp_path)) == 1


def test_another_run_takes_the_programs_that_are_the_same(fits, tmp_path, monkeypatch):
    """What is described otherwise is lowered anew; since it comes to the same here, nothing is compiled."""
    _, first = fits(tmp_path)

    def refuse(*arguments):
        raise AssertionError("compiled")

    monkeypatch.setattr(kept_programs, "compile_lowered", refuse)
    assert fits(tmp_path, description={"hidden": [4], "rate": 0.2}) == (True, first)
    assert len(runs(tmp_path)) == 2
    assert len(programs_in(tmp_path)) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"description": {"hidden": [4], "rate": 0.2}},
        {"examples": 48},
        {"batch_size": 8},
        {"precision": "bfloat16"},
    ],
)
def test_what_is_computed_otherwise_is_not_taken(fits, tmp_path, change):
    fits(tmp_path)
    assert fits(tmp_path, **change)[0]
    assert len(runs(tmp_path)) == 2
    assert not fits(tmp_path)[0]


@pytest.mark.parametrize("what", ["_code", "_processor"])
def test_of_another_version_or_machine_nothing_is_taken(fits, tmp_path, monkeypatch, what):
    fits(tmp_path)
    monkeypatch.setattr(kept_programs, what, lambda: "another")
    assert fits(tmp_path)[0]


def test_under_other_settings_nothing_is_taken(fits, tmp_path, monkeypatch):
    fits(tmp_path)
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        assert fits(tmp_path)[0]
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    monkeypatch.setenv("XLA_FLAGS", "--another")
    assert fits(tmp_path)[0]


@pytest.mark.parametrize("which", [runs, programs_in])
def test_fault_29_a_damaged_file_is_made_anew(fits, tmp_path, which):
    _, first = fits(tmp_path)
    path = which(tmp_path)[0]
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        assert fits(tmp_path) == (True, first)
        assert path.read_bytes() != damaged
    path.unlink()
    assert fits(tmp_path) == (True, first)
    assert fits(tmp_path) == (False, first)


def test_a_single_bit_anywhere_is_noticed(fits, tmp_path):
    fits(tmp_path)
    path = programs_in(tmp_path)[0]
    whole = path.read_bytes()
    for place in [0, 31, 32, *np.random.default_rng(1).integers(0, len(whole), 300)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="damaged"):
            kept_programs._read(path)


def test_a_program_that_is_the_same_but_for_its_trees_is_another(fits, tmp_path):
    """Evaluation drops the optimizer's state, so its code is that of any optimizer; its arguments are not."""
    for policy in ("stop", "roll-back", "stop", "roll-back"):
        fits(tmp_path, description={"policy": policy}, non_finite=policy)


def test_decompositions_find_lapack_begun(tmp_path):
    """An orthogonal initial value is LAPACK's; a process that has lowered nothing has to begin it, or it ends."""
    code = """
    import sys, pathlib, jax, numpy as np, optax, functional_nn as fnn
    from functional_nn.training.kept_programs import kept_programs
    x, labels = np.ones((8, 3, 2), np.float32), np.zeros(8, np.int32)
    net = fnn.chain(fnn.rnn(4), fnn.dense(2))
    with kept_programs(pathlib.Path(sys.argv[1]), {}):
        run = fnn.fit(net, fnn.cross_entropy, optax.sgd(0.1), fnn.Split(x, labels, x, labels), epochs=1, batch_size=4,
                      devices=2)
    print(repr(run.history[0].train_loss))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    ended = [subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120) for _ in range(2)]
    assert [process.returncode for process in ended] == [0, 0], ended[1].stderr
    assert ended[0].stdout == ended[1].stdout
    assert any(b"lapack_" in kept_programs._read(path) for path in programs_in(tmp_path))


def test_what_calls_into_this_process_is_not_kept(tmp_path):
    def logged(y, labels):
        jax.debug.callback(lambda loss: None, y[0, 0])
        return fnn.cross_entropy(y, labels)

    x, labels = np.ones((8, 2), np.float32), np.zeros(8, np.int32)
    for _ in range(2):
        programs._programs.cache_clear()
        with keeping(tmp_path, {}):
            data = fnn.Split(x, labels, x, labels)
            run = fnn.fit(fnn.dense(2), logged, optax.sgd(0.1), data, epochs=1, batch_size=4)
        assert run.status == "finished"
        assert not runs(tmp_path)
        assert len(programs_in(tmp_path)) == 3  # start, order, and nothing left over


def test_programs_that_the_cache_of_jax_has_are_compiled_all_the_same(fits, tmp_path, cache_of_jax):
    """What came from that cache could be written, and would not run when it is read."""
    _, first = fits(None)
    assert list(cache_of_jax.iterdir())
    found = len(programs_in(tmp_path))
    assert fits(tmp_path) == (True, first)
    assert len(programs_in(tmp_path)) == found + 5
    assert fits(tmp_path) == (False, first)
    assert jax.config.values["jax_enable_compilation_cache"]


def test_they_are_kept_where_the_run_fails(fits, tmp_path):
    def fail(metrics):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fits(tmp_path, on_epoch=fail)
    assert fits(tmp_path)[0] is False


def test_a_folder_that_is_gone_harms_nobody(fits, tmp_path):
    assert fits(tmp_path / "missing")[0]
    assert not list(tmp_path.iterdir())


def test_a_platform_that_cannot_write_programs_goes_without(fits, tmp_path, monkeypatch):
    def unable(program):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED")

    monkeypatch.setattr(kept_programs.serialize_executable, "serialize", unable)
    assert fits(tmp_path)[0]
    assert not list(tmp_path.iterdir())
