"""``functional-nn plan``: its tables, its JSON and its errors, from rates in a file."""

import json

import pytest

from functional_nn import cli
from functional_nn.bench import NETWORKS, Rates, SweepRates
from functional_nn.configuration import flag_types


@pytest.fixture
def rates(tmp_path):
    """A file of rates: a step of b examples takes 10 + b ms."""
    sweep = SweepRates(10, 60_000, 60.0, 2.0, 0.0, 1e6, 100, 0.001)
    path = tmp_path / "rates.json"
    Rates("lstm", "a CPU", 1, (1, 101), (0.011, 0.111), (1_000_000,), 0, 0, 0, sweep).save(path)
    return str(path)


def test_tables(rates, capsys):
    assert cli.run(["plan", "--rates", rates, "--batch-size", "90", "--machines", "1,100"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    lines = printed.splitlines()
    assert lines[0] == "lstm on a CPU, one core: measured"
    assert lines[1] == "  a step takes 10.0 ms, and 1.00 ms more for each example"
    assert lines[2] == "ethernet-10g, 20.0 µs a message and 1.25 GB/s, all-reduce by ring: assumed"
    numbers = [f"{2**n:,}" for n in range(13)]
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == [*numbers, "1", "100"]
    assert "A step is shortest on " in printed
    assert "sweep of 1,000,000 models, 10 epochs of 60,000 examples" in printed
    assert "23.1 days" in printed  # 60 s + 1,000,000 · 2 s on one machine


def test_json(rates, tmp_path, capsys):
    path = tmp_path / "plan.json"
    flags = ["--devices", "1,4", "--network-latency", "1e-3", "--network-bandwidth", "1e9", "--batch-size", "40"]
    assert cli.run(["plan", "--rates", rates, *flags, "--json", str(path)]) == 0
    assert "a network, 1.00 ms a message and 1 GB/s" in capsys.readouterr().out
    plan = json.loads(path.read_text("utf-8"))
    assert plan["network"] == {"latency": 1e-3, "bandwidth": 1e9, "algorithm": "ring"}
    one, four = plan["plans"]
    assert one["step_seconds"] == pytest.approx(0.05)
    assert four["step_seconds"] == pytest.approx(0.02 + 6e-3 + 1.5e-3)
    assert plan["limits"]["worthwhile"] == 2
    assert [sweep["machines"] for sweep in plan["sweeps"]] == [1, 10, 100, 1000]


def test_batches_that_grow(rates, capsys):
    assert cli.run(["plan", "--rates", rates, "--weak", "--devices", "1,1000"]) == 0
    printed = capsys.readouterr().out
    assert "128,000" in printed
    assert "A step is shortest" not in printed


def test_wrong_files_and_flags(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text("[]", "utf-8")
    assert cli.run(["plan", "--rates", str(other)]) == 2
    assert "a file of rates" in capsys.readouterr().err
    assert cli.run(["plan", "unknown"]) == 2
    assert "'unknown' is not known" in capsys.readouterr().err
    assert cli.run(["plan", "--network", "wifi"]) == 2


def test_a_model_that_is_not_that_of_the_file(rates, capsys):
    assert cli.run(["plan", "cnn", "--rates", rates]) == 2
    assert "has the rates of lstm. Leave out cnn." in capsys.readouterr().err
    assert cli.run(["plan", "lstm", "--rates", rates]) == 0


def test_names_of_networks():
    assert list(flag_types.NETWORKS) == list(NETWORKS)


def test_rates_are_measured_and_kept(tmp_path, monkeypatch, capsys):
    given = {}

    def measured(model, batch_sizes):
        given.update(model=model, batch_sizes=batch_sizes)
        return Rates(model, "a CPU", 2, (1, 2), (0.1, 0.2), (4,), 0, 0, 0)

    monkeypatch.setattr("functional_nn.bench.scaling.measure.measure_rates", measured)
    path = tmp_path / "rates.json"
    assert cli.run(["plan", "cnn", "--batch-size", "64", "--save-rates", str(path)]) == 0
    assert given == {"model": "cnn", "batch_sizes": [2, 16, 64]}
    assert json.loads(path.read_text("utf-8"))["model"] == "cnn"
    assert "sweep of" not in capsys.readouterr().out
