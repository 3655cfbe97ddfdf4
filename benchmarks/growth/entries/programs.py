"""What the entries on JAX share: the loss, and the memory of a compiled program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.stages import Compiled


def mean_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def bytes_at_once(compiled: Compiled) -> int:
    """Arguments, results and scratch memory. What is written in the place of an argument counts once."""
    sizes = compiled.memory_analysis()
    return (
        sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    )
