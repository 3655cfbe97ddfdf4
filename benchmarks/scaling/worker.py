"""A process that measures: `python -m benchmarks.scaling.worker KIND OPTIONS`, with the options as JSON.

`rates` measures one device, pinned to one core, and writes its rates as a JSON line. `steps` compiles the programs of
`fit` for all devices of this process and of those that it works with; `sweep` trains a few models. Both write a JSON
line when they are ready. Then they answer each line on their standard input with the seconds of each model.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable


def reply(value: object) -> None:
    print(json.dumps(value), flush=True)


def pin(number: int) -> None:
    """Pins this process to one core. Otherwise it has a thread for each core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def rates(model: str, sizes: list[int], core: int) -> None:
    pin(core)
    import functional_nn as fnn

    reply(fnn.bench.measure_rates(model, batch_sizes=sizes, members=4, seconds=0.5).to_dict())


def steps(models: list[str], batch_size: int, devices: int, port: int, processes: int, index: int) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=processes, process_id=index)
    from functional_nn.bench.measure.timing import clocked
    from functional_nn.bench.measure.training_programs import STEPS, fit_call
    from functional_nn.bench.measure.workloads import named_network

    runs = {model: fit_call(named_network(model), batch_size, "float32", devices * processes).run for model in models}
    for run in runs.values():
        run()
    answer({model: lambda run=run: clocked(run)[0] / STEPS for model, run in runs.items()})


def answer(calls: dict[str, Callable[[], float]]) -> None:
    """Says that it is ready, and makes all calls for each line that it reads."""
    reply("ready")
    for _ in sys.stdin:
        reply({name: call() for name, call in calls.items()})


def sweep(model: str, members: int, part: int, parts: int) -> None:
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
    answer({model: lambda: trained(members)})


if __name__ == "__main__":
    {"rates": rates, "steps": steps, "sweep": sweep}[sys.argv[1]](**json.loads(sys.argv[2]))
