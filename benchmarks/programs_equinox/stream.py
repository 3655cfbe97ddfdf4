"""A stream of examples that are made while training runs, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def waves(random, count):
    frequencies = random.uniform(1, 5, (count, 1)).astype(np.float32)
    phases = random.uniform(0, 2 * np.pi, (count, 1))
    clean = np.sin(frequencies * np.linspace(0, 6, 64) + phases)
    return (clean + 0.3 * random.normal(size=clean.shape)).astype(np.float32), frequencies


def loss_of(model, x, labels):
    return jnp.mean(jnp.square(jax.vmap(model)(x) - labels))


def main(quick=False):
    test = waves(np.random.default_rng(0), 500)
    first, second, last = jax.random.split(jax.random.key(0), 3)
    relu = eqx.nn.Lambda(jax.nn.relu)
    layers = [eqx.nn.Linear(64, 128, key=first), relu, eqx.nn.Linear(128, 64, key=second), relu]
    model = eqx.nn.Sequential([*layers, eqx.nn.Linear(64, 1, key=last)])
    optimizer = optax.adam(2e-3)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, optimizer_state, x, labels):
        gradient = eqx.filter_grad(loss_of)(model, x, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for epoch in range(1, (3 if quick else 20) + 1):
        random = np.random.default_rng(epoch)
        for _ in range(200):
            model, optimizer_state = step(model, optimizer_state, *waves(random, 128))
    error = float(loss_of(model, *test))
    print(f"mean squared error {error:.3f}, variance {test[1].var():.3f}")
    return {"error": error, "variance": float(test[1].var())}


if __name__ == "__main__":
    main()
