"""A process that measures: `python -m benchmarks.scaling.worker KIND OPTIONS`, with the options as JSON.

`rates` measures one device, pinned to one core, and writes its rates as a JSON line. `steps` compiles the programs of
`fit` and all-reduces for all devices of this process and of those that it works with; `sweep` trains a few models. Both
write a JSON line when they are ready. Then they answer each line on their standard input with the seconds of each call.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CALLS = 3
"""The calls in a turn. All processes that work together make as many."""
REPEATS = 32
LATENCY, BANDWIDTH = "latency", "bandwidth"
MANY_SMALL, ONE_LARGE = (512,) * 8, (2**19,)
"""The bytes of the arrays whose all-reduces give latency and bandwidth."""


@contextmanager
def before_others(wanted: bool) -> Iterator[None]:
    """Runs the threads of this process before all other programs, if wanted. Only root can do this, on Linux."""

    def put(policy: int, priority: int) -> None:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), policy, os.sched_param(priority))

    if not wanted:
        yield
        return
    put(os.SCHED_RR, 1)
    try:
        yield
    finally:
        put(os.SCHED_OTHER, 0)


@contextmanager
def more_than_others(wanted: bool) -> Iterator[None]:
    """Gives this session nearly all of the cores' time, if wanted. Unlike with ``before_others``, its threads share it.

    A sweep has more threads than cores. If they ran in real time, each would keep its core for a tenth of a second.
    """
    session = Path("/proc/self/autogroup")
    if wanted:
        session.write_text("-20", "ascii")
    try:
        yield
    finally:
        if wanted:
            session.write_text("0", "ascii")


def reply(value: object) -> None:
    print(json.dumps(value), flush=True)


def answer(calls: dict[str, Callable[[], float]], real_time: bool) -> None:
    """Says that it is ready, and measures all calls for each line that it reads."""
    reply("ready")
    for _ in sys.stdin:
        seconds = {}
        for name, call in calls.items():
            with before_others(real_time):
                seconds[name] = [call() for _ in range(CALLS)]
        reply(seconds)


def pin(number: int) -> None:
    """Pins this process to one core, like the one that measures the rates. Otherwise it has a thread for each core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def rates(model: str, sizes: list[int], core: int, real_time: bool) -> None:
    pin(core)
    import functional_nn as fnn

    with before_others(real_time):
        reply(fnn.bench.measure_rates(model, batch_sizes=sizes, members=4, seconds=0.5).to_dict())


def steps(
    models: list[str], batch_size: int, devices: int, port: int, processes: int, index: int, real_time: bool
) -> None:
    if processes > 1:
        pin(index)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=processes, process_id=index)
    from functional_nn.bench.measure.timing import clocked
    from functional_nn.bench.measure.training_programs import STEPS, fit_call
    from functional_nn.bench.measure.workloads import named_network

    together = devices * processes
    programs = {model: fit_call(named_network(model), batch_size, "float32", together).run for model in models}
    calls = {model: lambda run=run: clocked(run)[0] / STEPS for model, run in programs.items()}
    if together == 2:
        for name, sizes in ((LATENCY, MANY_SMALL), (BANDWIDTH, ONE_LARGE)):
            run = all_reduce(sizes)
            calls[name] = lambda run=run: clocked(run)[0] / REPEATS
    for call in calls.values():
        call()
    answer(calls, real_time)


def all_reduce(sizes: tuple[int, ...]) -> Callable[[], object]:
    """A program that adds up arrays of these bytes among all devices, again and again."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    count = jax.device_count()
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("device",)), PartitionSpec("device"))

    def again(arrays, _):
        return jax.tree.map(lambda total: total / count, jax.lax.psum(arrays, "device")), None

    def run(arrays):
        return jax.lax.scan(again, arrays, length=REPEATS)[0]

    arrays = [
        jax.make_array_from_callback((count, size // 4), rows, lambda _, size=size: np.ones((1, size // 4), np.float32))
        for size in sizes
    ]
    mapped = jax.shard_map(run, mesh=rows.mesh, in_specs=rows.spec, out_specs=rows.spec, check_vma=False)
    compiled = jax.jit(mapped).lower(arrays).compile()
    return lambda: compiled(arrays)


def sweep(model: str, members: int, part: int, parts: int, real_time: bool) -> None:
    if parts > 1:
        pin(part - 1)
    import tempfile

    import numpy as np

    import functional_nn as fnn
    from functional_nn.bench.measure.workloads import named_network
    from functional_nn.bench.scaling.measure import SWEEP_BATCH, SWEEP_EXAMPLES

    network = named_network(model)
    x = np.random.default_rng(0).integers(0, 256, (SWEEP_EXAMPLES, *network.in_shape), np.uint8)
    labels = np.random.default_rng(1).integers(0, network.classes, SWEEP_EXAMPLES, np.int32)
    data = fnn.data.Split(x, labels, x[:SWEEP_BATCH], labels[:SWEEP_BATCH])

    def trained(count: int) -> float:
        """The seconds to train this many members of a part, without compiling."""
        with tempfile.TemporaryDirectory() as folder:
            result = fnn.sweep(
                network.trained_net,
                lambda h: network.make_optimizer(h["learning_rate"]),
                fnn.grid(learning_rate=[network.learning_rate], seed=range(count * parts)),
                data,
                loss=network.loss,
                epochs=1,
                batch_size=SWEEP_BATCH,
                part=(part, parts),
                plan="map",
                out=f"{folder}/part",
                progress=False,
            )
        return result.seconds["train"]

    trained(2)
    reply("ready")
    for _ in sys.stdin:
        with more_than_others(real_time):
            reply({model: [trained(members)]})


if __name__ == "__main__":
    {"rates": rates, "steps": steps, "sweep": sweep}[sys.argv[1]](**json.loads(sys.argv[2]))
