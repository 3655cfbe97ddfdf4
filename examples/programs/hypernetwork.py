"""A hypernetwork writes the weights of a small network: one for each sine wave, from its height and phase.

Ha, Dai and Le 2016, "HyperNetworks".
"""

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import functional_nn as fnn


def waves(random, count):
    """Height and phase of each wave with points on it, and the wave at these points."""
    wave = random.uniform((1.0, 0.0), (2.0, np.pi), (count, 2)).astype(np.float32)
    x = random.uniform(-3, 3, (count, 20, 1)).astype(np.float32)
    return {"wave": wave, "x": x}, wave[:, :1, None] * np.sin(x + wave[:, 1:, None])


def main(quick=False):
    random = np.random.default_rng(0)
    small = fnn.chain(fnn.dense(16), fnn.tanh, fnn.dense(1))
    weights, as_params = ravel_pytree(small.init(jax.random.key(0), (1,))[0])

    def function(net, inputs):
        def of_one(weights, x):
            return small.apply(as_params(weights), {}, x, train=True)[0]

        return jax.vmap(of_one)(net.hyper(inputs["wave"]), inputs["x"])

    hyper = fnn.chain(fnn.dense(64), fnn.relu, fnn.dense(64), fnn.relu, fnn.dense(weights.size))
    net = fnn.compose({"hyper": hyper}, function)
    (train, train_y), (test, test_y) = waves(random, 2048), waves(random, 256)
    data = fnn.data.Split(train, train_y, test, test_y)
    run = fnn.fit(net, fnn.mean_squared_error, optax.adam(3e-3), data, epochs=10 if quick else 100, batch_size=32)
    print(f"squared error on new waves {run.history[-1].test_loss:.4f}, their variance {test_y.var():.2f}")
    return {"error": run.history[-1].test_loss, "variance": float(test_y.var())}


if __name__ == "__main__":
    main()
