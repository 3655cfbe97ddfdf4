"""``functional-nn bench``: its table, its records, its exit status."""

import json
import re
import signal

import jax
import pytest

from functional_nn import cli
from functional_nn.bench import network_programs, records
from functional_nn.configuration.flag_types import Doubled

FLAGS = ["bench", "--hidden", "none", "--batch-size", "2", "--what", "predict", "--seconds", "0.01"]

pytestmark = pytest.mark.usefixtures("small_peaks")


@pytest.fixture(scope="module")
def record(tmp_path_factory, small_peaks):
    """The file of a first measurement."""
    path = tmp_path_factory.mktemp("bench") / "old.jsonl"
    assert cli.run([*FLAGS, "--json", str(path)]) == 0
    return path


def test_the_table_and_the_records(record, tmp_path, capsys):
    path = tmp_path / "new.jsonl"
    path.write_text(record.read_text())
    flags = ["--batch-size", "2,3", "--json", str(path), "--against", str(record), "--details"]
    assert cli.run([*FLAGS, *flags]) in (0, 1)
    printed = capsys.readouterr().out
    assert "mlp predict, batch 3, float32: no older record\n" in printed
    assert re.search(r"^predict +2 +float32 .*%", printed, re.MULTILINE)
    assert re.search(r"^mlp predict, batch 2, float32: \w+\n  \d+\.\d\d \(", printed, re.MULTILINE)
    assert re.search(r"^program .* roofline ", printed, re.MULTILINE)
    assert max(map(len, printed.splitlines())) <= 80
    assert "steady state" in printed
    old, new, _ = (json.loads(line) for line in path.read_text().splitlines())
    assert {"date", "commit", "device", "versions", "cores", "matmul_precision"} <= new.keys()
    assert (new["model"], new["what"], new["batch_size"], new["flops"]) == ("mlp", "predict", 2, old["flops"])


def doctored(record, path, **factors):
    """The record with other times: so many times those of the program (``steady``), of the product (``reference``)."""
    old = json.loads(record.read_text())
    for name, factor in factors.items():
        old[name]["round_medians"] = [factor * seconds for seconds in old[name]["round_medians"]]
    path.write_text(json.dumps(old) + "\n")
    return str(path)


def test_a_regression_is_the_exit_status(record, tmp_path, capsys):
    """A million times slower is one, unless the product beside it is so too, as on a machine that is busy."""
    assert cli.run([*FLAGS, "--against", doctored(record, tmp_path / "a", steady=1e-6)]) == 1
    assert re.search(r"predict.*: slower$", capsys.readouterr().out, re.MULTILINE)
    assert cli.run([*FLAGS, "--against", doctored(record, tmp_path / "b", steady=1e-6, reference=1e-9)]) == 0
    assert cli.run([*FLAGS, "--against", doctored(record, tmp_path / "c", steady=1e6, reference=1)]) == 0
    assert re.search(r"predict.*: faster$", capsys.readouterr().out, re.MULTILINE)


def test_ctrl_c_ends_with_the_table_of_what_was_measured(tmp_path, monkeypatch, capfd):
    """The signal comes while the first record is written."""
    path = tmp_path / "bench.jsonl"
    add_records = records.add_records

    def add_and_interrupt(path, added):
        add_records(path, added)
        if added:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(records, "add_records", add_and_interrupt)
    assert cli.run([*FLAGS, "--batch-size", "2,3", "--json", str(path)]) == 130
    captured = capfd.readouterr()
    assert re.findall(r"^predict +(\d+) +float32 .*%", captured.out, re.MULTILINE) == ["2"]
    assert "Stopping after this measurement; once more stops at once." in captured.err
    assert f"Stopped after 1 of 2 measurements. {path} has what was measured." in captured.err
    assert [json.loads(line)["batch_size"] for line in path.read_text().splitlines()] == [2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9000000000 bytes."), ": 9 GB could"),
        (MemoryError("Unable to allocate 9 GB"), ": Unable to allocate 9 GB. Try"),
    ],
)
def test_out_of_memory_ends_with_the_table_of_what_was_measured(error, said, monkeypatch, capsys, refused):
    measure = network_programs.measure

    def failing(network, case, **more):
        if case.batch_size == 3:
            raise error
        return measure(network, case, **more)

    monkeypatch.setattr(network_programs, "measure", failing)
    assert cli.run([*FLAGS, "--batch-size", "2,3,4"]) == 2
    captured = capsys.readouterr()
    assert re.findall(r"^predict +(\d+) +float32 .*%", captured.out, re.MULTILINE) == ["2"]
    assert f"Error: mlp predict, batch 3, float32: out of memory{said}" in captured.err
    refused([*FLAGS, "--batch-size", "3"], "Stopped after 0 of 1 measurement")


def test_other_errors_of_the_compiler_are_not_hidden(monkeypatch):
    def failing(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(network_programs, "measure", failing)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        cli.run(FLAGS)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--what", "trian"], "Did you mean train"),
        (["--what", "train,"], "is not known"),
        (["--batch-size", "12,x"], "batch-size"),
        (["--batch-size", "8..4"], "the smaller number first"),
        (["--batch-size", "1..2..4"], "batch-size"),
        (["--seconds", "0"], "a number above 0"),
        (["--json", "no/such/folder/a"], "Make the folder first"),
        (["--against", "nothing.jsonl"], "does not exist"),
        (["--hidden", "a"], "positive integers such as 128,64"),
        (["--target", "tpu-v5e", "--details"], "--target measures nothing: leave out --"),
    ],
)
def test_wrong_flags(flags, said, refused):
    assert refused(["bench", *flags], said) == ""


def test_files_that_hold_no_records_are_refused_before_anything_is_measured(tmp_path, refused):
    path = tmp_path / "a.jsonl"
    nested = f'{{"date": 1, "device": 1, "what": {"[" * 700}{"]" * 700}}}'
    for flag, text in (("--against", "not json"), ("--json", "not json"), ("--against", nested)):
        path.write_text(text)
        assert refused(["bench", flag, path], "line 1: expected a JSON object") == ""
        assert path.read_text() == text


def test_a_record_of_something_else_is_refused_before_anything_is_measured(record, refused):
    command = [*FLAGS, "--against", record, "--model", "lstm", "--hidden", "2"]
    assert refused(command, "records of mlp predict, batch 2, float32.", "Give the flags") == ""


@pytest.mark.parametrize(
    ("given", "sizes"), [("8", [8]), ("3,1", [3, 1]), ("1..8", [1, 2, 4, 8]), ("3..13", [3, 6, 12]), ("5..5", [5])]
)
def test_sizes_may_double(given, sizes):
    assert list(Doubled().convert(given, None, None)) == sizes


def test_a_target_compiles_and_runs_nothing(tmp_path, monkeypatch, capsys, refused):
    """The CPU stands for the chip, so libtpu is not needed."""
    monkeypatch.setattr("functional_nn.bench.targets.device_of", lambda chip: jax.devices()[0])
    path = tmp_path / "target.jsonl"
    flags = ["bench", "--hidden", "none", "--batch-size", "2", "--what", "predict", "--target", "tpu-v5e"]
    assert cli.run([*flags, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "predict for tpu-v5e; nothing was run\ncompiles " in printed
    assert re.search(r"^predict +2 +float32 .*s$", printed, re.MULTILINE)
    assert max(map(len, printed.splitlines())) <= 80
    record = json.loads(path.read_text())
    assert (record["target"], record["compiles"], record["fits"]) == ("tpu-v5e", True, True)
    # A record of a target is none of a measurement.
    refused([*FLAGS, "--against", path])
