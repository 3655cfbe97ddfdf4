"""A neural ordinary differential equation for a damped pendulum, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

TIME_STEP, STEPS = 0.1, 20


def solve(velocity, start):
    """The path of dz/dt = velocity(z) by the classical Runge-Kutta method of fourth order, (time, 2)."""

    def step(z, _):
        k1 = velocity(z)
        k2 = velocity(z + TIME_STEP / 2 * k1)
        k3 = velocity(z + TIME_STEP / 2 * k2)
        k4 = velocity(z + TIME_STEP * k3)
        z = z + TIME_STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z, z

    return jax.lax.scan(step, start, length=STEPS)[1]


def pendulum(z):
    angle, speed = z
    return jnp.stack([speed, -2 * jnp.sin(angle) - 0.3 * speed])


class Solved(eqx.Module):
    field: eqx.nn.MLP

    def __call__(self, start):
        return solve(self.field, start)


def loss_of(model, starts, paths):
    return jnp.mean((jax.vmap(model)(starts) - paths) ** 2)


def main(quick=False):
    random = np.random.default_rng(0)
    starts = random.uniform(-1.5, 1.5, (600, 2)).astype(np.float32)
    paths = np.asarray(jax.vmap(lambda start: solve(pendulum, start))(starts))
    model = Solved(eqx.nn.MLP(2, 2, 32, 1, activation=jnp.tanh, key=jax.random.key(0)))
    optimizer = optax.adam(1e-2)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, optimizer_state, starts, paths):
        gradient = eqx.filter_grad(loss_of)(model, starts, paths)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for _ in range(20 if quick else 100):
        for rows in random.permutation(512).reshape(-1, 32):
            model, optimizer_state = step(model, optimizer_state, starts[rows], paths[rows])
    error, variance = float(loss_of(model, starts[512:], paths[512:])), float(paths[512:].var())
    print(f"mean squared error of new paths: {error:.1e}, their variance: {variance:.1e}")
    return {"error": error, "variance": variance}


if __name__ == "__main__":
    main()
