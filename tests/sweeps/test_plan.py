"""Plans of sweeps, and the memory that they may use."""

import math
import os
import sys

import pytest

from functional_nn.sweeps import plan
from functional_nn.training import devices


@pytest.mark.parametrize("known", [("SC_PHYS_PAGES",), ()])
def test_systems_that_do_not_state_their_memory(monkeypatch, known):
    """macOS has no name for its free memory. Windows has no such names at all."""
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}

    def sysconf(name):
        if name not in (*known, "SC_PAGE_SIZE"):
            raise ValueError("unrecognized configuration name")
        return values[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert devices.total_bytes() == (409600 if known else math.inf)
    assert devices.memory_limit() == (int(0.8 * 409600) if known else sys.maxsize)
    assert plan.fitting(plan.Plan(4, 2), 0, devices.memory_limit()) == plan.Plan(4, 2)
