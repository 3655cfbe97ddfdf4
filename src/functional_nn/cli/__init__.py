"""The command ``functional-nn``.

Its modules import JAX inside their functions, so that ``--help`` does not wait for the import.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import click

from functional_nn.core.errors import InputError, LostProcess, OtherProcessFailed, escaped, shortened
from functional_nn.core.signals import Signals
from functional_nn.core.texts import suggest

COMMANDS = {
    "train": "Train a network on images and print its test accuracy.",
    "predict": "Classify image files with a trained network.",
    "sweep": "Train a model for each combination of settings and seeds.",
    "merge": "Put the parts of a sweep together.",
    "report": "Write a page about a run or a sweep, from its folder.",
    "export": "Write a trained network for other programs or a hub of models.",
    "import": "Make a run folder from parameters of PyTorch.",
    "bench": "Measure how fast a network compiles and runs.",
    "info": "Print versions, optional packages, and devices.",
    "verify": "Compare the hand-derived gradients with jax.grad.",
}
"""The commands, each with its line in ``functional-nn --help``. 65 characters fit a terminal of 80 columns.

Each is a function in the module of its name. ``import`` is a word of Python, so its module is ``import_parameters``.
"""


class _Commands(click.Group):
    """A group of commands, of which only the given one is imported. A mistyped name gets the most similar command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = "import_parameters" if cmd_name == "import" else cmd_name
        return getattr(import_module(f"functional_nn.cli.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"No such command {args[0]!r}. {suggest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="functional-nn")
def command() -> None:
    """Train, inspect, verify and measure neural networks that are pure functions in JAX."""


NO_MEMORY = ("can't start new thread", "failed to map segment", "RESOURCE_EXHAUSTED")
"""What errors of Python and JAX other than ``MemoryError`` say if memory is short."""
OUTPUT_UNREAD = 128 + 13
"""The exit status that a shell shows for a program that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with its status.

    The status is 0 for success, 1 for a failure, 2 for wrong input, 130 after Ctrl-C, 143 after SIGTERM, and 141 if the
    program that reads the output has ended, as in ``functional-nn info | head -1``.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # whose encoding may lack letters of a name
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    sys.exit(run(arguments))


def _open_closed_streams() -> None:
    """Opens a standard stream that the caller closed, as by ``>&-``, so that what is written to it is dropped.

    Otherwise the next file that is opened, such as a checkpoint, gets the number of the stream, and messages of C++
    libraries are written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest free number, which is that of the stream.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open until the end of the process)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    stdout = sys.stdout
    with Signals(signal.SIGINT, signal.SIGTERM) as signals, _one_line_warnings():
        try:
            return command.main(args=arguments, prog_name="functional-nn", standalone_mode=False, obj=signals) or 0
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (InputError, OtherProcessFailed, OSError) as error:
            click.echo(f"Error: {escaped(str(error))}", err=True)
            if isinstance(error, LostProcess):
                # At its normal end, the process would wait for the lost one.
                os._exit(1)
            return 2 if isinstance(error, InputError) else 1
        except (MemoryError, RuntimeError, ImportError, AssertionError) as error:
            if said := _missing_device():
                click.echo(f"Error: {said}", err=True)
                return 1
            if not isinstance(error, MemoryError) and not any(text in str(error) for text in NO_MEMORY):
                raise
            given = f" ({shortened(error)})" if str(error) else ""
            remedy = "Close other programs, allow more (ulimit -v), or use a smaller network or batch size."
            click.echo(f"Error: not enough memory{given}. {remedy}", err=True)
            return 1
        except SystemExit:
            # After a BrokenPipeError, click replaces the streams, so that no error follows at the end, and exits.
            if sys.stdout is stdout:
                raise
            return OUTPUT_UNREAD


def _missing_device() -> str:
    """What to do if JAX has no device of the platforms that the user chose; empty if it has, or if none are chosen."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if not platforms or "jax" not in sys.modules:
        return ""
    try:
        sys.modules["jax"].devices()
    except (RuntimeError, AssertionError) as error:  # without the plugin of the platform, JAX fails an assertion
        reason = f" JAX says: {error}" if str(error) else ""
        remedy = "Install its plugin (for cuda: pip install -U 'jax[cuda13]'), or unset JAX_PLATFORMS."
        return f"JAX finds no device for JAX_PLATFORMS={platforms}. {remedy}{reason}"
    return ""


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Prints warnings without the line of code that they came from, and with control characters as escapes."""

    def in_lines(message: Warning | str, *about: object, **more: object) -> str:
        # Names of files may have control characters in them. The lines of a longer text stay lines.
        return "\n".join(map(escaped, f"Warning: {message}".splitlines())) + "\n"

    before = warnings.formatwarning
    warnings.formatwarning = in_lines
    try:
        yield
    finally:
        warnings.formatwarning = before
