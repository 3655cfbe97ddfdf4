"""The cache of compiled programs in memory."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

import jax

from functional_nn.training.programs.compile import CompiledPrograms
from functional_nn.training.programs.spec import ProgramSpec

JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_default_matmul_precision",
    "jax_default_device",
)
"""The settings of JAX that change what is compiled. JAX's own caches depend on them, too."""


def compiled_programs(spec: ProgramSpec) -> tuple[CompiledPrograms, bool]:
    """The programs of a specification, and whether they were compiled now. The programs of eight are kept.

    So a second run of the same network on data of the same shape compiles nothing.
    """
    try:
        hash(spec)
    except TypeError:  # a part of it, such as a loss that holds an array, cannot be compared
        return CompiledPrograms(spec), True
    misses = _cached.cache_info().misses
    programs = _cached(spec, tuple(getattr(jax.config, name) for name in JAX_SETTINGS))
    return programs, _cached.cache_info().misses > misses


@lru_cache(maxsize=8)
def _cached(spec: ProgramSpec, settings: tuple[Hashable, ...]) -> CompiledPrograms:
    return CompiledPrograms(spec)
