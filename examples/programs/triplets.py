"""A siamese network with the triplet loss: examples of one class get embeddings that are close together.

Schroff, Kalenichenko and Philbin 2015, "FaceNet: a unified embedding for face recognition and clustering".
"""

import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def triplets(random, count):
    """Points on three noisy rings. Anchor and positive are on one ring, and the negative is on another."""
    ring = random.integers(0, 3, count)
    radius = 1.0 + np.stack([ring, ring, (ring + random.integers(1, 3, count)) % 3])
    angle = random.uniform(0, 2 * np.pi, (3, count))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1) + random.normal(0, 0.1, (3, count, 2))
    return dict(zip(("anchor", "positive", "negative"), points.astype(np.float32), strict=True))


def distances(net, x):
    anchor, positive, negative = (net.encoder(x[name]) for name in ("anchor", "positive", "negative"))
    return jnp.sum((anchor - positive) ** 2, axis=-1), jnp.sum((anchor - negative) ** 2, axis=-1)


def triplet_loss(y, labels):
    to_positive, to_negative = y
    return jnp.mean(jnp.maximum(to_positive - to_negative + 1.0, 0.0))


def right(y, labels):
    return jnp.mean(y[0] < y[1])


def main(quick=False):
    random = np.random.default_rng(0)
    encoder = fnn.chain(fnn.dense(64), fnn.relu, fnn.dense(64), fnn.relu, fnn.dense(2))
    net = fnn.compose({"encoder": encoder}, distances)
    train, test = triplets(random, 4096), triplets(random, 1024)
    data = fnn.data.Split(train, np.zeros(4096), test, np.zeros(1024))
    run = fnn.fit(net, triplet_loss, optax.adam(3e-3), data, epochs=5 if quick else 20, metrics={"right": right})
    metrics = run.history[-1].metrics
    print(f"triplet loss {metrics['test_loss']:.3f}, {metrics['test_right']:.1%} of the triplets are right")
    return {"loss": metrics["test_loss"], "right": metrics["test_right"]}


if __name__ == "__main__":
    main()
