"""A network with several inputs and outputs: the class and the price of a house from a picture and a table.

The loss reports its two parts, and each output has a metric with a name. The data are made up. Caruana 1997, "Multitask
learning".
"""

import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def houses(random, count):
    """A picture of vertical or horizontal stripes, and a table of three numbers; the direction, and a price."""
    kind, table = random.integers(0, 2, count), random.normal(size=(count, 3))
    stripes = np.tile([1.0, -1.0], 4)[None, :, None, None] * np.ones((count, 8, 8, 1))
    picture = np.where(kind[:, None, None, None] == 0, stripes, stripes.swapaxes(1, 2))
    picture = picture + random.normal(0, 0.8, picture.shape)
    price = (1.0 + kind) * table[:, 0] + table[:, 1] * table[:, 2]
    inputs = {"picture": picture.astype(np.float32), "table": table.astype(np.float32)}
    return inputs, {"kind": kind, "price": price[:, None].astype(np.float32)}


def function(net, x):
    features = jnp.concatenate([net.picture(x["picture"]), net.table(x["table"])], axis=-1)
    features = net.both(features)
    return {"kind": net.kind(features), "price": net.price(features)}


def loss(y, labels):
    kind = fnn.cross_entropy(y["kind"], labels["kind"])
    price = fnn.mean_squared_error(y["price"], labels["price"])
    return kind + price, {"kind": kind, "price": price}


METRICS = {
    "accuracy": lambda y, labels: fnn.metrics.accuracy(y["kind"], labels["kind"]),
    "price_error": lambda y, labels: fnn.mean_absolute_error(y["price"], labels["price"]),
}


def main(quick=False):
    random = np.random.default_rng(0)
    children = {
        "picture": fnn.chain(fnn.conv(8, 3), fnn.relu, fnn.global_average_pool(), fnn.dense(16)),
        "table": fnn.dense(16),
        "both": fnn.chain(fnn.relu, fnn.dense(64), fnn.relu),
        "kind": fnn.dense(2),
        "price": fnn.dense(1),
    }
    net = fnn.compose(children, function)
    data = fnn.data.Split(*houses(random, 2048), *houses(random, 512))
    run = fnn.fit(net, loss, optax.adam(5e-3), data, epochs=8 if quick else 30, batch_size=32, metrics=METRICS)
    for name, value in run.history[-1].metrics.items():
        print(f"{name:16s} {value:.3f}")
    return dict(run.history[-1].metrics)


if __name__ == "__main__":
    main()
