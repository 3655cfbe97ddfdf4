"""A run that logs its epochs, stops when it is good enough, and is continued later.

The two parts together have the bits of one run that never stopped. Prechelt 1998, "Early stopping, but when?".
"""

import jax
import numpy as np
import optax

import functional_nn as fnn


def main(quick=False):
    random = np.random.default_rng(0)
    x = random.normal(size=(1200, 8)).astype(np.float32)
    labels = (np.sin(2 * x[:, 0]) + x[:, 1] > 0).astype(int)
    data = fnn.data.Split(x[:1000], labels[:1000], x[1000:], labels[1000:])
    net, optimizer = fnn.chain(fnn.dense(64), fnn.tanh, fnn.dense(2)), optax.adam(1e-2)
    epochs = 20 if quick else 40
    log = []

    def on_epoch(metrics, train_state):
        log.append({"epoch": metrics.epoch, "loss": metrics.train_loss, "accuracy": metrics.test_accuracy})
        return metrics.test_accuracy > 0.9

    first = fnn.fit(net, fnn.cross_entropy, optimizer, data, epochs=epochs, on_epoch=on_epoch)
    print(f"{first.status} after {len(log)} epochs: {log[-1]}")
    rest = fnn.fit(net, fnn.cross_entropy, optimizer, data, epochs=epochs - len(log), start=first.train_state)
    whole = fnn.fit(net, fnn.cross_entropy, optimizer, data, epochs=epochs)
    equal = jax.tree.map(np.array_equal, rest.params, whole.params)
    print(f"continued: {rest.history[-1].test_accuracy:.3f}, in one run: {whole.history[-1].test_accuracy:.3f}")
    return {
        "epochs": len(log),
        "stopped_at": log[-1]["accuracy"],
        "accuracy": rest.history[-1].test_accuracy,
        "same_bits": all(jax.tree.leaves(equal)),
    }


if __name__ == "__main__":
    main()
