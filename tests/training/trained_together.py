"""Trains in one of several processes, and prints what it got as JSON lines: a script of ``test_processes.py``.

``python trained_together.py PORT PROCESSES NUMBER FOLDER NETWORKS``, with NETWORKS such as ``lstm,stream``. With one
process, nothing is started.
"""

import json
import sys

import jax
import numpy as np
import optax

import functional_nn as fnn

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


SLOW = optax.sgd(0.1)


def output_of(train_state: fnn.training.TrainState) -> list[int]:
    """The shape of what a callback computes, in the first process alone."""
    net, x = NETWORKS["mlp"]
    return list(net.apply(train_state.params, train_state.state, x, train=False)[0].shape)


def trained(name: str, optimizer: optax.GradientTransformation = SLOW, **options: object) -> fnn.training.Run:
    net, x = NETWORKS[name]
    first = jax.tree.map(lambda array: array[:9], x)
    data = fnn.data.Split(x, labels, first, labels[:9])
    return fnn.fit(net, fnn.cross_entropy, optimizer, data, **{"epochs": 3, "batch_size": 9, **options})


def streamed(processes: int, number: int, batches: int = 4, broken_after: int = 9) -> fnn.training.Run:
    """On a stream of batches of 12 examples, of which each process reads its own rows."""
    share = slice(number * 12 // processes, (number + 1) * 12 // processes)

    def read(epoch):
        for batch in range(batches):
            if batch == broken_after:
                raise OSError("the disk is gone")
            rows = np.random.default_rng((epoch, batch)).integers(0, 47, 12)[share]
            yield vectors[rows], labels[rows]

    stream = fnn.data.Stream(read, test_x=vectors, test_labels=labels)
    return fnn.fit(NETWORKS["mlp"][0], fnn.cross_entropy, optax.sgd(0.1), stream, epochs=3)


def streamed_test(number: int, batches: int = 2, broken_after: int = 9) -> fnn.training.Run:
    """On a stream of one batch, of which each process reads six examples, with a stream of test examples."""

    def read():
        for batch in range(batches):
            if batch == broken_after:
                raise OSError("the disk is gone")
            yield vectors[:12], labels[:12]

    share = slice(number * 6, number * 6 + 6)
    stream = fnn.data.Stream([(vectors[share], labels[share])], test=read)
    return fnn.fit(NETWORKS["mlp"][0], fnn.cross_entropy, optax.sgd(0.1), stream, epochs=1)


def raised(function) -> str:
    try:
        function()
    except (fnn.InputError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(port: str, processes: int, number: int, folder: str, networks: str) -> None:
    if processes > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}",
            num_processes=processes,
            process_id=number,
            heartbeat_timeout_seconds=20,
            shutdown_timeout_seconds=20,
        )
    for name in networks.split(","):
        run = streamed(processes, number) if name == "stream" else trained(name)
        leaves = jax.tree.leaves((run.params, run.state))
        say(
            network=name,
            metrics=run.history[-1].metrics,
            numbers=[number for leaf in leaves for number in np.asarray(leaf).ravel().tolist()],
        )
    if processes > 1:
        check_agreement(processes, number, folder)


def check_agreement(processes: int, number: int, folder: str) -> None:
    """Prints how runs end that are stopped, continued, or not the same in all processes."""
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
    say(what="other optimizer", error=raised(lambda: trained("mlp", optimizer=optax.sgd(0.1 + number))))
    outputs = []
    small = {"optimizer": optax.adam(0.1, mu_dtype="bfloat16"), "checkpoints": f"{folder}/small"}
    trained("mlp", epochs=1, on_epoch=lambda metrics, state: outputs.append(output_of(state)), **small)
    say(what="restored in 16 bits", epochs=trained("mlp", epochs=2, **small).restored_epochs, outputs=outputs)
    say(what="another run's folder", error=raised(lambda: trained("mlp", seed=1, checkpoints=f"{folder}/checkpoints")))

    say(what="shorter stream", error=raised(lambda: streamed(processes, number, 4 - number)))
    say(what="no stream", error=raised(lambda: streamed(processes, number, 4, 0 if number else 9)))
    say(what="broken stream", error=raised(lambda: streamed(processes, number, 4, 2 if number else 9)))
    say(what="shorter test stream", error=raised(lambda: streamed_test(number, 3 - number)))
    say(what="broken test stream", error=raised(lambda: streamed_test(number, 2, 1 if number else 9)))

    def fail(metrics, train_state):
        raise fnn.InputError("on_epoch", "something else", metrics.epoch)

    say(what="failing callback", error=raised(lambda: trained("mlp", on_epoch=fail)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
