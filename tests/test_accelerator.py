"""`python -m benchmarks accelerator`: shares of time, parts that fail or are late, what does not fit, and the page."""

import itertools
import json
import time
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest
from benchmarks.accelerator import compare, machine, population, process, races, verification, whole_run
from benchmarks.data import make_files
from benchmarks.accelerator.page import page
from benchmarks.accelerator.parts import PARTS, Part, Settings, limit_for, seconds_for
from benchmarks.accelerator.precision import networks, precisions
from benchmarks.accelerator.process import DONE, FAILED, OUT_OF_TIME, Outcome
from benchmarks.data import read_mnist
from benchmarks.peers import Peer
from rich.console import Console

import functional_nn as fnn

ABOUT = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc", "cpu": "a processor", "cores": 16}
GPU = {
    "platform": "gpu",
    "device": "NVIDIA H100 80GB HBM3",
    "devices": 1,
    "memory_limit": 60_000_000_000,
    "versions": {"jax": "0.10", "nvidia driver": "570.1"},
    "nvidia": {"driver_version": "570.1", "power.limit": "700 W"},
}


def settings(folder=Path(), **others):
    return Settings(folder, **{"small": True, "platform": "cpu", "seconds": 300.0} | others)


def read(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def quiet():
    return Console(quiet=True)


def test_every_part_exists():
    for part in PARTS.values():
        module, function = part.measure.split(":")
        assert callable(getattr(import_module(module), function))


def test_every_peer_of_the_races_is_a_peer_of_its_workload():
    for name in ("w1", "w2", "w3", "w4"):
        workload = import_module(f"benchmarks.{name}")
        for peers in (races.PEERS[name], races.PEERS_SMALL[name]):
            assert set(peers) <= set(workload.PEERS)
            assert set(peers) <= set(workload.NAMES)
            assert peers[0].startswith("functional_nn")


def test_time_is_shared_by_weight_and_unused_time_goes_to_later_parts():
    names, left, given = list(PARTS), 456.0, {}
    for number, name in enumerate(names):
        given[name] = seconds_for(name, names[number + 1 :], left, small=False)
        left -= given[name] / 2  # each takes half of its time
    assert given["verify"] > PARTS["verify"].weight
    assert left > 0
    assert limit_for(10, 100) == 20
    assert limit_for(40, 50) == 50


def test_parts_that_do_not_fit_are_left_out():
    assert seconds_for("population", ["verify"], 5, small=False) is None
    assert seconds_for("population", [], 30, small=False) == 30


def test_precisions_are_those_of_the_platform():
    assert [choice.products for choice in precisions("gpu")] == ["highest", "default", None]
    assert "TF32" in precisions("cuda")[1].name
    assert "bfloat16" in precisions("tpu")[1].name
    assert [case.batch_size for case in networks(small=False)] == [64, 1024, 128]


def test_a_run_has_a_page_and_results_although_parts_fail(tmp_path):
    asked = []

    def run(name, given, limit, log, receive):
        asked.append((name, given.small, given.platform))
        if name == "machine":
            receive(GPU)
        elif name == "w1":
            return Outcome(FAILED, "CannotRun: no such | library")
        elif name == "population":
            receive({"hidden": (32,), "models": 1, "examples": 10, "problem": "out of memory"})
        elif name == "verify":
            return Outcome(OUT_OF_TIME, "it was ended after 3 s")
        return Outcome(DONE)

    results = tmp_path / "all.jsonl"
    chosen = ["w1", "population", "verify"]
    ok = compare.compare(quiet(), out=tmp_path / "out", small=True, parts=chosen, results=results, run=run)
    assert not ok
    assert asked == [("machine", True, ""), *[(name, True, "gpu") for name in chosen]]
    text = (tmp_path / "out" / "page.md").read_text("utf-8")
    assert text.startswith("# functional_nn on NVIDIA H100 80GB HBM3")
    assert "**This part is not complete** (failed): CannotRun" in text
    assert "(out of time): it was ended after 3 s." in text
    assert "Hidden sizes 32: 1 networks: out of memory." in text
    assert "trial with small sizes" in text
    lines = read(results)
    assert lines == read(tmp_path / "out" / "results.jsonl")
    assert page(lines) == text
    with pytest.raises(FileExistsError, match="give each a new --out"):
        compare.compare(quiet(), out=tmp_path / "out", small=True, run=run)


def test_without_a_device_nothing_else_is_measured(tmp_path):
    asked = []

    def run(name, given, limit, log, receive):
        asked.append(name)
        return Outcome(FAILED, "RuntimeError: no device")

    assert not compare.compare(quiet(), out=tmp_path, run=run)
    assert asked == ["machine"]
    assert "no device" in (tmp_path / "page.md").read_text("utf-8")


def test_too_little_time_is_said(tmp_path):
    def run(name, given, limit, log, receive):
        receive(GPU)
        return Outcome(DONE)

    assert compare.compare(quiet(), out=tmp_path, small=True, minutes=1e-6, run=run)
    text = (tmp_path / "page.md").read_text("utf-8")
    assert text.count("(left out): 0 s were left.") == len(PARTS) - 1


@pytest.mark.processes
def test_processes_that_fail_or_are_late(tmp_path, monkeypatch):
    """The worker imports its part by name, and its own list of parts has none of these: it fails, and says why."""
    monkeypatch.setitem(process.PARTS, "unknown", Part("nowhere:measure", 1))
    records = []
    outcome = process.run_part("unknown", settings(tmp_path), 60, tmp_path / "log.txt", records.append)
    assert outcome.status == FAILED
    assert "status 2" in outcome.problem
    assert "invalid choice" in outcome.problem
    outcome = process.run_part("verify", settings(tmp_path), 0.2, tmp_path / "log.txt", records.append)
    assert outcome == Outcome(OUT_OF_TIME, "it was ended after 0 s")
    assert not records


@pytest.mark.processes
def test_the_command_on_a_cpu(tmp_path, monkeypatch):
    main = import_module("benchmarks.__main__")
    arguments = ["accelerator", "--out", str(tmp_path / "out"), "--parts", "w1,verify", "--minutes", "4"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    main.main()
    text = (tmp_path / "out" / "page.md").read_text("utf-8")
    assert "functional_nn" in text
    assert "All comparisons passed" in text
    lines = read(tmp_path / "out" / "results.jsonl")
    (ours,) = [line for line in lines if line.get("peer") == "functional_nn"]
    assert ours["examples"] == 320
    assert ours["seconds"]
    assert 0 <= ours["accuracy"] <= 1


def test_made_up_images_are_read_like_mnist(tmp_path):
    make_files(tmp_path, small=True, source=None)
    mnist = read_mnist(tmp_path)
    assert mnist.train_images.shape == (320, 784)
    assert mnist.test_labels.shape == (100,)
    assert 0.9 < mnist.train_images.max() <= 1


def test_networks_that_do_not_fit_end_their_size(tmp_path):
    make_files(tmp_path, small=True, source=None)
    asked = []

    def make(mnist, seed, models, hidden):
        asked.append((models, tuple(hidden)))
        if models == 4 and len(hidden) == 2:
            raise MemoryError("4 is too much")
        return Peer(lambda: None, None)

    records = list(population.measure(settings(tmp_path, small=False), make))
    assert asked[:5] == [(1, (32,)), (1, (128, 64)), (4, (32,)), (4, (128, 64)), (16, (32,))]
    assert asked[5:] == [(models, (32,)) for models in (64, 256, 1024, 4096)]
    (failed,) = [record for record in records if "problem" in record]
    assert failed["problem"] == "out of memory: 4 is too much"

    def broken(mnist, seed, models, hidden):
        raise ValueError("another error")

    with pytest.raises(ValueError, match="another error"):
        list(population.measure(settings(tmp_path), broken))


def test_many_networks_in_one_program_train_as_each_alone(tmp_path):
    from benchmarks.peers.functional_nn import mapped, solo

    make_files(tmp_path, small=True, source=None)
    mnist = read_mnist(tmp_path)
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it for a rate that is traced
        together, alone = mapped(mnist, 0, 2, [8]), solo(mnist, 0, 2, [8])
    for peer in (together, alone):
        peer.train_epoch()
    np.testing.assert_allclose(together.predict(mnist.test_images), alone.predict(mnist.test_images), atol=1e-4)


def test_only_what_the_time_allows_is_verified(monkeypatch):
    monkeypatch.setattr(verification, "SMALL", ("relu", "identity"))
    monkeypatch.setattr(fnn, "verify", lambda names, **_: fnn.gradients.Report())
    # A clock that moves by one second each time it is read: a group takes one second, and one is left after it.
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    about, *groups = verification.measure(settings(seconds=4.0, began=0.0))
    assert about["names"] == 2
    assert len(groups) == 1
    about, *groups = verification.measure(settings())
    assert len(groups) == 2


def test_a_whole_run_as_one_program_does_not_check_its_steps_as_fit_does_not(monkeypatch):
    programs = []

    def compiled(function, arguments, loops):
        programs.append(str(jax.make_jaxpr(function)(*arguments)))
        raise InterruptedError

    monkeypatch.setattr(whole_run, "CompiledWhenCalled", compiled)
    with jax.numpy_dtype_promotion("standard"), pytest.raises(InterruptedError):
        next(whole_run.measure(settings()))
    assert programs[0].count("is_finite") == 1  # of the losses of an epoch


def test_a_whole_run_and_the_page_s_other_tables():
    run = {
        "epochs": 10, "steps": 630, "first_seconds": {"fit": 3.0, "one program": 2.0}, "launch_seconds": 1e-5,
        "seconds": {"fit": [0.2, 0.3], "one program": [0.1, 0.1]},
    }  # fmt: skip
    modes = {"modes": [{"mode": "step", "step_seconds": 2e-4}, {"mode": "epoch", "step_seconds": 1e-4}]}
    peer = {
        "race": "w3", "examples": 60_000, "steps": 469, "device": "NVIDIA H100 80GB HBM3", "models_a_round": 1,
        "versions": {}, "warmup_seconds": [4.0], "peer_problem": None,
    }  # fmt: skip
    names = {"peer": "functional_nn", "title": "functional_nn", "seconds": [0.469] * 3}
    torch = {"peer": "pytorch", "title": "PyTorch", "seconds": [0.938] * 3, "versions": {"torch": "2.9"}}
    absent = {"peer": "flax_nnx", "title": "Flax NNX", "seconds": [], "peer_problem": "not installed (flax)"}
    peak = {"launch_seconds": 5e-6, "bytes_per_second": 3e12, "rates": []}
    parts = [
        ("machine", GPU),
        ("machine", peak | {"precision": "float32, products in full", "flops_per_second": 5e13}),
        ("machine", peak | {"precision": "bfloat16", "flops_per_second": 7e14}),
        *[("w3", peer | each) for each in (names, torch, absent)],
        *[
            ("population", {"hidden": [32], "models": count, "examples": 60_000, "seconds_a_model": each / count,
                            "first_epoch_seconds": 5.0, "device_peak_bytes": 10**9})
            for count, each in ((1, 0.1), (64, 0.1), (256, 0.2), (1024, 0.79))
        ],
        ("whole_run", run),
        ("whole_run", modes),
    ]  # fmt: skip
    lines = [ABOUT | {"part": name} | record for name, record in parts]
    for count in range(1, len(lines)):  # a part may end after any of its records
        assert "could not be made" not in page(lines[:count])
    text = page(lines)
    assert "14.0 times as fast as in float32, products in full" in text
    assert "| functional_nn | NVIDIA H100 80GB HBM3 | 1.0000 (1.0000-1.0000) | 1.00 | 4.0 s |" in text
    assert "functional_nn takes 0.50 of the time of the fastest other library (PyTorch)." in text
    assert "Flax NNX: not installed (flax)." in text
    assert "best with 1,024 networks at once (129.6 times that of 1)" in text
    assert "from 256 on" in text
    assert "`fit` takes 150 ms more than one program, 15.0 ms an epoch" in text
    assert "2.0 times as long as a step in an epoch" in text


def test_the_driver_s_tool_is_not_needed(monkeypatch):
    monkeypatch.setattr(machine, "NVIDIA", ("name",))
    assert machine.parsed("") is None
    assert machine.parsed("A, B\n") is None
    monkeypatch.setenv("PATH", "")
    assert machine.nvidia() is None


@pytest.mark.slow
def test_a_whole_run_is_measured():
    with jax.numpy_dtype_promotion("standard"):
        (run,) = whole_run.measure(settings())
    assert set(run["seconds"]) == {"fit", "one program"}
    assert run["steps"] == 3 * 63
