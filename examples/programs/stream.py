"""A stream of examples that are made while training runs: a network finds the frequency of a noisy wave.

Every example is new, so the network cannot overfit, and the data set has no fixed size.
"""

import numpy as np
import optax

import functional_nn as fnn


def waves(random, count):
    frequencies = random.uniform(1, 5, (count, 1)).astype(np.float32)
    phases = random.uniform(0, 2 * np.pi, (count, 1))
    clean = np.sin(frequencies * np.linspace(0, 6, 64) + phases)
    return (clean + 0.3 * random.normal(size=clean.shape)).astype(np.float32), frequencies


def main(quick=False):
    def batches(epoch):
        random = np.random.default_rng(epoch)
        for _ in range(200):
            yield waves(random, 128)

    test = waves(np.random.default_rng(0), 500)
    net = fnn.chain(fnn.dense(128), fnn.relu, fnn.dense(64), fnn.relu, fnn.dense(1))
    stream = fnn.data.Stream(batches, test_x=test[0], test_labels=test[1])
    run = fnn.fit(net, fnn.mean_squared_error, optax.adam(2e-3), stream, epochs=3 if quick else 20)
    print(f"mean squared error {run.history[-1].test_loss:.3f}, variance {test[1].var():.3f}")
    return {"error": run.history[-1].test_loss, "variance": float(test[1].var())}


if __name__ == "__main__":
    main()
