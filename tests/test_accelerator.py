"""`python -m benchmarks accelerator`: parts that fail or are late, what does not fit, and the page."""

import json
import time
from importlib import import_module

import pytest
from benchmarks import accelerator
from benchmarks.accelerator import Settings, page
from benchmarks.data import make_files
from benchmarks.race import Entry, race
from rich.console import Console

ABOUT = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc", "cpu": "a processor", "cores": 16}
GPU = {
    "platform": "gpu",
    "device": "NVIDIA H100 80GB HBM3",
    "devices": 1,
    "memory_limit": 60_000_000_000,
    "jax": "0.10",
    "nvidia": "NVIDIA H100 80GB HBM3, 81559 MiB, 570.1, 700.00 W, 1980 MHz",
}


@pytest.fixture
def settings(tmp_path):
    make_files(tmp_path, small=True, source=None)
    now = time.monotonic()
    return Settings(tmp_path, small=False, platform="gpu", end=now + 300, limit=now + 300)


def read(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_every_peer_of_the_races_is_a_peer_of_its_workload():
    for name in ("w1", "w2", "w3", "w4"):
        workload = import_module(f"benchmarks.{name}")
        for peers in (accelerator.PEERS[name], accelerator.PEERS_SMALL[name]):
            assert set(peers) <= set(workload.PEERS)
            assert set(peers) <= set(workload.NAMES)
            assert peers[0].startswith("functional_nn")


def test_a_run_has_a_page_and_results_although_parts_fail(tmp_path, monkeypatch):
    asked = []

    def race(name, peers, data_dir, **options):
        asked.append((name, peers[0]))
        if name == "w1":
            return [Entry(peer, problem="CannotRun: no such | library") for peer in peers]
        return [Entry(peer, problem="JaxRuntimeError: out of memory") for peer in peers]

    monkeypatch.setattr(accelerator, "described", lambda: GPU)
    monkeypatch.setattr(accelerator, "race", race)
    out, results = tmp_path / "out", tmp_path / "all.jsonl"
    given = {"out": out, "small": True, "parts": ["w1", "population"], "results": results}
    assert not accelerator.compare(Console(quiet=True), **given)
    assert asked == [("w1", "functional_nn"), ("w2", "functional_nn_mapped")]
    text = (out / "page.md").read_text("utf-8")
    assert text.startswith("# functional_nn on NVIDIA H100 80GB HBM3")
    assert "**This part is not complete** (failed): RuntimeError: functional_nn: CannotRun" in text
    assert "| 1 | 32 | JaxRuntimeError: out of memory |  |" in text
    assert "trial with small sizes" in text
    assert read(results) == read(out / "results.jsonl")
    assert page(read(results)) == text
    with pytest.raises(FileExistsError, match="give each a new --out"):
        accelerator.compare(Console(quiet=True), out=out, small=True)


@pytest.mark.processes
def test_the_command_on_a_cpu(tmp_path, monkeypatch):
    main = import_module("benchmarks.__main__")
    arguments = ["accelerator", "--out", str(tmp_path / "out"), "--parts", "w1,population", "--minutes", "4"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    main.main()
    text = (tmp_path / "out" / "page.md").read_text("utf-8")
    assert "not complete" not in text
    assert "the rate is best with" in text
    lines = read(tmp_path / "out" / "results.jsonl")
    (ours,) = [line for line in lines if line.get("peer") == "functional_nn"]
    assert ours["examples"] == 320
    assert ours["seconds"]
    assert 0 <= ours["accuracy"] <= 1


@pytest.mark.processes
def test_a_race_ends_workers_that_are_late(settings):
    options = {"rounds": 1, "warmup": 1, "epochs_a_turn": 1, "seed": 0, "options": {}, "progress": lambda text: None}
    (first, second) = race("w1", ["functional_nn", "jax_scan"], settings.data_dir, **options, limit=0.2)
    assert first.problem.startswith("failed (exit status")
    assert second.problem == "no time was left"
