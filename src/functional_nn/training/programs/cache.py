"""The cache of compiled programs in memory."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import lru_cache
from typing import NoReturn

import jax

from functional_nn.core.caching import is_hashable
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


def compiled_programs(spec: ProgramSpec) -> tuple[CompiledPrograms, bool]:
    """The programs of a specification, and whether they were compiled now. The last eight specifications are kept.

    So a second run of the same network on data of the same shape compiles nothing. If the network has another ``init``,
    only the program of the initial values is compiled.
    """
    if not is_hashable(spec):  # a part of it, such as a loss that holds an array, cannot be compared
        return CompiledPrograms(spec), True
    misses = _cached.cache_info().misses
    programs = _cached(spec, tuple(getattr(jax.config, name) for name in JAX_SETTINGS))
    return programs, _cached.cache_info().misses > misses


@lru_cache(maxsize=8)
def _cached(spec: ProgramSpec, settings: tuple[Hashable, ...]) -> CompiledPrograms:
    # Equal arguments give the same list, so it keeps the programs from one call to the next.
    kept = _kept_for_any_start(_without_init(spec), settings)
    programs = kept[0].with_start_of(spec) if kept else None
    if programs is None:
        programs = CompiledPrograms(spec)
        kept[:] = [programs]
    return programs


@lru_cache(maxsize=8)
def _kept_for_any_start(spec: ProgramSpec, settings: tuple[Hashable, ...]) -> list[CompiledPrograms]:
    """The list that keeps the last programs of specifications that differ only in ``init``; empty at first."""
    return []


def _without_init(spec: ProgramSpec) -> ProgramSpec:
    if not isinstance(spec.recipe, Recipe):
        return spec
    return replace(spec, recipe=spec.recipe._replace(net=spec.recipe.net._replace(init=_no_init)))


def _no_init(key: object, in_shape: object) -> NoReturn:
    """Replaces ``init`` when two networks are compared without it."""
    raise AssertionError("never called")
