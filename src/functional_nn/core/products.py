"""The gradient of a weight matrix as one product, and the platform that a program is traced for."""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax import lax


def summed_product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Computes Σ rowsᵀ columns over all axes except the last, as one matrix product.

    XLA's products on a CPU read a transposed copy of their first factor. ``rows`` are often the results of an
    activation, and XLA computes its last operations anew for each number of the copy. For GELU this took longer than
    the product itself. If it moves fewer numbers, columnsᵀ rows is computed instead, and its result is transposed.
    """
    axes = tuple(range(rows.ndim - 1))
    result_size = rows.shape[-1] * columns.shape[-1]
    # An exported program can have a batch whose size is not known yet. It cannot be compared.
    size_is_known = isinstance(rows.size, int)
    if not size_is_known or rows.size <= columns.size + result_size:
        return jnp.tensordot(rows, columns, axes=(axes, axes))
    product = jnp.tensordot(columns, rows, axes=(axes, axes))
    # The barrier keeps XLA from undoing this. It is put around a vector: XLA would put the transpose of a matrix into
    # the product later, and under vmap, where the product has three axes, this ended the process (jaxlib 0.10).
    return lax.optimization_barrier(product.ravel()).reshape(product.shape).T


SEVERAL_PLATFORMS = "several platforms"
"""Takes the place of a platform's name if a program is for several platforms, or for none."""

ONNX = "onnx"
"""Takes the place of a platform's name if a program becomes a model in ONNX. It has convolutions, as GPUs have."""

_platform = jax.make_user_context(None)


def platform() -> str:
    """The platform that programs are traced for: that of ``tracing_for``, of ``jax.default_device``, or JAX's own."""
    device = getattr(jax.config, "jax_default_device", None)
    return _platform.value or getattr(device, "platform", device) or jax.default_backend()


def tracing_for(platform: str) -> AbstractContextManager[None]:
    """A context in which programs are traced for a platform, such as ``tpu``, for ``SEVERAL_PLATFORMS`` or ``ONNX``.

    The platform is a part of the key of JAX's caches, so functions are traced anew for each.
    """
    return _platform(platform)
