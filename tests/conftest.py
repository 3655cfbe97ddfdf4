"""What every test runs under: strict dtype and rank promotion, on the CPU."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """Types and ranks are never changed silently. Optax is not written for that, so tests of training are without."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def float64():
    """Runs a test with 64-bit numbers."""
    with jax.enable_x64(True):
        yield
