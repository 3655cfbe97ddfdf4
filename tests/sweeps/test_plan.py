"""Plans of sweeps, and the memory that they may use."""

import math
import os
import sys

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.losses.classification import cross_entropy
from functional_nn.sweeps import plan
from functional_nn.training import devices
from functional_nn.training.precision import as_precision
from functional_nn.training.programs import ProgramSpec, shapes_of
from functional_nn.training.recipe import Recipe


@pytest.mark.parametrize("known", [("SC_PHYS_PAGES",), ()])
def test_systems_that_do_not_state_their_memory(monkeypatch, known, tmp_path):
    """macOS has no name for its free memory. Windows has no such names at all."""
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}

    def sysconf(name):
        if name not in (*known, "SC_PAGE_SIZE"):
            raise ValueError("unrecognized configuration name")
        return values[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    monkeypatch.setattr(devices, "PROCESSES", tmp_path)
    assert devices.free_bytes() == (409600 if known else math.inf)
    assert devices.memory_limit() == (int(0.8 * 409600) if known else sys.maxsize)
    assert plan.fitting(plan.Plan(4, 2), 0, devices.memory_limit()) == plan.Plan(4, 2)


def test_what_other_programs_have_taken_is_not_free(monkeypatch, tmp_path):
    """A network that fits in all memory may not fit in what is left, and the system would end the process."""
    files = {
        "meminfo": "MemTotal: 1000 kB\nMemAvailable: 100 kB\n",
        "self/cgroup": "4:memory:/other\n0::/job/step\n",
        "self/status": "VmRSS: 20 kB\n",
        "job/step/memory.max": "max\n",
        "job/memory.max": "90000\n",
        "job/memory.current": "50000\n",
        "job/memory.stat": "anon 40000\ninactive_file 10000\n",
    }
    monkeypatch.setattr(devices, "PROCESSES", tmp_path)
    monkeypatch.setattr(devices, "GROUPS", tmp_path / "none")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    devices.check_bytes("net", 120 * 1024)
    with pytest.raises(InputError, match="net: expected a network that fits in"):
        devices.check_bytes("net", 120 * 1024 + 1)
    monkeypatch.setattr(devices, "GROUPS", tmp_path)
    assert devices.free_bytes() == 50_000


def calls_python(y, labels):
    """JAX cannot map this call."""
    number = jax.ShapeDtypeStruct((), "float32")
    return y.sum() + jax.pure_callback(lambda value: value, number, jax.lax.stop_gradient(y.sum()))


SMALL, IMAGE = fnn.chain(fnn.flatten(), fnn.dense(32), fnn.relu, fnn.dense(4)), (4, 4, 1)


@pytest.mark.parametrize(
    ("sizes", "net", "loss", "batch_size", "workers", "members"),
    [
        ([64], SMALL, cross_entropy, 32, 2, 32),
        ([2048, 40], SMALL, cross_entropy, 32, 2, 20),
        ([2048], SMALL, cross_entropy, 32, 2, 94),
        ([7], SMALL, cross_entropy, 32, 2, 1),
        ([8], SMALL, cross_entropy, 32, 1, 8),
        ([8], SMALL, cross_entropy, 200, 2, 4),
        ([8, 8], SMALL, cross_entropy, 32, 2, 8),
        ([64, 2], SMALL, cross_entropy, 32, 2, 1),
        ([64], SMALL, cross_entropy, 1000, 2, 1),
        ([64], SMALL, calls_python, 32, 2, 1),
        ([64], fnn.chain(fnn.flatten(), fnn.dense(1000), fnn.dense(4)), cross_entropy, 1, 2, 1),
        ([64], fnn.chain(fnn.conv(2, 3), fnn.flatten(), fnn.dense(4)), cross_entropy, 32, 2, 1),
    ],
)
def test_a_cpu_trains_small_members_together(monkeypatch, sizes, net, loss, batch_size, workers, members):
    monkeypatch.setattr(plan, "most_workers", lambda: 2)
    data = fnn.data.Split(np.zeros((50, *IMAGE), np.float32), np.zeros(50, np.int32))
    recipe = Recipe(net, loss, optax.adam(1e-3), None)
    spec = ProgramSpec(recipe, batch_size, as_precision("float32"), shapes_of(data))
    assert plan.planned("auto", sizes, [spec]) == plan.Plan(workers, members)
    assert plan.planned("auto", sizes).members == 1
