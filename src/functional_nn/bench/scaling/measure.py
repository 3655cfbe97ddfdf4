"""``measure_rates``: what one device does, measured with the programs of ``fit`` and ``sweep``."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from functional_nn.bench.measure.timing import Timing, clocked
from functional_nn.bench.measure.training_programs import STEPS, TRAIN_STATE, fit_call
from functional_nn.bench.measure.workloads import MeasuredNetwork, named_network
from functional_nn.bench.scaling.rates import Rates, SweepRates
from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_choice, check_count, check_counts, check_number, shown
from functional_nn.data.dataset import Split
from functional_nn.models.named_models import MODELS
from functional_nn.storage.files import write_whole
from functional_nn.sweeps.execution.store import BATCHES
from functional_nn.sweeps.grid.grid import grid
from functional_nn.sweeps.results.folder import sweep_settings
from functional_nn.sweeps.results.parts import merge
from functional_nn.sweeps.sweep import sweep
from functional_nn.training.programs.devices import cores, device_name

LEAST_CALLS = 5
LONG_CALL = 10.0
"""If a call takes more seconds than this, one call of each is timed. It has many steps, which are enough."""
SWEEP_BATCH = 64
SWEEP_EXAMPLES = 4096
"""The training examples of the members that are measured."""
SUMS_OF_BATCH_NORM = 3
"""The arrays that a batch norm adds up among devices for each of its two statistics, besides its own gradients: XLA
makes one in the forward pass, and two in the backward pass."""


def measure_rates(
    model: str = "mlp",
    *,
    batch_sizes: Sequence[int] = (2, 16, 128),
    members: int = 8,
    seconds: float = 1.0,
) -> Rates:
    """Measures on one device what a plan for many devices needs, for a named model on images of 28 × 28 pixels.

    A step is timed in the program that ``fit`` runs, for each batch size. Its seconds are the lower quartile of many
    calls, which other work on the machine changes less than the mean. A sweep of a few members over one epoch gives the
    time of a member, its file, and the time of ``merge``. All of this takes some ten seconds for a small model, most of
    them to compile, and minutes for a large model or large batches on a CPU: a call has 32 steps.

    Args:
        model: the name of the model.
        batch_sizes: two or more numbers of examples, in rising order. They should reach from the smallest share of a
            batch in the plan to the largest. Batch norm needs two examples.
        members: the members of the sweep that is measured; 0 to leave it out.
        seconds: about how long to measure each batch size, without compiling.

    Raises:
        InputError: for an unknown model, batch sizes that do not rise, or a number that is not positive.
    """
    check_choice("model", model, MODELS)
    sizes = check_counts("batch_sizes", batch_sizes)
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)):
        raise InputError("batch_sizes", "two or more different sizes in rising order", shown(batch_sizes))
    check_count("members", members, least=0)
    seconds = check_number("seconds", seconds, "a number above 0", lambda seconds: 0 < seconds < math.inf)

    network = named_network(model)
    calls = {size: fit_call(network, size, "float32") for size in sizes}
    times = timed_in_turns({size: call.run for size, call in calls.items()}, seconds)
    scratch = [_scratch_bytes(calls[size].program.compiled) for size in (sizes[0], sizes[-1])]
    state = calls[sizes[0]].arguments[TRAIN_STATE]
    return Rates(
        model=model,
        device=device_name(jax.local_devices()[0]),
        cores=cores() if jax.default_backend() == "cpu" else 1,
        batch_sizes=sizes,
        step_seconds=tuple(times[size] / STEPS for size in sizes),
        all_reduces=all_reduces(network),
        state_bytes=2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        example_bytes=max(0.0, (scratch[1] - scratch[0]) / (sizes[-1] - sizes[0])),
        input_bytes=math.prod(network.in_shape) + np.dtype(np.int32).itemsize,
        sweep=_sweep_rates(network, members) if members else None,
    )


def timed_in_turns(calls: dict[int, Callable[[], object]], seconds: float) -> dict[int, float]:
    """The lower quartile of the seconds of each call. The calls take turns, so that other work slows all of them alike.

    Args:
        calls: what to call, by any name.
        seconds: about how long to call each of them; at least five times, or once if a call takes long.
    """
    first = {name: clocked(call)[0] for name, call in calls.items()}
    least_calls = 1 if max(first.values()) > LONG_CALL else LEAST_CALLS
    samples: dict[int, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while len(min(samples.values(), key=len)) < least_calls or time.perf_counter() < end:
        for name, call in calls.items():
            # Short calls are repeated, so that each name gets about the same time.
            for _ in range(max(1, min(10, int(max(first.values()) / first[name])))):
                samples[name].append(clocked(call)[0])
    return {name: Timing((tuple(several),)).quartiles[0] for name, several in samples.items()}


def all_reduces(network: MeasuredNetwork) -> tuple[int, ...]:
    """The bytes of the arrays that devices add up in a train step: gradients, the loss, and sums of batch norms.

    They are counted from the shapes of parameters and state, and not read from a program, since a single device has
    no program for several.
    """
    shapes = jax.eval_shape(lambda: network.trained_net.init(jax.random.key(0), network.in_shape))
    params, state = ([leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)] for tree in shapes)
    loss = [np.dtype(np.float32).itemsize]
    return (*params, *loss, *(SUMS_OF_BATCH_NORM * state))


def _scratch_bytes(compiled: jax.stages.Compiled) -> int:
    """The scratch memory of a program; 0 where the platform does not report it."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else analysis.temp_size_in_bytes


def _sweep_rates(network: MeasuredNetwork, members: int) -> SweepRates:
    """Runs a small sweep in a temporary folder, merges it, and counts what it wrote."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (SWEEP_EXAMPLES, *network.in_shape), np.uint8)
    labels = random.integers(0, network.classes, SWEEP_EXAMPLES, np.int32)
    data = Split(x, labels, x[:SWEEP_BATCH], labels[:SWEEP_BATCH])
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part")
        result = sweep(
            network.trained_net,
            lambda h: network.make_optimizer(h["learning_rate"]),
            grid(learning_rate=[network.learning_rate], seed=range(members)),
            data,
            loss=network.loss,
            epochs=1,
            batch_size=SWEEP_BATCH,
            out=part,
            progress=False,
        )
        files = sorted((part / BATCHES).iterdir())
        # Each merge writes files, and other work on the disk can make one of them several times slower.
        merges = [clocked(merge, [part], Path(folder, f"whole{number}"))[0] for number in range(LEAST_CALLS)]
        merge_seconds = Timing((tuple(merges),)).median
        contents = files[0].read_bytes()
        write_seconds = [clocked(write_whole, Path(folder, "file"), contents)[0] for _ in range(LEAST_CALLS)]
        file_seconds = Timing((tuple(write_seconds),)).median
        listed = json.dumps(sweep_settings(part)["grid"])
        return SweepRates(
            epochs=1,
            examples=SWEEP_EXAMPLES,
            start_seconds=result.seconds["compile"],
            member_seconds=max(result.seconds["train"] / members - file_seconds, 0.0),
            file_seconds=file_seconds,
            file_bytes=sum(os.path.getsize(file) for file in files) / members,
            grid_bytes=len(listed) / members,
            merge_seconds=merge_seconds / members,
        )
