"""Low-rank adaptation of a trained network, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def points(random, count, turn):
    """Points on two spiral arms, turned by an angle, and the arm of each."""
    labels, radius = random.integers(0, 2, count), random.uniform(0.3, 2.0, count)
    angle = 2 * radius + np.pi * labels + turn
    x = radius * np.stack([np.cos(angle), np.sin(angle)]) + random.normal(0, 0.05, (2, count))
    return x.T.astype(np.float32), labels


class WithAddition(eqx.Module):
    """A linear layer with W + A B in place of its weight W."""

    linear: eqx.nn.Linear
    a: jax.Array
    b: jax.Array

    def __init__(self, linear, rank, key):
        self.linear = linear
        self.a = jax.random.normal(key, (rank, linear.in_features))
        self.b = jnp.zeros((linear.out_features, rank))

    def __call__(self, x, key=None):
        return self.linear(x) + self.b @ (self.a @ x) / len(self.a)


def with_additions(model, rank, key):
    """The model with additions, and a tree that is True for the additions only."""
    keys = jax.random.split(key, len(model.layers))
    layers = tuple(WithAddition(layer, rank, key) for layer, key in zip(model.layers, keys, strict=True))
    model = eqx.tree_at(lambda model: model.layers, model, layers)
    none = jax.tree.map(lambda _: False, model)
    added = lambda tree: [part for layer in tree.layers for part in (layer.a, layer.b)]  # noqa: E731
    return model, eqx.tree_at(added, none, replace_fn=lambda _: True)


def accuracy(model, x, labels):
    return float(jnp.mean(jax.vmap(model)(x).argmax(axis=-1) == labels))


def fit(model, trained, x, labels, optimizer, epochs, random):
    """The model after training the part that is marked in the tree ``trained``, and the size of this part."""
    chosen, rest = eqx.partition(model, trained)
    optimizer_state = optimizer.init(chosen)

    def loss_of(chosen, rest, x, labels):
        logits = jax.vmap(eqx.combine(chosen, rest))(x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @eqx.filter_jit
    def step(chosen, rest, optimizer_state, x, labels):
        gradient = eqx.filter_grad(loss_of)(chosen, rest, x, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(chosen, updates), optimizer_state

    for _ in range(epochs):
        for rows in random.permutation(len(x)).reshape(-1, 64):
            chosen, optimizer_state = step(chosen, rest, optimizer_state, x[rows], labels[rows])
    return eqx.combine(chosen, rest), sum(leaf.size for leaf in jax.tree.leaves(chosen))


def main(quick=False):
    random, optimizer = np.random.default_rng(0), optax.adam(1e-2)
    epochs = 10 if quick else 40
    key, key_added = jax.random.split(jax.random.key(0))
    model = eqx.nn.MLP(2, 2, 64, 2, key=key)
    old, new, test = points(random, 1024, turn=0.0), points(random, 1024, turn=1.0), points(random, 512, turn=1.0)
    model, size = fit(model, eqx.is_array, *old, optimizer, epochs, random)
    before = accuracy(model, *test)
    adapted, added = fit(*with_additions(model, 2, key_added), *new, optimizer, epochs, random)
    after = accuracy(adapted, *test)
    print(f"{added} numbers added to {size}: {before:.1%} before, {after:.1%} after")
    return {"before": before, "after": after, "share": added / size}


if __name__ == "__main__":
    main()
