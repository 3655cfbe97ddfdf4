"""A generative adversarial network, with Equinox and Optax: two networks and two optimizers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

MEAN, DEVIATION = jnp.array([2.0, -1.0]), jnp.array([0.5, 1.0])
BATCH = (128, 2)


def critic_loss(critic, real, fake):
    return jnp.mean(jax.nn.softplus(-jax.vmap(critic)(real)) + jax.nn.softplus(jax.vmap(critic)(fake)))


def generator_loss(generator, critic, noise):
    return jnp.mean(jax.nn.softplus(-jax.vmap(critic)(jax.vmap(generator)(noise))))


def main(quick=False):
    keys = jax.random.split(jax.random.key(0), 3)
    generator = eqx.nn.MLP(2, 2, 16, 1, activation=jnp.tanh, key=keys[0])
    critic = eqx.nn.MLP(2, 1, 32, 2, key=keys[1])
    optimizer, critic_optimizer = optax.adam(2e-3, b1=0.5), optax.adam(4e-3, b1=0.5)
    optimizer_state = optimizer.init(eqx.filter(generator, eqx.is_array))
    critic_state = critic_optimizer.init(eqx.filter(critic, eqx.is_array))

    @eqx.filter_jit
    def step(generator, critic, optimizer_state, critic_state, key):
        key_real, key_noise = jax.random.split(key)
        real = MEAN + DEVIATION * jax.random.normal(key_real, BATCH)
        noise = jax.random.normal(key_noise, BATCH)
        gradient = eqx.filter_grad(critic_loss)(critic, real, jax.vmap(generator)(noise))
        updates, critic_state = critic_optimizer.update(gradient, critic_state)
        critic = eqx.apply_updates(critic, updates)
        gradient = eqx.filter_grad(generator_loss)(generator, critic, noise)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(generator, updates), critic, optimizer_state, critic_state

    for key in jax.random.split(keys[2], 800 if quick else 4000):
        generator, critic, optimizer_state, critic_state = step(generator, critic, optimizer_state, critic_state, key)
    points = jax.vmap(generator)(jax.random.normal(jax.random.key(1), (2000, 2)))
    error = jnp.abs(points.mean(axis=0) - MEAN).max()
    print(f"mean {points.mean(axis=0)} and standard deviation {points.std(axis=0)} of the points drawn")
    return {"error_of_mean": float(error), "error_of_deviation": float(jnp.abs(points.std(axis=0) - DEVIATION).max())}


if __name__ == "__main__":
    main()
