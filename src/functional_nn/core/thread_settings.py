"""The settings of JAX that hold in one thread only, for work that is done in another thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import jax

CONTEXTS = {
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_enable_x64": jax.enable_x64,
    "jax_threefry_partitionable": jax.threefry_partitionable,
}
"""The context manager that changes each setting in the thread that enters it."""


def settings_of_this_thread() -> Callable[[], AbstractContextManager[object]]:
    """Returns a function that makes a context with the settings of this thread, to be entered in another one.

    Without it, a program such as ``with jax.default_device(device): fit(…)`` would use this device in its own thread
    only.
    """
    here = {name: getattr(jax.config, name) for name in CONTEXTS}

    def entered() -> AbstractContextManager[object]:
        stack = ExitStack()
        for name, value in here.items():
            # Settings that no context has changed are equal in all threads.
            if getattr(jax.config, name) != value:
                stack.enter_context(CONTEXTS[name](value))
        return stack

    return entered
