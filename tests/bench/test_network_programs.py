"""What ``functional-nn bench`` measures as ``train`` and ``sweep`` is what ``fit`` and ``sweep`` run."""

import re

import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.bench.compiled_program import clocked
from functional_nn.bench.network_programs import STEPS, BenchmarkCase, MeasuredNetwork, epoch_call
from functional_nn.training.programs import Programs

BATCH_SIZE = 2
EXAMPLES = STEPS * BATCH_SIZE
RATE = 1e-3


@pytest.fixture
def network():
    """A network of its own for each test, so that no programs of another test are used."""
    return MeasuredNetwork(fnn.models.mlp(3, hidden=(4,)), fnn.cross_entropy, optax.adam, (5,), 3)


@pytest.fixture
def made_programs(monkeypatch):
    """All programs that are compiled during a test."""
    made = []
    original = Programs.__init__

    def recorded(self, *arguments, **options):
        original(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Programs, "__init__", recorded)
    return made


@pytest.fixture
def data():
    x = np.zeros((EXAMPLES, 5), np.uint8)
    labels = np.zeros(EXAMPLES, np.int32)
    return fnn.data.Split(x, labels)


def compiled_text(executable) -> str:
    """The text of a compiled program, without names and lines of the Python code that it comes from."""
    head, _, rest = executable.as_text().partition("\n")
    computations = rest[re.search(r"^(%|ENTRY)", rest, re.MULTILINE).start() :]
    text = re.sub(r"^HloModule [^,]+", "HloModule", head) + "\n" + computations
    assert " while(" in text
    return re.sub(r", metadata=\{[^}]*\}", "", text)


def test_train_is_the_program_of_fit(network, data, made_programs):
    fnn.fit(network.net, network.loss, optax.adam(RATE), data, epochs=1, batch_size=BATCH_SIZE)
    (of_fit,) = made_programs
    call = epoch_call(network, BenchmarkCase("train", BATCH_SIZE, "float32"))
    assert compiled_text(call.program.compiled) == compiled_text(of_fit.compiled["full"])


def test_sweep_is_the_program_of_a_sweep(network, data, made_programs):
    fnn.sweep(
        model=network.net,
        loss=network.loss,
        optimizer=lambda h: optax.adam(h["learning_rate"]),
        grid=fnn.grid(learning_rate=[RATE, 0.02], seed=[0, 1]),
        data=data,
        epochs=1,
        batch_size=BATCH_SIZE,
    )
    (of_sweep,) = made_programs
    call = epoch_call(network, BenchmarkCase("sweep", BATCH_SIZE, "float32", 4))
    assert compiled_text(call.program.compiled) == compiled_text(of_sweep.compiled["full"])
    assert (call.executions, call.devices) == (4, 1)


def test_a_call_runs_every_member(network):
    call = epoch_call(network, BenchmarkCase("sweep", BATCH_SIZE, "float32", 3))
    seconds, _ = clocked(call.run)
    empty_seconds, _ = clocked(call.run_empty)
    assert seconds > 0 < empty_seconds
    train_state, (losses, _) = call.program.compiled(*call.arguments)
    assert losses.shape == (STEPS,)
    assert int(train_state.step) == STEPS
