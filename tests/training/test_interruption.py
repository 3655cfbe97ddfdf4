"""Ctrl-C in a notebook, at any moment, also one that somebody drops."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import threading

import pytest
from tests.training import small_run
from tests.training.small_run import ADAM, DEEP, bits

import functional_nn as fnn
from functional_nn.training.processes import Interruption, Processes


def fit(**options):
    return small_run.fit(DEEP, optimizer=ADAM, **options)


def interrupted(seconds: float) -> fnn.training.Run:
    """A run that would go on for hours, and gets the signal of Ctrl-C after so many seconds."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return fit(epochs=10**6)


def test_ctrl_c_in_a_callback_of_the_garbage_collector_is_heard(monkeypatch):
    """Where Ctrl-Cs were lost: JAX has such a callback, and an exception that is raised in one has no caller."""
    monkeypatch.setattr("sys.unraisablehook", lambda about: None)
    sent = []

    def callback(*about):
        if collecting:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    def collect(metrics, train_state):
        collecting.append(metrics.epoch)
        gc.collect()
        collecting.clear()

    collecting = []
    gc.callbacks.append(callback)
    try:
        with pytest.warns(RuntimeWarning, match="Interrupted after 1 of 1000 epochs"):
            run = fit(epochs=1000, on_epoch=collect)
    finally:
        gc.callbacks.remove(callback)
    assert (run.status, len(run.history)) == ("interrupted", 1)
    assert sent


def test_a_run_interrupted_at_random_moments_goes_on_to_the_same_bits():
    fit(epochs=1)  # compiles
    chance, reached = random.Random(0), []
    while len(reached) < 4:
        try:
            run = interrupted(chance.uniform(0.01, 0.15))
        except KeyboardInterrupt:
            continue  # before there was anything to keep
        assert run.status == "interrupted"
        assert run.message.startswith(f"Interrupted after {len(run.history)} of")
        assert [metrics.epoch for metrics in run.history] == list(range(1, len(run.history) + 1))
        assert run.train_state.step == 2 * len(run.history)
        reached.append(run)
    most = max(len(run.history) for run in reached)
    assert most > 0
    whole = fit(epochs=most)
    for run in reached:
        if len(run.history) < most:
            run = fit(epochs=most - len(run.history), start=run.train_state)
            assert run.seconds["compile"] == 0
        assert bits(run) == bits(whole)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_what_a_callback_drops_is_raised_at_the_next_check():
    with Interruption(Processes()) as interruption:
        interruption.check()
        with contextlib.suppress(KeyboardInterrupt):
            interrupt()
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
        interruption.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
