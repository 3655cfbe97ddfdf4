"""A neural ordinary differential equation learns the motion of a damped pendulum from its path.

The equation is solved by Runge-Kutta steps in a scan. Chen et al. 2018, "Neural ordinary differential equations".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

TIME_STEP, STEPS = 0.1, 20


def solve(velocity, start):
    """The path of dz/dt = velocity(z) by the classical Runge-Kutta method of fourth order, (batch, time, 2)."""

    def step(z, _):
        k1 = velocity(z)
        k2 = velocity(z + TIME_STEP / 2 * k1)
        k3 = velocity(z + TIME_STEP / 2 * k2)
        k4 = velocity(z + TIME_STEP * k3)
        z = z + TIME_STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z, z

    return jnp.swapaxes(jax.lax.scan(step, start, length=STEPS)[1], 0, 1)


def pendulum(z):
    angle, speed = jnp.split(z, 2, axis=-1)
    return jnp.concatenate([speed, -2 * jnp.sin(angle) - 0.3 * speed], axis=-1)


def solved(field):
    """The layer from a start to the path of the equation dz/dt = field(z)."""

    def forward(params, state, start, *, train, key=None):
        return solve(lambda z: field.apply(params, {}, z, train=train)[0], start), state, ()

    return fnn.Layer("solved", field.init, forward)


def main(quick=False):
    starts = np.random.default_rng(0).uniform(-1.5, 1.5, (600, 2)).astype(np.float32)
    paths = np.asarray(solve(pendulum, starts))
    net = solved(fnn.chain(fnn.dense(32), fnn.tanh, fnn.dense(2)))
    data = fnn.data.Split(starts[:512], paths[:512], starts[512:], paths[512:])
    run = fnn.fit(net, fnn.mean_squared_error, optax.adam(1e-2), data, epochs=20 if quick else 100, batch_size=32)
    print(f"mean squared error of new paths: {run.history[-1].test_loss:.1e}, their variance: {paths[512:].var():.1e}")
    return {"error": run.history[-1].test_loss, "variance": float(paths[512:].var())}


if __name__ == "__main__":
    main()
