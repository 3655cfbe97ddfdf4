"""The cache of compiled programs in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import lru_cache
from types import FunctionType
from typing import NoReturn
from weakref import ref

import jax

from functional_nn.core.functions import is_hashable
from functional_nn.training.programs.compile import CompiledPrograms
from functional_nn.training.programs.recipe import Recipe
from functional_nn.training.programs.spec import ProgramSpec
from functional_nn.training.random_keys import SETTING_OF_BITS

JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    SETTING_OF_BITS,
    "jax_default_matmul_precision",
    "jax_default_device",
)
"""The settings of JAX that change what is compiled. JAX's own caches depend on them, too."""


class _Key:
    """A specification and the settings of JAX, which hold functions weakly; and the programs that belong to them.

    If one of the functions no longer exists, nobody can give an equal specification again, and the programs are let
    go: those of a call such as ``fit(…, optax.adam(rate))`` are of no use after it.

    Attributes:
        programs: the programs, without their specification; empty at first.
    """

    def __init__(self, spec: ProgramSpec, settings: tuple[Hashable, ...]):
        self.programs: list[CompiledPrograms] = []
        self._values = _with_weak_functions((*spec.values(), *settings), self.programs.clear)
        self._hash = hash(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._values == other._values


def compiled_programs(spec: ProgramSpec) -> tuple[CompiledPrograms, bool]:
    """The programs of a specification, and whether they were compiled now. The last eight specifications are kept.

    So a second run of the same network on data of the same shape compiles nothing. If the network has another ``init``,
    only the program of the initial values is compiled.
    """
    if not is_hashable(spec):  # a part of it, such as a loss that holds an array, cannot be compared
        return CompiledPrograms(spec), True
    settings = tuple(getattr(jax.config, name) for name in JAX_SETTINGS)
    kept = _first_equal(_Key(spec, settings)).programs
    if kept:
        return kept[0].with_spec(spec), False
    for_any_start = _first_equal_for_any_start(_Key(_without_init(spec), settings)).programs
    programs = for_any_start[0].with_start_of(spec) if for_any_start else None
    if programs is None:
        programs = CompiledPrograms(spec)
        for_any_start[:] = [programs.with_spec(None)]
    kept[:] = [programs.with_spec(None)]
    return programs, True


@lru_cache(maxsize=8)
def _first_equal(key: _Key) -> _Key:
    """The first of equal keys, which has the programs."""
    return key


@lru_cache(maxsize=8)
def _first_equal_for_any_start(key: _Key) -> _Key:
    """The same for specifications that differ only in ``init``."""
    return key


def _with_weak_functions(value: Hashable, when_gone: Callable[[], None]) -> Hashable:
    """The value with weak references to the functions in it and in its tuples, which compare as the functions do."""
    if isinstance(value, FunctionType):
        return ref(value, lambda _: when_gone())
    if isinstance(value, tuple):
        return type(value), *(_with_weak_functions(entry, when_gone) for entry in value)
    return value


def _without_init(spec: ProgramSpec) -> ProgramSpec:
    if not isinstance(spec.recipe, Recipe):
        return spec
    return replace(spec, recipe=spec.recipe._replace(net=spec.recipe.net._replace(init=_no_init)))


def _no_init(key: object, in_shape: object) -> NoReturn:
    """Replaces ``init`` when two networks are compared without it."""
    raise AssertionError("never called")
