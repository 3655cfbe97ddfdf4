"""The flags by which several processes train one model together, and the start of ``jax.distributed``."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import click

from functional_nn.configuration.flag_types import COUNT, COUNT_OR_ZERO
from functional_nn.core.errors import InputError, shortened

Function = TypeVar("Function", bound=Callable[..., object])

WAIT_SECONDS = 50
"""How long a process waits at the start for others, if no flag says otherwise."""

LOST_SECONDS = 30
"""How long a process may be silent, and how long the others wait at the end, before it counts as lost."""


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
        if self.num_processes is not None and self.process_id is not None and self.process_id >= self.num_processes:
            expected = f"a number from 0 to {self.num_processes - 1}, one for each process"
            raise InputError("--process-id", expected, self.process_id)
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                raise InputError("--coordinator", "HOST:PORT of the first process", shortened(repr(self.coordinator)))

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
        click.echo(f"Waiting for {whom}, for {self.wait} s at most (--wait).", err=True)
        if self.coordinator is not None:
            if self.process_id:
                _wait_for(self.coordinator, self.wait)
            else:
                _check_port_is_free(self.coordinator)
        try:
            jax.distributed.initialize(
                self.coordinator,
                self.num_processes,
                self.process_id,
                initialization_timeout=self.wait,
                heartbeat_timeout_seconds=LOST_SECONDS,
                shutdown_timeout_seconds=LOST_SECONDS,
            )
        except ValueError as error:  # JAX names a missing value
            expected = "a cluster that JAX knows (Slurm, Open MPI, Cloud TPU)"
            remedy = "Or give --coordinator, --num-processes and --process-id."
            given = f"none of them (JAX: {shortened(str(error)).rstrip('.')})"
            raise InputError("--distributed", expected, given, remedy) from None


def _wait_for(coordinator: str, seconds: int) -> None:
    """Waits until the first process answers."""
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")  # around an IPv6 address, they tell its colons from the one before the port
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=seconds).close()
            return
        except UnicodeError as error:  # Python encodes the name of a host before it looks for it
            given = f"{shortened(repr(coordinator))} ({error})"
            raise InputError("--coordinator", "HOST:PORT of the first process", given) from None
        except OSError as error:
            if time.monotonic() > end:
                given = f"{error.strerror or error} after {seconds} s"
                remedy = "Is process 0 running there? All processes get its address, and each its own --process-id."
                raise InputError("--coordinator", f"an answer of process 0 at {coordinator}", given, remedy) from None
            time.sleep(0.1)


def _check_port_is_free(coordinator: str) -> None:
    """Raises an ``InputError`` if another program has the first process's port. JAX would crash."""
    port = int(coordinator.rpartition(":")[2])
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("", port))
    except OSError as error:
        remedy = "Choose another number above 1023, the same for all processes."
        raise InputError("--coordinator", "a port that is free", f"{port} ({error.strerror})", remedy) from None


def with_process_flags(command: Function) -> Function:
    """Gives a command these flags. It takes them as the arguments of ``SeveralProcesses``."""
    flags = (
        click.option(
            "--distributed",
            is_flag=True,
            help="Train together with the other processes that a cluster has started, such as Slurm.",
        ),
        click.option("--coordinator", metavar="HOST:PORT", help="Address of the first of several processes."),
        click.option("--num-processes", type=COUNT, help="Number of processes that train together."),
        click.option("--process-id", type=COUNT_OR_ZERO, help="Number of this process, from 0."),
        click.option("--wait", type=COUNT, default=WAIT_SECONDS, help="Seconds to wait for the others at the start."),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command
