"""Training without the search for the origin of what is not finite."""

import pytest


@pytest.fixture
def no_search(monkeypatch):
    """Where a number comes from that is not finite is not looked for, which would take a second."""
    monkeypatch.setattr("functional_nn.jaxprs.non_finite.QUICK_OPERATIONS", 0)
