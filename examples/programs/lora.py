"""Low-rank adaptation: a trained network learns a new task by small additions to its weights.

The trained weights W stay as they are, and W + A B is used, where A and B are thin matrices that are trained. Hu et al.
2021, "LoRA: low-rank adaptation of large language models".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def points(random, count, turn):
    """Points on two spiral arms, turned by an angle, and the arm of each."""
    labels, radius = random.integers(0, 2, count), random.uniform(0.3, 2.0, count)
    angle = 2 * radius + np.pi * labels + turn
    x = radius * np.stack([np.cos(angle), np.sin(angle)]) + random.normal(0, 0.05, (2, count))
    return x.T.astype(np.float32), labels


def with_additions(net, params, rank):
    """The network with W + A B in place of each weight W of its trained parameters. Only A and B are trained."""
    weights = {path: leaf for path, leaf in fnn.trees.flatten(params).items() if path.endswith("weight")}

    def init(key, in_shape):
        additions = {}
        for path, weight in weights.items():
            key, key_a = jax.random.split(key)
            rows, columns = weight.shape
            additions[f"{path}/a"] = jax.random.normal(key_a, (rows, rank))
            additions[f"{path}/b"] = jnp.zeros((rank, columns))
        return fnn.trees.unflatten(additions), {}

    def forward(additions, state, x, *, train, key=None):
        added = fnn.trees.flatten(additions)
        sums = {path: w + added[f"{path}/a"] @ added[f"{path}/b"] / rank for path, w in weights.items()}
        y, state = net.apply(fnn.trees.replace(params, sums), state, x, train=train)
        return y, state, ()

    return fnn.Layer("additions", init, forward)


def main(quick=False):
    random, optimizer = np.random.default_rng(0), optax.adam(1e-2)
    epochs = 10 if quick else 40
    net = fnn.chain(fnn.dense(64), fnn.relu, fnn.dense(64), fnn.relu, fnn.dense(2))
    old = fnn.data.Split(*points(random, 1024, turn=0.0), *points(random, 512, turn=0.0))
    new = fnn.data.Split(*points(random, 1024, turn=1.0), *points(random, 512, turn=1.0))
    trained = fnn.fit(net, fnn.cross_entropy, optimizer, old, epochs=epochs)
    before = fnn.training.make_evaluate(net, fnn.cross_entropy)(trained.train_state, new.test_x, new.test_labels)
    adapted = fnn.fit(with_additions(net, trained.params, rank=2), fnn.cross_entropy, optimizer, new, epochs=epochs)
    sizes = fnn.trees.size(adapted.params), fnn.trees.size(trained.params)
    after = adapted.history[-1].test_accuracy
    print(f"{sizes[0]} numbers added to {sizes[1]}: {float(before.accuracy):.1%} before, {after:.1%} after")
    return {"before": float(before.accuracy), "after": after, "share": sizes[0] / sizes[1]}


if __name__ == "__main__":
    main()
