"""Programs in a process of their own."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable


def python(program: str, *arguments, cwd=None, **environment) -> subprocess.CompletedProcess[str]:
    """What a program of Python printed. It has these variables in addition, and has to end well."""
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def started(*arguments) -> subprocess.Popen[str]:
    """The command with these arguments, which runs beside the test."""
    command = [sys.executable, "-m", "functional_nn", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Waits for something that a process does while it runs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
