"""What every test runs under: strict dtype and rank promotion, CPU, quiet libraries."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
    """Runs a test with 64-bit numbers."""
    with jax.enable_x64(True):
        yield
