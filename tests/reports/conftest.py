"""A notebook without a browser: a module IPython that records what is displayed."""

import sys
import types

import pytest


class Displayed:
    """What a cell displays: for each output, its states."""

    def __init__(self):
        self.outputs = []
        self.active_types = ["text/plain", "text/html", "image/png"]

    def display(self, value, raw, display_id):
        states = [value]
        self.outputs.append(states)
        return types.SimpleNamespace(update=lambda value, raw: states.append(value))


@pytest.fixture
def notebook(monkeypatch):
    """Makes this process look like a notebook."""
    displayed = Displayed()
    shell = types.SimpleNamespace(display_formatter=displayed)
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython, ipython.version_info = lambda: shell, (9, 0)  # matplotlib reads the version
    display.display = displayed.display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return displayed
