"""Plans of sweeps, and the memory that they may use."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from functional_nn.sweeps import plan
from functional_nn.training import run_programs


@pytest.mark.parametrize("known", [("SC_PHYS_PAGES",), ()])
def test_systems_that_do_not_state_their_memory(monkeypatch, tmp_path, known):
    """macOS has no name for its free memory. Windows has no such names at all, and no module ``resource``."""
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}

    def sysconf(name):
        if name not in (*known, "SC_PAGE_SIZE"):
            raise ValueError("unrecognized configuration name")
        return values[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert run_programs.total_bytes() == (409600 if known else math.inf)
    assert plan.memory_limit() == (int(0.8 * 409600) if known else sys.maxsize)
    monkeypatch.setattr(plan, "PROCESS_STATUS", tmp_path / "missing")
    now, most = plan.used_bytes()
    assert now == most > 10_000_000  # what getrusage says
    monkeypatch.setitem(sys.modules, "resource", None)
    assert plan.used_bytes() == (0, 0)
    assert plan.fitting(plan.Plan(4, 2), 0, plan.memory_limit()) == plan.Plan(4, 2)


@pytest.mark.skipif(not plan.PROCESS_STATUS.exists(), reason="this system does not describe a process in a file")
def test_the_memory_of_a_process_is_its_own():
    """``getrusage`` gives a process the peak of the one that started it, if that is larger."""
    ballast = np.ones(600_000_000, np.uint8)
    code = "from functional_nn.sweeps import plan; print(*plan.used_bytes())"
    now, most = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    assert plan.used_bytes()[1] >= ballast.nbytes
    assert now <= most < ballast.nbytes
