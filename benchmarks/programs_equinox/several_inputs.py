"""A network with several inputs and outputs, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def houses(random, count):
    """A picture of vertical or horizontal stripes, and a table of three numbers; the direction, and a price."""
    kind, table = random.integers(0, 2, count), random.normal(size=(count, 3))
    stripes = np.tile([1.0, -1.0], 4)[None, None, :, None] * np.ones((count, 1, 8, 8))
    picture = np.where(kind[:, None, None, None] == 0, stripes, stripes.swapaxes(2, 3))
    picture = picture + random.normal(0, 0.8, picture.shape)
    price = (1.0 + kind) * table[:, 0] + table[:, 1] * table[:, 2]
    inputs = {"picture": picture.astype(np.float32), "table": table.astype(np.float32)}
    return inputs, {"kind": kind, "price": price[:, None].astype(np.float32)}


class Network(eqx.Module):
    conv: eqx.nn.Conv2d
    picture: eqx.nn.Linear
    table: eqx.nn.Linear
    both: eqx.nn.Linear
    kind: eqx.nn.Linear
    price: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 6)
        self.conv = eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0])
        self.picture = eqx.nn.Linear(8, 16, key=keys[1])
        self.table = eqx.nn.Linear(3, 16, key=keys[2])
        self.both = eqx.nn.Linear(32, 64, key=keys[3])
        self.kind = eqx.nn.Linear(64, 2, key=keys[4])
        self.price = eqx.nn.Linear(64, 1, key=keys[5])

    def __call__(self, x):
        pooled = jax.nn.relu(self.conv(x["picture"])).mean(axis=(1, 2))
        features = jnp.concatenate([self.picture(pooled), self.table(x["table"])])
        features = jax.nn.relu(self.both(jax.nn.relu(features)))
        return {"kind": self.kind(features), "price": self.price(features)}


def loss_of(model, x, labels):
    y = jax.vmap(model)(x)
    kind = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(y["kind"], labels["kind"]))
    price = jnp.mean((y["price"] - labels["price"]) ** 2)
    return kind + price, {"kind": kind, "price": price}


@eqx.filter_jit
def evaluate(model, x, labels):
    y = jax.vmap(model)(x)
    loss, parts = loss_of(model, x, labels)
    accuracy = jnp.mean(y["kind"].argmax(axis=-1) == labels["kind"])
    price_error = jnp.mean(jnp.abs(y["price"] - labels["price"]))
    return {"loss": loss, "accuracy": accuracy, "price_error": price_error, **parts}


def main(quick=False):
    random = np.random.default_rng(0)
    model, optimizer = Network(jax.random.key(0)), optax.adam(5e-3)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))
    train, test = houses(random, 2048), houses(random, 512)

    @eqx.filter_jit
    def step(model, optimizer_state, x, labels):
        (loss, parts), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(model, x, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state, {"loss": loss, **parts}

    for _ in range(8 if quick else 30):
        reports = []
        for rows in random.permutation(2048).reshape(-1, 32):
            batch = jax.tree.map(lambda array: array[rows], train)  # noqa: B023
            model, optimizer_state, report = step(model, optimizer_state, *batch)
            reports.append(report)
        metrics = {f"train_{name}": float(np.mean([report[name] for report in reports])) for name in reports[0]}
        metrics |= {f"test_{name}": float(value) for name, value in evaluate(model, *test).items()}
    for name, value in metrics.items():
        print(f"{name:16s} {value:.3f}")
    return metrics


if __name__ == "__main__":
    main()
