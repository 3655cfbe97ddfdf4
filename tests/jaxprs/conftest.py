"""Optax mixes types of its own accord, so its users cannot be strict about promotion."""

import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests."""
