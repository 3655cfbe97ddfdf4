"""A port for tests in which several processes find each other on this computer."""

import socket


def free_port() -> int:
    """The number of a port that no program uses at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
