"""Model-agnostic meta-learning: parameters from which one gradient step fits a new sine wave.

The gradient goes through the inner gradient step, so it has second derivatives. Finn, Abbeel and Levine 2017,
"Model-agnostic meta-learning for fast adaptation of deep networks".
"""

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn

INNER_RATE = 0.05


def tasks(key, count, points=10):
    """Sine waves of random height and phase: points to adapt to, and other points of the same waves."""
    key_height, key_phase, key_x = jax.random.split(key, 3)
    height = jax.random.uniform(key_height, (count, 1, 1), minval=1.0, maxval=3.0)
    phase = jax.random.uniform(key_phase, (count, 1, 1), maxval=jnp.pi)
    x = jax.random.uniform(key_x, (count, 2 * points, 1), minval=-3.0, maxval=3.0)
    y = height * jnp.sin(x + phase)
    return (x[:, :points], y[:, :points]), (x[:, points:], y[:, points:])


def main(quick=False):
    net = fnn.chain(fnn.dense(32), fnn.tanh, fnn.dense(32), fnn.tanh, fnn.dense(1))
    optimizer = optax.adam(3e-3)

    def loss(params, x, y):
        return fnn.mean_squared_error(net.apply(params, {}, x, train=True)[0], y)

    def adapted(params, x, y):
        return jax.tree.map(lambda leaf, bar: leaf - INNER_RATE * bar, params, jax.grad(loss)(params, x, y))

    def loss_after_step(params, batch):
        def of_task(given, new):
            return loss(adapted(params, *given), *new)

        return jnp.mean(jax.vmap(of_task)(*batch))

    def step(train_state, key):
        gradient = jax.grad(loss_after_step)(train_state.params, tasks(key, 16))
        return train_state.apply_gradient(gradient, optimizer), None

    train_state = fnn.training.create_train_state(net, optimizer, jax.random.key(0), (1,))
    keys = jax.random.split(jax.random.key(1), 300 if quick else 5000)
    train_state, _ = jax.lax.scan(step, train_state, keys)
    given, new = tasks(jax.random.key(2), 500)
    before = jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0))(train_state.params, *new))
    after = loss_after_step(train_state.params, (given, new))
    print(f"squared error on new waves: {before:.2f} before one gradient step, {after:.2f} after it")
    return {"before": float(before), "after": float(after)}


if __name__ == "__main__":
    main()
