"""A hypernetwork that writes the weights of a small network, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree


def waves(random, count):
    """Height and phase of each wave, points on it, and the wave at these points."""
    wave = random.uniform((1.0, 0.0), (2.0, np.pi), (count, 2)).astype(np.float32)
    x = random.uniform(-3, 3, (count, 20, 1)).astype(np.float32)
    return wave, x, wave[:, :1, None] * np.sin(x + wave[:, 1:, None])


def main(quick=False):
    random, optimizer = np.random.default_rng(0), optax.adam(3e-3)
    key_small, key_hyper = jax.random.split(jax.random.key(0))
    arrays, static = eqx.partition(eqx.nn.MLP(1, 1, 16, 1, activation=jnp.tanh, key=key_small), eqx.is_array)
    weights, as_arrays = ravel_pytree(arrays)
    hyper = eqx.nn.MLP(2, weights.size, 64, 2, key=key_hyper)
    optimizer_state = optimizer.init(eqx.filter(hyper, eqx.is_array))

    def loss_of(hyper, wave, x, y):
        def of_one(wave, x):
            return jax.vmap(eqx.combine(as_arrays(hyper(wave)), static))(x)

        return jnp.mean((jax.vmap(of_one)(wave, x) - y) ** 2)

    @eqx.filter_jit
    def step(hyper, optimizer_state, wave, x, y):
        gradient = eqx.filter_grad(loss_of)(hyper, wave, x, y)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(hyper, updates), optimizer_state

    train, test = waves(random, 2048), waves(random, 256)
    for _ in range(10 if quick else 100):
        for rows in random.permutation(2048).reshape(-1, 32):
            hyper, optimizer_state = step(hyper, optimizer_state, *(array[rows] for array in train))
    error, variance = float(loss_of(hyper, *test)), float(test[2].var())
    print(f"squared error on new waves {error:.4f}, their variance {variance:.2f}")
    return {"error": error, "variance": variance}


if __name__ == "__main__":
    main()
