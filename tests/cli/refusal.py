"""Commands that are refused."""

import pytest

from functional_nn import cli


def refused(capsys: pytest.CaptureFixture[str], arguments: list, *words: str, status: int = 2) -> str:
    """The command ends with the status and one message that has the words in it; gives what it printed."""
    capsys.readouterr()
    assert cli.run([*map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.count("Error:") == 1
    for word in words:
        assert word in captured.err
    return captured.out
