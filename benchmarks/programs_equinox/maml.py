"""Model-agnostic meta-learning of sine waves, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

INNER_RATE = 0.05


def tasks(key, count, points=10):
    """Sine waves of random height and phase: points to adapt to, and other points of the same waves."""
    key_height, key_phase, key_x = jax.random.split(key, 3)
    height = jax.random.uniform(key_height, (count, 1, 1), minval=1.0, maxval=3.0)
    phase = jax.random.uniform(key_phase, (count, 1, 1), maxval=jnp.pi)
    x = jax.random.uniform(key_x, (count, 2 * points, 1), minval=-3.0, maxval=3.0)
    y = height * jnp.sin(x + phase)
    return (x[:, :points], y[:, :points]), (x[:, points:], y[:, points:])


def loss(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def adapted(model, x, y):
    updates = jax.tree.map(lambda bar: -INNER_RATE * bar, eqx.filter_grad(loss)(model, x, y))
    return eqx.apply_updates(model, updates)


def loss_after_step(model, batch):
    def of_task(given, new):
        return loss(adapted(model, *given), *new)

    return jnp.mean(jax.vmap(of_task)(*batch))


def main(quick=False):
    model = eqx.nn.MLP(1, 1, 32, 2, activation=jnp.tanh, key=jax.random.key(0))
    optimizer = optax.adam(3e-3)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, optimizer_state, key):
        gradient = eqx.filter_grad(loss_after_step)(model, tasks(key, 16))
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for key in jax.random.split(jax.random.key(1), 300 if quick else 5000):
        model, optimizer_state = step(model, optimizer_state, key)
    given, new = tasks(jax.random.key(2), 500)
    before = jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0))(model, *new))
    after = loss_after_step(model, (given, new))
    print(f"squared error on new waves: {before:.2f} before one gradient step, {after:.2f} after it")
    return {"before": float(before), "after": float(after)}


if __name__ == "__main__":
    main()
