"""One timed training, in a process of its own: `python -m benchmarks.mnist_records.timing RECORD DATASET SEED`.

It prints a JSON object. `first_fit_seconds` is the whole call of `fit` in a new process, with its compilation and the
evaluation on the test images. `fit_seconds` is the same call again, which finds its programs compiled.
`training_seconds` is the part of the second call in which the network is trained.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import functional_nn as fnn
from benchmarks.mnist_records.settings import RECORDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mnist_records.timing")
    parser.add_argument("record", choices=RECORDS)
    parser.add_argument("dataset")
    parser.add_argument("seed", type=int)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    setting = RECORDS[arguments.record].setting
    if arguments.epochs is not None:
        setting = replace(setting, epochs=arguments.epochs)
    data = fnn.load_dataset(arguments.dataset, arguments.data_dir)
    steps = setting.epochs * -(-len(data.train_labels) // setting.batch_size)
    network, optimizer = setting.network(), setting.optimizer(steps)
    options = {"epochs": setting.epochs, "batch_size": setting.batch_size, "seed": arguments.seed, "progress": False}
    seconds = []
    for _ in range(2):
        clock = time.perf_counter()
        run = fnn.fit(network, fnn.cross_entropy, optimizer, data, **options)
        seconds.append(time.perf_counter() - clock)
    found = {
        "accuracies": run.history[-1].test_accuracy,
        "first_fit_seconds": seconds[0],
        "fit_seconds": seconds[1],
        "training_seconds": sum(epoch.seconds for epoch in run.history),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
