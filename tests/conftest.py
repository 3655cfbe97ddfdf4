"""What every test runs under: strict dtype and rank promotion, on the CPU, in programs that XLA compiles quickly.

Tests compile ten thousand small programs and run each a few times, so compiling decides how long they take.
"""

import ctypes
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# A shell starts background processes with Ctrl-C ignored, and what they start inherits that: tests that send it, and
# the commands that they send it to, would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from jax._src import pjit
from jax._src.interpreters import pxla

QUICK = {
    "xla_cpu_use_fusion_emitters": "false",  # the older generator of kernels, which jaxlib 0.12 no longer has
    "xla_cpu_parallel_codegen_split_count": "1",
}
"""XLA's options for short compilations, which take half the processor time on jaxlib 0.10 and the same on 0.12.

``xla_cpu_opt_preset=FAST_COMPILE`` is not among them: programs compiled at level 0 take 1.6 times as long with it.
"""

LOWERED = pjit._pjit_lower, pxla._cached_lowering_to_hlo
"""JAX's caches of programs before they are compiled. On version 0.10 each program holds a megabyte there."""

MEMORY = 800 * 2**20
"""All caches are dropped when a process holds this much more memory than after they were last dropped."""


def known_flags() -> set[str]:
    """The options that this version of XLA has. It ends a process that gives others, so another process asks."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    answer = subprocess.run(command, env={**os.environ, "XLA_FLAGS": "--help"}, capture_output=True, text=True)
    return set(re.findall(r"--(xla_\w+)=", answer.stdout + answer.stderr))


if "XLA_FLAGS" not in os.environ:  # pytest-xdist's workers inherit it
    known = known_flags()
    os.environ["XLA_FLAGS"] = " ".join(f"--{name}={value}" for name, value in QUICK.items() if name in known)


PROGRAMS = tempfile.TemporaryDirectory(prefix="functional-nn-tests-")
"""JAX keeps the programs of this process here: a quarter of them are compiled again in a later test.

Processes do not share it. JAX's writes are not atomic, and some tests kill processes.
"""
for setting, choice in {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": PROGRAMS.name,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_traceback_in_locations_limit": 0,  # the lines of Python in a program take a tenth of the time to lower it
}.items():
    jax.config.update(setting, choice)


def resident() -> int:
    """The bytes of memory that this process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim() -> None:
    """Gives freed memory back to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


class Memory:
    """Bounds the memory of a process.

    JAX keeps every program that it compiled. Python's garbage collector goes through all of them again and again, which
    took a third of the time of the whole suite. So what lives after a test is set apart from collection, and all
    programs are dropped when they take too much memory.
    """

    def __init__(self):
        self.limit = 0

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self) -> None:
        """Called after each test."""
        for cache in LOWERED:
            cache.cache_clear()
        if resident() < self.limit:
            return
        gc.unfreeze()
        jax.clear_caches()
        gc.collect()
        trim()
        gc.freeze()
        self.limit = resident() + MEMORY


def pytest_configure(config: pytest.Config) -> None:
    # A hook in this file would be called for the tests of this folder only, and not for the doctests of src and docs.
    config.pluginmanager.register(Memory())


MIXES_TYPES = {
    *("bench", "cli", "jaxprs", "sweeps", "training"),
    *("test_benchmark_compilation", "test_benchmarks", "test_byte_order", "test_coming_from", "test_examples"),
    *("test_exercises", "test_judge", "test_modules", "test_onnx", "test_other_libraries", "test_programs"),
    *("test_stablehlo", "test_training_steps"),
}
"""Folders and files with Optax, other libraries or functions of users, which mix types of their own accord."""


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """Types and ranks are never changed silently, except in tests of what is not written for that."""
    if MIXES_TYPES.intersection(request.path.relative_to(Path(__file__).parent).with_suffix("").parts):
        yield
        return
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
    from functional_nn.bench import measured_peaks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured_peaks, "SCALES", {"cpu": measured_peaks.Scale((32,), 2**17, 1e5, 1e5)})
        yield


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium for tests of pages. Without frame-rate limits, an event need not wait for the next frame."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install '.[browser]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    flags = ["--no-sandbox", "--disable-frame-rate-limit", "--disable-gpu-vsync"]
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def serious_faults():
    """Finds the serious accessibility faults of a page, and the elements that have them."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is missing: pip install '.[browser]'"
    )

    def found(page) -> dict[str, list[str]]:
        faults = axe.Axe().run(page).response["violations"]
        grave = [one for one in faults if one["impact"] in ("serious", "critical")]
        return {one["id"]: [node["html"] for node in one["nodes"]] for one in grave}

    return found


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
