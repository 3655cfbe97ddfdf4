"""What the entries on JAX share: compiling anew, and the memory of a compiled program."""

from __future__ import annotations

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.stages import Compiled


def forget_programs() -> None:
    """From now on, JAX compiles every program anew: it takes none from memory or from its cache on disk."""
    jax.clear_caches()
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # JAX reads the setting only once, unless it is reset


def bytes_at_once(compiled: Compiled) -> int:
    """Arguments, results and scratch memory. What is written in the place of an argument counts once."""
    sizes = compiled.memory_analysis()
    return (
        sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    )
