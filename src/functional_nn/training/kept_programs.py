"""Compiled programs on disk, for the next process that runs the same: it need not even trace them.

JAX's own cache knows a program by what it was lowered to, so every process traces and lowers anew. So do the programs
here, and a run besides, which is a list of them, is known by what it was made from. Functions cannot be compared, so
whoever opens ``kept_programs`` has to describe that; shapes, versions, settings, this package's code and the processor
are added here.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from jax.experimental import serialize_executable

from functional_nn.files import write_whole
from functional_nn.training.compiler import compile_lowered, compiling_anew
from functional_nn.training.devices import cores

PROGRAM, RUN = ".program", ".run"
"""How the names of files end."""

KNOWN_CALLS = ("lapack_", "Sharding", "SPMD")
"""How the names begin of what a program may call outside of itself."""


@contextmanager
def kept_programs(folder: Path | None, description: Mapping[str, Any]) -> Iterator[None]:
    """What ``fit`` compiles inside is kept in the folder, and what lies there is not compiled again.

    Args:
        folder: of the user alone, since what lies there is run; None for no keeping.
        description: what JSON can hold: all that network, loss, optimizer and penalty are made of. It is of one recipe,
            the first that is asked for; another one is compiled as outside.
    """
    keeper = Keeper(folder, json.dumps(description, sort_keys=True))
    token = _keeper.set(keeper)
    try:
        yield
    finally:
        _keeper.reset(token)
        keeper.write()


class Keeper:
    """The programs of a folder; without a folder it finds and writes nothing."""

    def __init__(self, folder: Path | None, description: str):
        self._folder, self._description = folder, description
        self._new: dict[Path, bytes] = {}
        self._recipe: Any = None

    def describes(self, recipe: Any) -> bool:
        """Whether the description is of this recipe."""
        if self._recipe is None:
            self._recipe = recipe
        return self._recipe is recipe or self._recipe == recipe

    def run(self, shapes: Any, devices: Sequence[Any]) -> dict[str, Any] | None:
        """The programs of the described run for these shapes and devices, by name, or None where one is missing."""
        if self._folder is None:
            return None
        with suppress(Exception):  # not there, damaged, or another JAX's: it is compiled, and written anew
            names = json.loads(_read(self._run_path(shapes)))
            return {name: _loaded(self._folder / file, devices) for name, file in names.items()}
        return None

    @contextmanager
    def compiling(self, shapes: Any, devices: Sequence[Any]) -> Iterator[Callable[..., Any]]:
        """Gives ``compiled(name, lowered, options)`` for the programs of a run, which threads may call.

        A program that was itself loaded, or has run, cannot be written: XLA drops what it was made of. So it is not
        JAX's cache where it is looked for.
        """
        if self._folder is None:
            yield lambda name, lowered, options: compile_lowered(lowered, options)
            return
        files: dict[str, str | None] = {}

        def compiled(name: str, lowered: Any, options: dict[str, Any]) -> Any:
            about = repr((lowered.in_tree, lowered.in_avals, lowered.out_tree))
            path = self._path(PROGRAM, [text := lowered.as_text(), about, options])
            files[name] = path.name if _can_be_written(text) else None
            if files[name] is None:
                return compile_lowered(lowered, options)
            with suppress(Exception):
                return _loaded(path, devices)
            program = compile_lowered(lowered, options)
            try:
                self._new[path] = pickle.dumps(serialize_executable.serialize(program))
            except Exception:  # a platform that has no form for it
                files[name] = None
            return program

        with compiling_anew():
            yield compiled
        if None not in files.values():
            self._new[self._run_path(shapes)] = json.dumps(files).encode()

    def write(self) -> None:
        """Writes what is new."""
        with suppress(OSError):
            for path, content in self._new.items():
                packed = zlib.compress(content, level=1)
                write_whole(path, hashlib.sha256(packed).digest() + packed)

    def _run_path(self, shapes: Any) -> Path:
        return self._path(RUN, [self._description, repr(shapes)])

    def _path(self, suffix: str, made_of: Any) -> Path:
        text = json.dumps([_surroundings(), made_of])
        return Path(self._folder or "", hashlib.sha256(text.encode()).hexdigest() + suffix)


_keeper: ContextVar[Keeper | None] = ContextVar("keeper", default=None)


def keeper_of(recipe: Any) -> Keeper:
    """That of the innermost ``kept_programs`` where it describes the recipe; else one that keeps nothing."""
    keeper = _keeper.get()
    return keeper if keeper is not None and keeper.describes(recipe) else Keeper(None, "")


def _read(path: Path) -> bytes:
    written = path.read_bytes()
    if hashlib.sha256(written[32:]).digest() != written[:32]:
        raise ValueError("damaged")
    return zlib.decompress(written[32:])


def _loaded(path: Path, devices: Sequence[Any]) -> Any:
    program, *trees = pickle.loads(_read(path))
    if b"lapack_" in program:
        _begin_lapack()
    return serialize_executable.deserialize_and_load(program, *trees, execution_devices=devices)


@cache
def _begin_lapack() -> None:
    """JAX does it when it lowers a decomposition, and a program that finds LAPACK not begun ends the process."""
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))


def _can_be_written(text: str) -> bool:
    """A program that calls what only this process has, such as a function of Python's, cannot."""
    return all(name.startswith(KNOWN_CALLS) for name in re.findall(r"custom_call @(\w+)", text))


def _surroundings() -> list[Any]:
    """What else a program depends on."""
    device = jax.local_devices()[0]
    versions = [module.__version__ for module in (jax, jaxlib, np, optax)]
    here = [platform.python_version(), platform.platform(), cores(), device.device_kind, device.client.platform_version]
    settings = {name: str(value) for name, value in jax.config.values.items()}
    return [versions, here, len(jax.local_devices()), settings, os.environ.get("XLA_FLAGS"), _processor(), _code()]


@cache
def _processor() -> str:
    """The instructions that it knows, where Linux says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU "))}))


@cache
def _code() -> str:
    """A digest of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
