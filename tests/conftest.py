"""What every test runs under: strict dtype and rank promotion, on the CPU, in programs that XLA compiles quickly.

Tests compile ten thousand small programs and run each a few times. XLA's older generator of kernels and fewer of its
optimisations take less than half the processor time; a newer jaxlib that has lost the flag goes without it.
"""

import os
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

QUICK = "--xla_cpu_use_fusion_emitters=false"


def is_known(flag: str) -> bool:
    """XLA ends a process whose flags it does not know, so another process asks."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env={**os.environ, "XLA_FLAGS": flag}, capture_output=True).returncode == 0


if "XLA_FLAGS" not in os.environ:  # pytest-xdist's workers inherit it, also where it is empty
    os.environ["XLA_FLAGS"] = QUICK if is_known(QUICK) else ""


@pytest.fixture(autouse=True)
def strict_promotion():
    """Types and ranks are never changed silently. Optax is not written for that, so tests of training are without."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def float64():
    """Runs a test with 64-bit numbers."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def small_peaks():
    """What the device can do, measured in a moment: enough to see that it is measured, of no use to compare with."""
    from functional_nn.bench import peaks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "SIZES", {"cpu": (32,)})
        patch.setattr(peaks, "WORK", {"cpu": (1e5, 1e5)})
        patch.setattr(peaks, "LARGE_STREAM", {"cpu": 2**17})
        yield


@pytest.fixture
def cache_of_jax(tmp_path_factory):
    """JAX keeps compiled programs in the folder that this gives."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    folder = tmp_path_factory.mktemp("cache")
    changes = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: jax.config.values[name] for name in changes}
    try:
        for name, value in changes.items():
            jax.config.update(name, value)
        reset_cache()
        yield folder
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
