"""Telling networks, losses and optimizers apart by the programs that JAX traces from them.

Two Python functions cannot be compared, but what they compute can. JAX traces both to programs, whose text and
constants say everything, the learning rate included. Only what a program calls in Python (``jax.pure_callback``) stays
unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jaxlib
import numpy as np
import optax

from functional_nn.training.programs.devices import cores

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where a Python object lies in memory, which a program's text mentions and another process has elsewhere."""


def fingerprint(*traced: Any) -> str:
    """The SHA-256 of traced programs: of their text, and of the arrays that they contain.

    >>> double, triple = (jax.make_jaxpr(lambda x, factor=factor: factor * x)(1.0) for factor in (2.0, 3.0))
    >>> fingerprint(double) == fingerprint(triple)
    False
    """
    digest = hashlib.sha256()
    for program in traced:
        digest.update(ADDRESS.sub("", str(program)).encode())
        for constant in _constants(program):
            array = np.asarray(jax.random.key_data(constant) if _is_key(constant) else constant, order="C")
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def surroundings() -> dict[str, Any]:
    """What else the text of a program depends on: under another JAX, or on another machine, it says nothing."""
    versions = {module.__name__: module.__version__ for module in (jax, jaxlib, optax)}
    return {**versions, "device": jax.local_devices()[0].device_kind, "cores": cores()}


def _constants(program: Any) -> Iterator[Any]:
    """The arrays in a program and in the programs within it, in the order of its text."""
    yield from getattr(program, "consts", ())
    for equation in getattr(program, "jaxpr", program).eqns:
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if hasattr(inner, "eqns") or hasattr(getattr(inner, "jaxpr", None), "eqns"):
                    yield from _constants(inner)


def _is_key(constant: Any) -> bool:
    return jax.numpy.issubdtype(getattr(constant, "dtype", np.float32), jax.dtypes.prng_key)
