"""How XLA is asked to compile: with which options, and without looking for what it compiled before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

QUICK: Any = {"xla_cpu_use_fusion_emitters": False}
"""For a program that is a small part of an epoch: XLA's older generator of kernels for the CPU, which takes two thirds
of the time. Programs may be slower for it."""

BOTH_CORES: Any = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""For the steps: YNNPACK, which XLA's CPU compiler takes for convolutions too, does those on one core only, and XLA's
own on all of them. Sums and products stay with it.
"""

RUN_ONCE: Any = {"xla_backend_optimization_level": 0}
"""For a program whose compilation takes far longer than its one run.

It may round differently: values here and from ``create_train_state`` or ``make_epoch`` can differ in the last bit.
"""


def compile_lowered(lowered: Any, options: dict[str, Any]) -> Any:
    """With these options of XLA, or only those of ``RUN_ONCE`` where its version does not have all of them."""
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError:
        return lowered.compile({name: value for name, value in options.items() if name in RUN_ONCE})


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Programs are compiled, and not taken from JAX's cache on disk."""
    before = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        reset_cache()  # JAX looks at the setting once
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()
