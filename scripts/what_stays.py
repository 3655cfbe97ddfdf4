"""Compares this source tree with an earlier one: the bits of twelve short runs, and the times of W1 to W7.

    python scripts/what_stays.py EARLIER_TREE
    python scripts/what_stays.py EARLIER_TREE --race w1,w2,w3,w4,w5,w6,w7 --data-dir MNIST --rounds 9

Each tree runs in processes of its own, with the public names only. The races take turns: one epoch here, one there.
"""

import argparse
import contextlib
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def digest(*trees) -> str:
    """A digest of all numbers in pytrees of arrays, with their names, types and shapes."""
    import jax
    import numpy as np

    told = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        array = np.asarray(leaf)
        told.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        told.update(array.tobytes())
    return told.hexdigest()[:16]


def of_run(run) -> str:
    return digest(run.params, run.state, [epoch.metrics for epoch in run.history])


def of_sweep(result) -> str:
    rows = [{name: cell for name, cell in row.items() if "seconds" not in name} for row in result.rows()]
    return (
        digest([member.params for member in result.members]) + " " + hashlib.sha256(repr(rows).encode()).hexdigest()[:8]
    )


def runs() -> dict:
    """The twelve runs by name: functions that return a digest."""
    import numpy as np
    import optax

    import functional_nn as fnn

    data = fnn.load_dataset("mnist5k")
    data = data._replace(
        train_images=data.train_images[:520],
        train_labels=data.train_labels[:520],
        test_images=data.test_images[:200],
        test_labels=data.test_labels[:200],
    )
    net = fnn.chain(fnn.dense(24), fnn.relu, fnn.dropout(0.1), fnn.dense(10))
    vectors = data.train_images.reshape(-1, 784).astype(np.float32) / 255
    tests = data.test_images.reshape(-1, 784).astype(np.float32) / 255

    def fit(used=data, **options):
        options = {"epochs": 2, "batch_size": 32, "seed": 3, "progress": False} | options
        return fnn.fit(
            options.pop("net", net), fnn.cross_entropy, options.pop("optimizer", optax.adam(3e-3)), used, **options
        )

    def sweep(**options):
        grid = fnn.grid(learning_rate=[1e-3, 1e-2], seed=[0, 1])
        return fnn.sweep(
            lambda h: net,
            lambda h: optax.adam(h["learning_rate"]),
            grid,
            data,
            epochs=3,
            batch_size=64,
            progress=False,
            **options,
        )

    def stream():
        batches = [(vectors[i : i + 40], data.train_labels[i : i + 40]) for i in range(0, 520, 40)]
        return fit(fnn.data.Stream(batches, test_x=tests, test_labels=data.test_labels))

    def careful():
        broken = vectors.copy()
        broken[100, 50] = np.nan  # one step of each epoch
        split = fnn.data.Split(broken, data.train_labels, tests, data.test_labels)
        return fit(split, non_finite="skip")

    def resumed():
        with tempfile.TemporaryDirectory() as folder:
            fit(epochs=3, checkpoints=folder, on_epoch=lambda metrics, state: metrics.epoch == 1)
            return fit(epochs=3, checkpoints=folder)

    def from_parameters():
        start = fit(epochs=1)
        return fit(start=(start.params, start.state), seed=9)

    def deep():
        layers = (
            fnn.reshape((28, 28, 1)),
            fnn.conv(4, 3),
            fnn.relu,
            fnn.max_pool(2),
            fnn.batch_norm(),
            fnn.flatten(),
            fnn.dense(10),
        )
        return fit(net=fnn.chain(*layers))

    Plan = fnn.sweeps.Plan
    return {
        "in memory": lambda: of_run(fit()),
        "in memory, a small convolutional network": lambda: of_run(deep()),
        "a stream": lambda: of_run(stream()),
        "a sweep in two threads": lambda: of_sweep(sweep(plan=Plan(workers=2, members=1))),
        "a sweep by vmap": lambda: of_sweep(sweep(plan="vmap")),
        "a careful epoch": lambda: of_run(careful()),
        "two devices": lambda: of_run(fit(devices=2)),
        "resumed": lambda: of_run(resumed()),
        "float16": lambda: of_run(fit(precision="float16")),
        "validation data": lambda: of_run(fit(data.with_validation(0.2))),
        "a halving": lambda: of_sweep(sweep(halving=fnn.sweeps.Halving((1, 2), keep=0.5))),
        "from parameters": lambda: of_run(from_parameters()),
    }


def two_processes(environment: dict) -> str:
    """Digests of what the command writes that two processes train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--hidden", "16", "--epochs", "1", "--quiet", "--coordinator", f"127.0.0.1:{port}"]
        flags += ["--num-processes", "2", "--out", f"{folder}/run", "--process-id"]
        command = [sys.executable, "-m", "functional_nn", "train", *flags]
        processes = [
            subprocess.Popen([*command, str(number)], env=environment, stdout=subprocess.DEVNULL) for number in (0, 1)
        ]
        if any(process.wait(300) for process in processes):
            raise SystemExit("two processes: one of them failed")
        import safetensors.numpy

        result = json.loads((Path(folder) / "run" / "result.json").read_text())
        params = {
            path.name: safetensors.numpy.load_file(path)
            for path in sorted((Path(folder) / "run").glob("*.safetensors"))
        }
        return digest(params, result["test_accuracy"], result["test_loss"])


def environment_of(tree: Path) -> dict:
    return os.environ | {"PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}", "JAX_PLATFORMS": "cpu"}


def digests_of(tree: Path) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--digests"], env=environment_of(tree), stdout=subprocess.PIPE, check=True, cwd=tree
    )
    return json.loads(done.stdout) | {"two processes": two_processes(environment_of(tree))}


def race(workload: str, trees: list[Path], folder: Path, rounds: int) -> list[list[float]]:
    """Seconds of each round in each tree, taken in turns. The first rounds are warm-up."""
    with contextlib.ExitStack() as stack:
        workers = []
        for tree in trees:
            command = [sys.executable, "-m", "benchmarks.worker", workload, "functional_nn", "--data-dir", str(folder)]
            if workload == "w2":
                command += ["--options", json.dumps({"models": 8, "hidden": [128, 64]})]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            worker = stack.enter_context(subprocess.Popen(command, env=environment_of(tree), cwd=tree, **pipes))
            if "ready" not in json.loads(worker.stdout.readline()):
                raise SystemExit(f"{workload}: the worker of {tree} is not ready")
            workers.append(worker)
        times = [[] for _ in trees]
        for turn in range(rounds + 1):
            for worker, own in zip(workers, times, strict=True):
                for _ in range(
                    1 if workload == "w5" else 2
                ):  # after another process the machine is slower for a moment
                    worker.stdin.write("epoch\n")
                    worker.stdin.flush()
                    seconds = json.loads(worker.stdout.readline())["seconds"]
                if turn:
                    own.append(seconds)
        for worker in workers:
            worker.stdin.write("quit\n")
            worker.stdin.close()
            worker.wait()
        return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("earlier", type=Path, nargs="?")
    parser.add_argument("--digests", action="store_true", help="prints the digests of the package that Python imports")
    parser.add_argument("--race", type=lambda text: text.split(","), default=[])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if arguments.digests:
        import jax

        jax.config.update("jax_num_cpu_devices", 2)
        replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        print(json.dumps({name: function() for name, function in runs().items()}), file=replies)
        return
    trees = [arguments.earlier.resolve(), HERE]
    for workload in arguments.race:
        before, after = race(workload, trees, arguments.data_dir.resolve(), arguments.rounds)
        ratios = sorted(b / a for a, b in zip(before, after, strict=True))
        middle = statistics.median(after) / statistics.median(before)
        print(
            f"{workload}: time here over the earlier one {middle:.3f} (rounds {ratios[0]:.3f} to {ratios[-1]:.3f})",
            flush=True,
        )
    if not arguments.race:
        before, after = map(digests_of, trees)
        for name in before:
            print(f"{'same ' if before[name] == after[name] else 'OTHER'} {name}: {before[name]} {after[name]}")
        raise SystemExit(before != after)


if __name__ == "__main__":
    main()
