"""Differentially private training: each example's gradient is clipped, and noise is added to their sum.

Abadi et al. 2016, "Deep learning with differential privacy".
"""

import jax
import numpy as np
import optax

import functional_nn as fnn

LIMIT, NOISE = 1.0, 0.8


def private(objective, has_aux):
    """The gradient of a batch, in which no example has a norm above LIMIT, with noise."""

    def differentiate(params, state, x, labels, key):
        def of_one(x, label):
            return jax.value_and_grad(objective, has_aux=True)(params, state, x[None], label[None], key)

        (values, auxiliary), gradients = jax.vmap(of_one)(x, labels)
        clipped, _ = optax.per_example_global_norm_clip(gradients, LIMIT)
        noise = optax.tree.random_like(key, params)
        noisy = jax.tree.map(lambda total, z: (total + LIMIT * NOISE * z) / len(x), clipped, noise)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), (values, auxiliary)), noisy

    return differentiate


def main(quick=False):
    random = np.random.default_rng(0)
    labels = np.arange(2200) % 4
    x = (random.normal(size=(4, 10))[labels] + random.normal(0, 0.7, (2200, 10))).astype(np.float32)
    net = fnn.chain(fnn.dense(32), fnn.relu, fnn.dense(4))
    data = fnn.data.Split(x[:2000], labels[:2000], x[2000:], labels[2000:])
    epochs = 5 if quick else 20
    run = fnn.fit(net, fnn.cross_entropy, optax.sgd(0.5), data, epochs=epochs, batch_size=200, gradient=private)
    print(f"accuracy {run.history[-1].test_accuracy:.1%} on new examples")
    return {"accuracy": run.history[-1].test_accuracy}


if __name__ == "__main__":
    main()
