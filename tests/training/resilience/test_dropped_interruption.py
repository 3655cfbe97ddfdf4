"""A Ctrl-C that somebody drops is heard all the same."""

import contextlib
import gc
import os
import signal
import threading

import pytest

from functional_nn.training.processes import Interruption, Processes


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_fault_56_what_a_callback_drops_is_raised_at_the_next_check():
    with Interruption(Processes()) as interruption:
        interruption.check()
        with contextlib.suppress(KeyboardInterrupt):
            interrupt()
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
        interruption.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_fault_56_a_signal_in_a_callback_of_the_garbage_collector(monkeypatch):
    """Where JAX's Ctrl-Cs were lost: the exception has no caller there, and Python goes on."""
    monkeypatch.setattr("sys.unraisablehook", lambda about: None)
    callback = lambda *about: interrupt()  # noqa: E731
    gc.callbacks.append(callback)
    try:
        with Interruption(Processes()) as interruption:
            gc.collect()
            with pytest.raises(KeyboardInterrupt):
                interruption.check()
    finally:
        gc.callbacks.remove(callback)


def test_a_handler_of_somebody_else_stays():
    received = []
    before = signal.signal(signal.SIGINT, lambda *about: received.append(1))
    try:
        with Interruption(Processes()) as interruption:
            interrupt()
            interruption.check()
        assert received == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_changed():
    handlers = []

    def work():
        with Interruption(Processes()):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
