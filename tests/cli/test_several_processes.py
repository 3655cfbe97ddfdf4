"""``train`` in several processes: flags, one folder, signals that stop all, and processes that are lost."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.free_port import free_port

from functional_nn.cli import several_processes

COMMAND = [sys.executable, "-m", "functional_nn"]
LONG = ["--epochs", "200", "--activation", "tanh"]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def started(processes: int, arguments: list[str], folder: Path) -> list[subprocess.Popen]:
    """The same command in several processes, or in one alone."""
    if processes == 1:
        return [subprocess.Popen([*COMMAND, *arguments, "--out", str(folder), "--resume"], **PIPES)]
    return started_with(arguments, folder, [[]] * processes)


def started_with(
    arguments: list[str], folder: Path, own: list[list[str]], secrets: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """The command in several processes, each with flags of its own and, if there are any, with a secret."""
    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(len(own)), "--process-id"]
    command = [*COMMAND, *arguments, "--out", str(folder), "--resume", *together]
    environments = [os.environ | {several_processes.SECRET: secret} for secret in secrets] or [None] * len(own)
    return [
        subprocess.Popen([*command, str(number), *flags], env=environment, **PIPES)
        for number, (flags, environment) in enumerate(zip(own, environments, strict=True))
    ]


def ended(processes: list[subprocess.Popen], seconds: float = 200) -> list[tuple[int, str, str]]:
    """The status of each process, and what it printed."""
    try:
        printed = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, printed, strict=True)]


def wait_for_epochs(folder: Path, processes: list[subprocess.Popen]) -> None:
    while not (folder / "metrics.jsonl").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def check_same_result(folder: Path, alone: Path) -> None:
    """The same numbers as in one process, except for rounding."""
    parameters, expected = (load_file(run / "model.safetensors") for run in (folder, alone))
    assert parameters.keys() == expected.keys()
    for name, array in parameters.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4, err_msg=name)
    results = [json.loads((run / "result.json").read_text()) for run in (folder, alone)]
    assert results[0]["test_loss"] == pytest.approx(results[1]["test_loss"], abs=1e-4)
    assert results[0]["epochs"] == results[1]["epochs"]


SECOND = ["--num-processes", "2", "--process-id", "1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "a:1"], "--coordinator: expected also --num-processes and --process-id, got none"),
        (["--process-id", "0"], "--process-id: expected also --coordinator and --num-processes, got none"),
        (["--wait", "9"], "--wait: expected also --distributed or --coordinator, got none"),
        (["--distributed", "--num-processes", "2"], "--distributed: expected no address and no numbers"),
        (["--coordinator", "a:1", *SECOND[:3], "2"], "--process-id: expected a number from 0 to 1"),
        (["--coordinator", "a:70000", *SECOND], "--coordinator: expected HOST:PORT"),
        (["--coordinator", "x..y:1234", *SECOND], "--coordinator: expected HOST:PORT of the first process, got 'x..y"),
    ],
)
def test_flags_that_do_not_fit_each_other(tiny, flags, message, refused):
    refused([*tiny, *flags], message)


def test_the_address_of_the_first_process_may_be_one_of_ipv6(monkeypatch):
    tried = []
    monkeypatch.setattr("socket.create_connection", lambda address, timeout: tried.append(address) or socket.socket())
    several_processes._wait_for("[::1]:1234", 1)
    assert tried == [("::1", 1234)]


@pytest.fixture
def without_last_words(monkeypatch):
    """The signal handler of a command that runs in the process of the tests would stay."""
    monkeypatch.setattr("functional_nn.cli.startup.speak_last", lambda: None)


def test_a_first_process_that_does_not_answer(tiny, refused, without_last_words):
    address = f"127.0.0.1:{free_port()}"
    flags = ["--coordinator", address, *SECOND, "--wait", "1"]
    answer = f"--coordinator: expected an answer of process 0 at {address}, got Connection refused after 1 s."
    refused([*tiny, *flags], "Waiting for 2 processes, for 1 s at most", answer)


def test_the_first_process_needs_an_address_of_its_own_computer(tiny, monkeypatch, without_last_words, refused):
    command = [*tiny, "--num-processes", "2", "--process-id", "0", "--coordinator"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused([*command, f"127.0.0.1:{port}"], "--coordinator: expected a port that is free, got ")
        other = f"203.0.113.5:{free_port()}"  # an address for examples, which no computer has
        refused([*command, other], f"--coordinator: expected an address of this computer, got '{other}'")
        monkeypatch.setenv(several_processes.BIND_ADDRESS, f"0.0.0.0:{port}")
        refused([*command, f"203.0.113.5:{port}"], "JAX_COORDINATOR_BIND_ADDRESS: expected a port that is free")


@pytest.mark.processes
def test_a_first_process_listens_at_the_given_address_and_has_the_last_word_if_nobody_comes(tiny, tmp_path):
    port = free_port()
    alone = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", "0", "--wait", "3"]
    first = subprocess.Popen([*COMMAND, *tiny, *alone], **PIPES)
    several_processes._wait_for(f"127.0.0.1:{port}", 30)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)  # the same computer by another address
    ((status, _, said),) = ended([first])
    assert status == -signal.SIGABRT
    *_, of_jax, last = said.splitlines()
    assert last.startswith("Error: JAX failed in a run of several processes. Probably one of them has ended")
    assert not of_jax.startswith("Waiting")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            [["--devices", "2"], []],
            "Error: devices: expected the same number in every process, got 2 in process 0; 1",
        ),
        ([[], ["--keep-best", "--seed", "3"]], "got in process 1: --keep-best true instead of false; --seed 3 instead"),
    ],
)
def test_flags_that_differ_are_named_in_both_processes(tiny, own, message, tmp_path):
    for status, _, said in ended(started_with(tiny, tmp_path / "together", own)):
        assert status == 2
        assert message in said
        assert "Traceback" not in said


@pytest.mark.processes
def test_a_process_without_the_secret_of_the_others_is_refused(tiny, tmp_path):
    quiet = [["--quiet"], []]
    for secrets, statuses in ((("right", ""), [1, 1]), (("right", "wrong"), [1, 1]), (("right", "right"), [0, 0])):
        outcome = ended(started_with(tiny, tmp_path / "-".join(secrets), quiet, secrets))
        assert [status for status, *_ in outcome] == statuses
        for number, (status, _, said) in enumerate(outcome):
            refused = "FUNCTIONAL_NN_SECRET: expected the same value in every process, got another one, or none, in"
            assert (f"{refused} process {1 - number}." in said) == bool(status)
            assert "right" not in said


@pytest.mark.processes
@pytest.mark.parametrize(("end", "speaks"), [("abort", True), ("_exit", False), ("kill", False)])
def test_only_a_process_that_aborts_has_last_words(end, speaks):
    ways = {"abort": "os.abort()", "_exit": "os._exit(1)", "kill": "os.kill(os.getpid(), 9)"}
    start = "from functional_nn.cli.several_processes import speak_last; speak_last()"
    program = f"import os, sys; {start}; print('of JAX', file=sys.stderr, flush=True); {ways[end]}"
    first, *others = subprocess.run([sys.executable, "-c", program], **PIPES).stderr.splitlines()
    assert first == "of JAX"
    assert [line.startswith("Error: JAX failed") for line in others] == [True] * speaks


@pytest.mark.processes
def test_two_processes_write_one_folder(tiny, tmp_path):
    (alone,) = ended(started(1, [*tiny, "--activation", "tanh"], tmp_path / "alone"))
    first, second = ended(started(2, [*tiny, "--activation", "tanh"], tmp_path / "together"))
    assert [alone[0], first[0], second[0]] == [0, 0, 0], second[2]
    assert "cpu, 2 devices in 2 processes" in first[1]
    # What is left is a line of JAX's own.
    assert [line for line in second[1].splitlines() if "[Gloo]" not in line] == []
    check_same_result(tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stopped", [(0, 1), (1,)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_or_to_all_stops_all_after_the_same_epoch(tiny, number, stopped, tmp_path):
    assert ended(started(1, [*tiny, *LONG], tmp_path / "alone"))[0][0] == 0
    together = tmp_path / "together"
    for processes in (2, 4, 1):
        signaled = started(2, [*tiny, *LONG], together)
        wait_for_epochs(together, signaled)
        for index in stopped:
            signaled[index].send_signal(number)
        assert [status for status, *_ in ended(signaled)] == [128 + number] * 2
        epochs = len((together / "metrics.jsonl").read_text().splitlines())
        assert epochs < 200
        assert [status for status, *_ in ended(started(processes, [*tiny, *LONG], together))] == [0] * processes
        check_same_result(together, tmp_path / "alone")
        together = tmp_path / f"after {processes}"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_lost_process_ends_the_others_within_a_minute_and_the_run_goes_on(tiny, tmp_path):
    """20 times, at any moment of the run; it goes on in one, two and four processes."""
    assert ended(started(1, [*tiny, *LONG], tmp_path / "alone"))[0][0] == 0
    moments = random.Random(0)
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        processes = started(2, [*tiny, *LONG], folder)
        if attempt % 4:  # else it is lost at the start
            wait_for_epochs(folder, processes)
        time.sleep(moments.uniform(0, 4))
        lost = moments.randrange(2)
        processes[lost].kill()
        killed = time.monotonic()
        outcome = ended(processes, seconds=120)
        survivor = outcome[1 - lost]
        print(f"process {lost} killed: status {survivor[0]} after {time.monotonic() - killed:.1f} s")
        assert time.monotonic() - killed < 60
        if outcome[lost][0] == 0:  # it had ended before
            continue
        assert survivor[0] != 0
        told = ("Probably one of them has ended", "expected an answer of process 0")
        assert any(text in survivor[2].splitlines()[-1] for text in told), survivor[2][-2000:]
        count = (1, 2, 4)[attempt % 3]
        again = ended(started(count, [*tiny, *LONG], folder))
        assert [status for status, *_ in again] == [0] * count, again[0][2][-2000:]
        check_same_result(folder, tmp_path / "alone")


@pytest.mark.processes
def test_a_process_that_gets_no_answer_ends_with_a_sentence():
    """A stranger who takes the place of a process at the data connections may never answer."""
    program = (
        "import time; from types import SimpleNamespace; from jax._src import distributed;"
        "distributed.global_state.client = SimpleNamespace(wait_at_barrier=lambda *about: None);"
        "from functional_nn.cli import several_processes; several_processes.ANSWER_SECONDS = 0.1\n"
        "with several_processes._deadline(): time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], **PIPES)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The processes have all started, but some got no numbers")
