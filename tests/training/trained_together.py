"""Trains in one of several processes, and prints what it got as JSON lines: a script of ``test_processes.py``.

``python trained_together.py PORT PROCESSES NUMBER FOLDER NETWORKS``, with NETWORKS such as ``mlp,lstm``. With one
process, nothing is started.
"""

import json
import sys

import jax
import numpy as np
import optax

port, processes, number, folder, networks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
if processes > 1:
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        num_processes=processes,
        process_id=number,
        heartbeat_timeout_seconds=20,
        shutdown_timeout_seconds=20,
    )

import functional_nn as fnn  # noqa: E402

random = np.random.default_rng(0)
labels = random.integers(0, 3, 47).astype(np.int32)
vectors = random.normal(size=(47, 5)).astype(np.float32)
images = random.integers(0, 256, (47, 8, 8, 1)).astype(np.uint8)
sequences = fnn.Masked(random.normal(size=(47, 6, 4)).astype(np.float32), np.arange(6) < random.integers(1, 7, (47, 1)))

# 47 examples in batches of 9 are divided unevenly among any number of devices, and so is the last batch, of 2.
NETWORKS = {
    "mlp": (fnn.chain(fnn.dense(8), fnn.tanh, fnn.dropout(0.2), fnn.dense(3)), vectors),
    "cnn": (fnn.chain(fnn.conv(4, 3), fnn.batch_norm(), fnn.tanh, fnn.flatten(), fnn.dense(3)), images),
    "lstm": (fnn.chain(fnn.lstm(5), fnn.dense(8), fnn.batch_norm(), fnn.tanh, fnn.dense(3)), sequences),
}


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def trained(name: str, **options: object) -> fnn.training.Run:
    net, x = NETWORKS[name]
    first = jax.tree.map(lambda array: array[:9], x)
    data = fnn.data.Split(x, labels, first, labels[:9])
    return fnn.fit(net, fnn.cross_entropy, optax.sgd(0.1), data, **{"epochs": 3, "batch_size": 9, **options})


def raised(function) -> str:
    try:
        function()
    except (fnn.InputError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


for name in networks.split(","):
    run = trained(name)
    leaves = jax.tree.leaves((run.params, run.state))
    say(
        network=name,
        metrics=run.history[-1].metrics,
        numbers=[number for leaf in leaves for number in np.asarray(leaf).ravel().tolist()],
    )

if processes > 1:
    reported = []

    def on_epoch(metrics, train_state):
        reported.append(metrics.epoch)
        return metrics.epoch == 2

    run = trained("mlp", epochs=5, on_epoch=on_epoch, checkpoints=f"{folder}/checkpoints")
    say(what="stopped", status=run.status, epochs=len(run.history), reported=reported)
    run = trained("mlp", epochs=5, checkpoints=f"{folder}/checkpoints")
    say(what="continued", restored=run.restored_epochs, last=run.history[-1].metrics)
    say(what="whole", last=trained("mlp", epochs=5).history[-1].metrics)
    say(what="other arguments", error=raised(lambda: trained("mlp", seed=number)))
    say(what="another run's folder", error=raised(lambda: trained("mlp", seed=1, checkpoints=f"{folder}/checkpoints")))

    def fail(metrics, train_state):
        raise fnn.InputError("on_epoch", "something else", metrics.epoch)

    say(what="failing callback", error=raised(lambda: trained("mlp", on_epoch=fail)))
