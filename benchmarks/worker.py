"""A process for one peer: `python -m benchmarks.worker WORKLOAD PEER --data-dir DIR`.

It writes a JSON line when it is ready. Then it answers each word on its standard input with a JSON line: `epoch` trains
one epoch and answers with its seconds, `accuracy` answers with the accuracy on the test images, and `quit` ends the
process.
"""

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

from benchmarks.data import read_mnist
from benchmarks.peers import CannotRun, test_accuracy
from benchmarks.race import replier, shortened
from benchmarks.records import versions


def device(libraries: tuple[str, ...]) -> str:
    if "jax" not in libraries:
        return "cpu"
    import jax

    return jax.devices()[0].device_kind


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("workload")
    parser.add_argument("peer")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", type=json.loads, default={})
    arguments = parser.parse_args()

    reply = replier()
    mnist = read_mnist(arguments.data_dir)
    workload = importlib.import_module(f"benchmarks.{arguments.workload}")
    module_path, function = workload.PEERS[arguments.peer].split(":")
    start = time.perf_counter()
    try:
        module = importlib.import_module(module_path)
        peer = getattr(module, function)(mnist, arguments.seed, **arguments.options)
    except ModuleNotFoundError as error:
        if error.name.startswith("benchmarks"):
            raise
        reply(problem=f"not installed ({error.name})")
        return
    except CannotRun as error:
        reply(problem=str(error))
        return
    except Exception as error:
        traceback.print_exc()
        reply(problem=shortened(error))
        return
    reply(
        ready=time.perf_counter() - start,
        threads=peer.threads,
        models_a_round=peer.models_a_round,
        device=peer.device or device(module.LIBRARIES),
        versions=versions(module.LIBRARIES),
    )
    for line in sys.stdin:
        match line.strip():
            case "epoch":
                start = time.perf_counter()
                try:
                    peer.train_epoch()
                except Exception as error:
                    traceback.print_exc()
                    reply(problem=shortened(error))
                    return
                reply(seconds=time.perf_counter() - start)
            case "accuracy":
                reply(accuracy=test_accuracy(peer, mnist))
            case "quit":
                return
            case word:
                raise ValueError(f"expected epoch, accuracy or quit, got {word!r}")


if __name__ == "__main__":
    main()
