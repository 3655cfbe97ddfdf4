"""One model in several processes: the result of one device, one process that writes, and the same end for all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.free_port import free_port

import functional_nn as fnn
from functional_nn.core.errors import LostProcess
from functional_nn.training.processes import Processes

SCRIPT = Path(__file__).with_name("trained_together.py")


def trained(processes: int, folder: Path, networks: str, devices: int = 1) -> list[list[dict]]:
    """What each process printed."""
    port = str(free_port())
    commands = [
        [sys.executable, str(SCRIPT), port, str(processes), str(i), str(folder), networks] for i in range(processes)
    ]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        printed = [process.communicate(timeout=280) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, printed, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [[json.loads(line) for line in output.splitlines() if line.startswith("{")] for output, _ in printed]


def check_equal_within_rounding(lines: list[dict], alone: list[dict]) -> None:
    for line, expected in zip(lines, alone, strict=True):
        np.testing.assert_allclose(line["numbers"], expected["numbers"], rtol=1e-4, atol=1e-5)
        assert line["metrics"] == pytest.approx(expected["metrics"], rel=1e-4)


def test_an_error_of_gloo_counts_as_a_lost_process_and_other_errors_do_not():
    processes = Processes()
    processes.count = 2
    told = "Probably one of them has ended.* JAX says: UNKNOWN: Gloo"
    with pytest.raises(LostProcess, match=told), processes.noticing_loss():
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    with pytest.raises(fnn.InputError, match="seed"), processes.noticing_loss():
        raise fnn.InputError("seed", "a number", "none")


@pytest.mark.processes
def test_two_processes_train_one_model_and_agree_about_its_end(tmp_path):
    ((*alone,),) = trained(1, tmp_path, "lstm,stream")
    first, second = trained(2, tmp_path, "lstm,stream")
    networks = len(alone)
    check_equal_within_rounding(first[:networks], alone)
    assert first[:networks] == second[:networks]

    reports = [{line.pop("what"): line for line in lines[networks:]} for lines in (first, second)]
    for number, report in enumerate(reports):
        # The first process alone is asked, and its answer counts for both.
        reported = [1, 2] if number == 0 else []
        assert report["stopped"] == {"status": "stopped", "epochs": 2, "reported": reported}
        assert report["continued"] == {"restored": 2, "last": report["whole"]["last"]}
        assert report["restored in 16 bits"] == {"epochs": 1, "outputs": [[47, 3]] if number == 0 else []}
    assert reports[0]["continued"] == reports[1]["continued"]
    for report in reports:
        assert "got in process 1: seed 1 instead of 0" in report["other arguments"]["error"]
        assert "got in process 1: different train step" in report["other optimizer"]["error"]
    for stream, name in (("stream", "batches"), ("test stream", "test")):
        uneven = f"InputError: {name}: expected as many in every process, got more of them in one process than in"
        assert all(report[f"shorter {stream}"]["error"].startswith(uneven) for report in reports)
        assert reports[1][f"broken {stream}"]["error"] == "OSError: the disk is gone"
        assert reports[0][f"broken {stream}"]["error"].startswith("OtherProcessFailed: Another process could not read")
    assert reports[1]["no stream"]["error"] == "OSError: the disk is gone"
    assert reports[0]["no stream"]["error"].startswith("OtherProcessFailed: Another process could not begin")
    for what, message in (
        ("another run's folder", "InputError: checkpoints: expected a new folder, or the folder of this run"),
        ("failing callback", "InputError: on_epoch: expected something else, got 1"),
    ):
        assert reports[0][what]["error"].startswith(message)
        assert reports[1][what]["error"].startswith(
            f"OtherProcessFailed: The run ended in its first process. {message}"
        )


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 1), (4, 1), (2, 3)])
def test_any_number_of_processes_and_devices_is_one_device_within_rounding(processes, devices, tmp_path):
    networks = "mlp,cnn,lstm,stream"
    ((*alone,),) = trained(1, tmp_path / "alone", networks)
    runs = [trained(processes, tmp_path / name, networks, devices) for name in ("once", "twice")]
    for lines in runs[0]:
        check_equal_within_rounding(lines[: len(alone)], alone)
    # The same number of processes and devices gives the same bits.
    networks_of = [[lines[: len(alone)] for lines in run] for run in runs]
    assert networks_of[0] == networks_of[1]
