"""The flags by which several processes train one model together, and the start of ``jax.distributed``."""

from __future__ import annotations

import errno
import hmac
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import click

from functional_nn.core.errors import InputError, LostProcess, check, shortened, shown

if TYPE_CHECKING:
    from functional_nn.training.processes import Processes

WAIT_SECONDS = 50
"""How long a process waits at the start for others, if no flag says otherwise."""

LOST_SECONDS = 30
"""How long a process may be silent, and how long the others wait at the end, before it counts as lost."""

ANSWER_SECONDS = 60
"""How long the first numbers may take that the processes send each other, once all have started."""

NO_ANSWER = (
    f"The processes have all started, but some got no numbers from the others within {ANSWER_SECONDS} s. Another user "
    "of these computers may have taken the place of a process. Start all of them again; see 'Keep strangers out' in "
    "docs/how_to/many_machines.md."
)

LONGEST_MILLISECONDS = 7 * 24 * 60 * 60 * 1000
"""How long the processes may take to load their data."""

BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"
"""The environment variable by which JAX takes another address to listen at than that of ``--coordinator``."""

SECRET = "FUNCTIONAL_NN_SECRET"
"""The environment variable with a secret that all processes of a run have in common."""

OWN_FLAGS = {"distributed", "coordinator", "num_processes", "process_id", "wait", "data_dir", "quiet"}
"""The flags that may differ between the processes of a run, besides other files and folders."""

DIGITS = 64
"""The number of digits in which 32 bytes are written, such as a digest."""

WATCHER = f"import sys; {int(signal.SIGABRT)} in sys.stdin.buffer.read() and sys.stderr.write(sys.argv[1])"
"""A program that prints its argument if it reads the number of the signal by which C++ code ends a process."""


@dataclass(frozen=True)
class SeveralProcesses:
    """How this process finds the others.

    Args:
        distributed: whether JAX asks the cluster.
        coordinator: the address of the first process, ``HOST:PORT``.
        num_processes: the number of processes.
        process_id: the number of this one, from 0.
        wait: the seconds that it waits for the others at the start.
    """

    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    wait: int = WAIT_SECONDS

    @property
    def are_asked_for(self) -> bool:
        """Whether there is anything to start."""
        return self.distributed or self.coordinator is not None

    def check(self) -> None:
        """Raises an ``InputError`` unless the flags fit each other."""
        named = {
            "--coordinator": self.coordinator,
            "--num-processes": self.num_processes,
            "--process-id": self.process_id,
        }
        given = [flag for flag, value in named.items() if value is not None]
        if self.distributed and given:
            remedy = f"Leave out --distributed, or {' and '.join(given)}."
            raise InputError("--distributed", "no address and no numbers, which the cluster knows", given[0], remedy)
        if given and len(given) < len(named):
            missing = " and ".join(flag for flag in named if flag not in given)
            remedy = "If a cluster starts the processes, give --distributed alone."
            raise InputError(given[0], f"also {missing}", "none", remedy)
        if self.wait != WAIT_SECONDS and not self.are_asked_for:
            raise InputError("--wait", "also --distributed or --coordinator", "none")
        if self.num_processes is not None and self.process_id is not None:
            expected = f"a number from 0 to {self.num_processes - 1}, one for each process"
            check("--process-id", self.process_id, expected, self.process_id < self.num_processes)
        if self.coordinator is not None:
            _host_and_port("--coordinator", self.coordinator)

    def start(self) -> None:
        """Connects this process with the others, before JAX computes anything. It waits until all have come.

        If not all come, JAX ends the process, with a text of its own. So this says first what it waits for.

        Raises:
            InputError: if JAX does not know the cluster, or if the first process does not answer.
        """
        import jax

        # The service would take SIGTERM for itself. Here fit notes the signal, and before that it ends the process.
        jax.config.update("jax_enable_preemption_service", False)
        whom = "the other processes" if self.num_processes is None else f"{self.num_processes} processes"
        listening_at = None  # JAX's default: all addresses of the computer
        if self.coordinator is not None and self.process_id == 0:
            listening_at = os.environ.get(BIND_ADDRESS, self.coordinator)
            whom += f" at {_checked_to_be_free(listening_at)}"
        click.echo(f"Waiting for {whom}, for {self.wait} s at most (--wait).", err=True)
        if self.coordinator is not None and self.process_id:
            _wait_for(self.coordinator, self.wait)
        try:
            jax.distributed.initialize(
                self.coordinator,
                self.num_processes,
                self.process_id,
                initialization_timeout=self.wait,
                heartbeat_timeout_seconds=LOST_SECONDS,
                shutdown_timeout_seconds=LOST_SECONDS,
                coordinator_bind_address=listening_at,
            )
        except ValueError as error:  # JAX names a missing value
            expected = "a cluster that JAX knows (Slurm, Open MPI, Cloud TPU)"
            remedy = "Or give --coordinator, --num-processes and --process-id."
            given = f"none of them (JAX: {shortened(str(error)).rstrip('.')})"
            raise InputError("--distributed", expected, given, remedy) from None


def _wait_for(coordinator: str, seconds: int) -> None:
    """Waits until the first process answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(_host_and_port("--coordinator", coordinator), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                given = f"{error.strerror or error} after {seconds} s"
                remedy = "Is process 0 running there? All processes get its address, and each its own --process-id."
                raise InputError("--coordinator", f"an answer of process 0 at {coordinator}", given, remedy) from None
            time.sleep(0.1)


def _host_and_port(argument: str, address: str) -> tuple[str, int]:
    """The two parts of ``HOST:PORT``, the host without the brackets that an IPv6 address has."""
    host, _, port = address.rpartition(":")
    is_known = False
    with suppress(UnicodeError):
        is_known = bool(host.encode("idna"))  # as Python encodes the name of a host before it looks for it
    is_port = port.isdecimal() and 0 < int(port) < 2**16
    check(argument, address, "HOST:PORT of the first process", is_known and is_port)
    return host.strip("[]"), int(port)


def _checked_to_be_free(address: str) -> str:
    """The address in numbers, where nothing listens yet on this computer. If something did, JAX would crash."""
    argument = BIND_ADDRESS if BIND_ADDRESS in os.environ else "--coordinator"
    host, port = _host_and_port(argument, address)
    try:
        family, kind, _, _, numbers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(numbers)
            return f"[{numbers[0]}]:{port}" if family == socket.AF_INET6 else f"{numbers[0]}:{port}"
    except OSError as error:
        expected = "an address of this computer"
        remedy = f"If others reach it by this address all the same, set {BIND_ADDRESS}=0.0.0.0:{port} in process 0."
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            expected, remedy = "a port that is free", "Choose another number above 1023, the same for all processes."
        raise InputError(argument, expected, f"{shown(address)} ({error.strerror or error})", remedy) from None


def speak_last() -> None:
    """Says what to do after JAX's own text, if JAX ends this process: its C++ code does so when another one is lost.

    Python cannot run any more then, but its handler of the signal still writes the signal's number, to a small process.
    """
    if os.name != "posix":
        return
    said = f"Error: {LostProcess.ADVICE} JAX's own text is above.\n"
    # A session of its own, since Ctrl-C reaches all processes of one. The program needs none of Python's packages.
    command = [sys.executable, "-I", "-S", "-c", WATCHER, said]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    assert watcher.stdin is not None
    os.set_blocking(watcher.stdin.fileno(), False)

    def end(number: int, frame: FrameType | None, watcher: subprocess.Popen[bytes] = watcher) -> None:
        """Ends this process as without a handler. As long as there is one, the pipe stays open."""
        os.abort()

    signal.signal(signal.SIGABRT, end)
    signal.set_wakeup_fd(watcher.stdin.fileno(), warn_on_full_buffer=False)


def check_is_one_run(processes: Processes, context: click.Context) -> None:
    """Checks that all processes have the same secret and the same flags.

    Raises:
        LostProcess: in all processes, if one has another secret. It need not be one of ours, so nobody waits for it.
        InputError: in all processes, if a flag differs that has to be the same in all of them.
    """
    if not processes.are_several:
        return
    with processes.noticing_loss(), _deadline():
        _check_secret(processes)
    shared = {
        parameter.opts[0]: context.params[parameter.name]
        for parameter in context.command.params
        if parameter.name in context.params.keys() - OWN_FLAGS and not isinstance(parameter.type, click.Path)
    }
    processes.check_same("flags", shared)


@contextmanager
def _deadline() -> Iterator[None]:
    """Ends this process if the others, which have all come this far, do not answer in the body.

    A stranger who connects to the data connections first takes the place of a process. Then JAX waits for ever, and
    takes no signal meanwhile.
    """
    from jax._src import distributed  # JAX's public functions use the data connections

    # To load the data may take longer in another process. JAX notices if it ends.
    distributed.global_state.client.wait_at_barrier("functional_nn", LONGEST_MILLISECONDS)  # pyright: ignore[reportOptionalMemberAccess]

    def end() -> None:
        os.write(2, f"Error: {NO_ANSWER}\n".encode())
        os._exit(1)

    timer = threading.Timer(ANSWER_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_secret(processes: Processes) -> None:
    """Raises ``LostProcess`` in all processes unless all have one secret, or none has one.

    Each process proves that it knows the secret by a digest of it, of its own number, and of random bytes of all. So
    nobody sees the secret, and the digest is worth nothing to another process or in another run.
    """
    drawn = [text.hex() for text in processes.bytes_from_all(secrets.token_hex(32).encode(), DIGITS)]

    def proof(number: int) -> bytes:
        secret = os.fsencode(os.environ.get(SECRET, ""))
        return hmac.new(secret, json.dumps([number, drawn]).encode(), "sha256").hexdigest().encode()

    given = processes.bytes_from_all(proof(processes.index), DIGITS)
    others = [str(number) for number, text in enumerate(given) if not hmac.compare_digest(text, proof(number))]
    if others:
        if processes.is_first:
            time.sleep(1)  # with this process, JAX ends the others, which say the same first
        given = f"another one, or none, in process {', '.join(others)}"
        raise LostProcess(str(InputError(SECRET, "the same value in every process", given)))
