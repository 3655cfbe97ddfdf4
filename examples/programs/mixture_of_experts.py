"""A mixture of experts: a gate decides for each example how much each expert counts.

The function to learn has four pieces, and the experts are linear. Jacobs, Jordan, Nowlan and Hinton 1991, "Adaptive
mixtures of local experts".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

EXPERTS = [f"expert_{number}" for number in range(4)]


def pieces(random, count):
    """A function that is linear in each quadrant of the plane, with another slope in each."""
    slopes = np.float32([[3, -1], [-2, 2], [1, 3], [-3, -2]])
    x = random.uniform(-1, 1, (count, 2)).astype(np.float32)
    quadrant = 2 * (x[:, 0] > 0) + (x[:, 1] > 0)
    return x, np.sum(slopes[quadrant] * x, axis=1, keepdims=True)


def mixture(net, x):
    """The experts' outputs, weighted by the gate; and the gate's weights."""
    gate = jax.nn.softmax(net.gate(x))
    outputs = jnp.concatenate([net[expert](x) for expert in EXPERTS], axis=-1)
    return jnp.sum(gate * outputs, axis=-1, keepdims=True), gate


def loss(y, labels):
    """The squared error, and how sure the gate is: the mean of its largest weight."""
    output, gate = y
    return fnn.mean_squared_error(output, labels), {"sure": jnp.mean(jnp.max(gate, axis=-1))}


def main(quick=False):
    random = np.random.default_rng(0)
    data = fnn.data.Split(*pieces(random, 2048), *pieces(random, 512))
    gate = fnn.chain(fnn.dense(32), fnn.tanh, fnn.dense(len(EXPERTS)))
    net = fnn.compose({"gate": gate, **{expert: fnn.dense(1) for expert in EXPERTS}}, mixture)
    epochs = 15 if quick else 100
    run = fnn.fit(net, loss, optax.adam(1e-2), data, epochs=epochs, batch_size=32)
    alone = fnn.fit(fnn.dense(1), fnn.mean_squared_error, optax.adam(1e-2), data, epochs=epochs, batch_size=32)
    metrics = run.history[-1].metrics
    print(f"squared error {metrics['test_loss']:.4f}, of one expert alone {alone.history[-1].test_loss:.4f}")
    return {"error": metrics["test_loss"], "alone": alone.history[-1].test_loss, "sure": metrics["test_sure"]}


if __name__ == "__main__":
    main()
