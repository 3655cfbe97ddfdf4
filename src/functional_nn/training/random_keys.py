"""Random keys of a run: for initialization, shuffling and noise."""

from __future__ import annotations

import jax

KEY_USES = 16
"""The most uses of a run's key. There are more than needed, so that a new use does not change the other keys."""

SETTING_OF_BITS = "jax_threefry_partitionable"
"""The setting of JAX that changes all random bits. The text of a program does not show it."""


def derived_key(key: jax.Array, use: str, number: int | jax.Array = 0) -> jax.Array:
    """The key for one use: ``init``, ``shuffle`` with the number of an epoch, or ``noise`` with the number of a step.

    Numbers are 32 bits long, so the keys repeat after 2**28 epochs or steps (268 million).

    >>> keys = [derived_key(jax.random.key(0), *use) for use in (("init",), ("shuffle", 0), ("noise", 0), ("noise", 1))]
    >>> len({str(jax.random.key_data(key)) for key in keys})
    4
    """
    return jax.random.fold_in(key, number * KEY_USES + ("init", "shuffle", "noise").index(use))
