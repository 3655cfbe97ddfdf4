"""A calibrated ensemble: networks from several seeds, with a temperature chosen on validation examples.

Lakshminarayanan, Pritzel and Blundell 2017, "Simple and scalable predictive uncertainty estimation using deep
ensembles"; Guo et al. 2017, "On calibration of modern neural networks".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def rings(random, count):
    """Points on three rings with so much noise that the rings overlap."""
    labels, angle = random.integers(0, 3, count), random.uniform(0, 2 * np.pi, count)
    points = (1.0 + labels) * np.stack([np.cos(angle), np.sin(angle)])
    return (points.T + random.normal(0, 0.4, (count, 2))).astype(np.float32), labels


def best_temperature(logits, labels):
    temperatures = jnp.geomspace(0.25, 8.0, 101)
    losses = jax.vmap(lambda temperature: fnn.cross_entropy(logits / temperature, labels))(temperatures)
    return temperatures[jnp.argmin(losses)]


def main(quick=False):
    random = np.random.default_rng(0)
    (train_x, train_labels), (kept_x, kept_labels), (x, labels) = (rings(random, n) for n in (300, 1000, 2000))
    net = fnn.chain(fnn.dense(64), fnn.relu, fnn.dense(64), fnn.relu, fnn.dense(3))
    data = fnn.data.Split(train_x, train_labels, kept_x, kept_labels)
    members = fnn.grid(seed=range(3 if quick else 8))
    epochs = 15 if quick else 60
    results = fnn.sweep(net, optax.adam(1e-2), members, data, epochs=epochs, batch_size=60)

    # The logarithms of the mean probabilities are the logits of the ensemble.
    logits = jnp.log(fnn.sweeps.ensemble_probabilities(results, x))
    temperature = best_temperature(jnp.log(fnn.sweeps.ensemble_probabilities(results, kept_x)), kept_labels)
    first = results.members[0]
    alone = net.apply(first.params, first.state, x, train=False)[0]
    figures = {}
    for name, y in (("one", alone), ("ensemble", logits), ("calibrated", logits / temperature)):
        figures[name] = float(fnn.metrics.calibration_error(y, labels))
        figures[f"{name}_loss"] = float(fnn.cross_entropy(y, labels))
        print(f"{name:10s} calibration error {figures[name]:.3f}, cross-entropy {figures[f'{name}_loss']:.3f}")
    return figures | {"temperature": float(temperature)}


if __name__ == "__main__":
    main()
