"""A mixture of experts, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def pieces(random, count):
    """A function that is linear in each quadrant of the plane, with another slope in each."""
    slopes = np.float32([[3, -1], [-2, 2], [1, 3], [-3, -2]])
    x = random.uniform(-1, 1, (count, 2)).astype(np.float32)
    quadrant = 2 * (x[:, 0] > 0) + (x[:, 1] > 0)
    return x, np.sum(slopes[quadrant] * x, axis=1, keepdims=True)


class Mixture(eqx.Module):
    gate: eqx.nn.MLP
    experts: list[eqx.nn.Linear]

    def __init__(self, count, key):
        key, *keys = jax.random.split(key, 1 + count)
        self.gate = eqx.nn.MLP(2, count, 32, 1, activation=jnp.tanh, key=key)
        self.experts = [eqx.nn.Linear(2, 1, key=key) for key in keys]

    def __call__(self, x):
        """The experts' outputs, weighted by the gate; and the gate's weights."""
        gate = jax.nn.softmax(self.gate(x))
        outputs = jnp.concatenate([expert(x) for expert in self.experts])
        return jnp.sum(gate * outputs, keepdims=True), gate


def loss_of(model, x, labels):
    """The squared error, and how sure the gate is: the mean of its largest weight."""
    output, gate = jax.vmap(model)(x)
    return jnp.mean((output - labels) ** 2), {"sure": jnp.mean(jnp.max(gate, axis=-1))}


def fit(model, x, labels, epochs, random):
    optimizer = optax.adam(1e-2)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, optimizer_state, x, labels):
        gradient, _ = eqx.filter_grad(loss_of, has_aux=True)(model, x, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for _ in range(epochs):
        for rows in random.permutation(len(x)).reshape(-1, 32):
            model, optimizer_state = step(model, optimizer_state, x[rows], labels[rows])
    return model


def main(quick=False):
    random = np.random.default_rng(0)
    epochs = 15 if quick else 100
    (x, labels), test = pieces(random, 2048), pieces(random, 512)
    key, key_alone = jax.random.split(jax.random.key(0))
    model = fit(Mixture(4, key), x, labels, epochs, random)
    alone = fit(Mixture(1, key_alone), x, labels, epochs, random)
    error, reports = loss_of(model, *test)
    error_alone, _ = loss_of(alone, *test)
    print(f"squared error {error:.4f}, of one expert alone {error_alone:.4f}")
    return {"error": float(error), "alone": float(error_alone), "sure": float(reports["sure"])}


if __name__ == "__main__":
    main()
