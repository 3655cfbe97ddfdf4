"""Whether a progress bar is shown."""

import sys

import pytest

from functional_nn.core import display


@pytest.mark.parametrize("stream", [None, object()])
def test_a_process_without_a_terminal_shows_no_bar(monkeypatch, stream):
    """Services and pythonw have no stderr. Some programs put an object in its place that can only write."""
    monkeypatch.setattr(sys, "stderr", stream)
    assert not display.is_progress_shown(None)
