"""Differentially private training, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

LIMIT, NOISE = 1.0, 0.8


def loss_of(model, x, label):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), label)


def private_gradient(model, x, labels, key):
    """The gradient of a batch, in which no example has a norm above LIMIT, with noise."""
    gradients = jax.vmap(eqx.filter_grad(loss_of), in_axes=(None, 0, 0))(model, x, labels)
    clipped, _ = optax.per_example_global_norm_clip(gradients, LIMIT)
    noise = optax.tree.random_like(key, clipped)
    return jax.tree.map(lambda total, z: (total + LIMIT * NOISE * z) / len(x), clipped, noise)


def main(quick=False):
    random = np.random.default_rng(0)
    labels = np.arange(2200) % 4
    x = (random.normal(size=(4, 10))[labels] + random.normal(0, 0.7, (2200, 10))).astype(np.float32)
    key, key_model = jax.random.split(jax.random.key(0))
    model, optimizer = eqx.nn.MLP(10, 4, 32, 1, key=key_model), optax.sgd(0.5)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, optimizer_state, x, labels, key):
        gradient = private_gradient(model, x, labels, key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for _ in range(5 if quick else 20):
        for rows in random.permutation(2000).reshape(-1, 200):
            key, key_step = jax.random.split(key)
            model, optimizer_state = step(model, optimizer_state, x[rows], labels[rows], key_step)
    accuracy = float(jnp.mean(jax.vmap(model)(x[2000:]).argmax(axis=-1) == labels[2000:]))
    print(f"accuracy {accuracy:.1%} on new examples")
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main()
