"""Optax mixes types of its own accord, so its users cannot be strict about promotion."""

import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests."""


@pytest.fixture
def no_search(monkeypatch):
    """Where a number comes from that is not finite is not looked for, which would take a second."""
    monkeypatch.setattr("functional_nn.jaxprs.non_finite.QUICK_OPERATIONS", 0)
