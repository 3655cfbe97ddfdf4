"""How programs are compiled that run a few times, on a few numbers."""

from __future__ import annotations

from functools import partial

import jax

_options: dict[str, bool | int] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # later compilers do not know the option
    _options["xla_cpu_use_fusion_emitters"] = False

compiled = partial(jax.jit, compiler_options=_options)
"""``jax.jit`` that compiles several times as fast, to slower programs."""
