"""Fast start of the command: starting JAX while data are read, and JAX's persistent compilation cache."""

from __future__ import annotations

import gc
import os
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.several_processes import SeveralProcesses, speak_last
from functional_nn.storage.cache_folder import cache_folder

if TYPE_CHECKING:
    from functional_nn.storage.files import JsonObject

STARTED = time.perf_counter()
"""The time when the command's modules were imported."""


@contextmanager
def importing() -> Iterator[None]:
    """Switches garbage collection off while the body imports JAX, and exempts the imported objects from it later.

    Imports make a hundred thousand objects and no garbage. To search them repeatedly would take a fifth of the time.
    """
    if "jax" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


ONE_PROCESS = SeveralProcesses()
"""The process alone, as it is unless flags say otherwise."""


@contextmanager
def starting_jax(precision: str, devices: int, processes: SeveralProcesses = ONE_PROCESS) -> Iterator[None]:
    """Imports and starts JAX in a thread while the body reads data.

    The two run at the same time, since zlib, hashes and NumPy release Python's lock. Modules that both need are
    imported first: if modules import each other, as those of NumPy do, a second thread may see one that is half
    imported. TFDS is used only after the thread has ended.

    Args:
        precision: ``float64`` switches JAX's 64-bit numbers on.
        devices: the number of CPU devices that JAX starts with, in each process.
        processes: how this process finds others, if several train together.
    """
    import functional_nn.data.sources  # noqa: F401
    from functional_nn.data.tfds import IMPORT_LOCK

    if processes.are_asked_for:
        speak_last()
    with ThreadPoolExecutor(1) as threads:
        IMPORT_LOCK.acquire()
        started = threads.submit(_start_jax, precision, devices, processes)
        started.add_done_callback(lambda _: IMPORT_LOCK.release())
        yield
        started.result()


MOST_FILES = 1000
"""The largest number of programs in the cache, about 50 MB in all. The oldest are removed first."""

CHECKSUMS = "checksums.json"
"""The file with the SHA-256 of each program in the cache, by the name of its file."""


def use_compilation_cache(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Sets JAX's compilation cache to the folder ``compiled`` of the cache, unless it is set already.

    JAX reads the setting from the environment when it is imported. If JAX is already imported, nothing changes. JAX
    runs programs from the folder, so it is used only if no other user can write to it (see ``cache_folder``), and
    only programs whose checksum an earlier command has recorded at its end are left in it. JAX may have no checksum of
    its own, and a damaged program can crash the process.
    """
    if not wanted:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0"):
        return
    if "jax" not in sys.modules and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = cache_folder("compiled")
            _remove_unknown_and_oldest(folder)
        except OSError:  # there is no safe folder, or a program can be neither read nor removed
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        # By default JAX keeps only programs that took at least a second to compile.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        # JAX compiles a program that another process has not written to its end, or has removed.
        warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
        context.call_on_close(partial(_record_new, folder))


COMPILATION_CACHE = click.option(
    "--compilation-cache/--no-compilation-cache",
    default=True,
    expose_value=False,
    callback=use_compilation_cache,
    help="Keep compiled programs for the next start.",
)


def _start_jax(precision: str, devices: int, processes: SeveralProcesses) -> None:
    with importing():
        import jax

        import functional_nn.core.products  # its context becomes a part of the keys of JAX's caches
        import functional_nn.training.fit  # noqa: F401
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    if devices > 1:
        with suppress(RuntimeError):  # if JAX has started, fit says that it has too few devices
            jax.config.update("jax_num_cpu_devices", devices)
    if processes.are_asked_for:
        processes.start()
    jax.config.update("jax_traceback_in_locations_limit", 0)  # shorter programs compile faster
    jax.random.key(0)  # the first program loads what every other program needs


def _remove_unknown_and_oldest(folder: Path) -> None:
    """Removes programs without the recorded checksum, such as those of a process that was killed or still runs."""
    from functional_nn.storage.files import checksum_of

    recorded, good, bad = _recorded(folder), [], []
    for path in folder.glob("*-cache"):
        with suppress(FileNotFoundError):  # another process removed it
            is_good = recorded.get(path.name) == checksum_of(path)
            (good if is_good else bad).append((path.stat().st_mtime_ns, path))
    for _, path in bad + sorted(good)[:-MOST_FILES]:
        path.unlink(missing_ok=True)


def _record_new(folder: Path) -> None:
    """Records the checksums of new programs, which become private: JAX writes them with the permissions of umask.

    If two processes record at the same time, the checksums of one are lost, and its programs are compiled again.
    """
    from functional_nn.storage.files import checksum_of, signed_text, write_whole

    compiler = sys.modules.get("jax._src.compilation_cache")
    if compiler is None:  # no program is from this process
        return
    before, recorded = _recorded(folder), {}
    for path in folder.glob("*-cache"):
        # Another process may have removed it, or not written it to its end: JAX does not write it in one step. JAX
        # decompresses it by zlib, or by another library if there is one, and the errors depend on the library.
        with suppress(Exception):
            checksum = checksum_of(path)
            if before.get(path.name) != checksum:
                compiler.decompress_executable(path.read_bytes())
                path.chmod(0o600)
            recorded[path.name] = checksum
    if recorded != before:
        with suppress(OSError):
            (folder / CHECKSUMS).touch(mode=0o600)  # a new file gets the permissions of the one that it replaces
            write_whole(folder / CHECKSUMS, signed_text(recorded))


def _recorded(folder: Path) -> JsonObject:
    from functional_nn.storage.files import read_file, read_signed

    try:
        return read_signed(read_file(folder / CHECKSUMS))
    except (OSError, ValueError, RecursionError):  # no list, or a damaged one
        return {}
