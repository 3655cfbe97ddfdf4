"""A generative adversarial network: two networks and two optimizers, trained against each other.

The generator learns to draw points of a normal distribution in the plane. Goodfellow et al. 2014, "Generative
adversarial nets".
"""

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn

MEAN, DEVIATION = jnp.array([2.0, -1.0]), jnp.array([0.5, 1.0])
BATCH = (128, 2)


def outputs(net, params, x):
    return net.apply(params, {}, x, train=True)[0]


def main(quick=False):
    generator = fnn.chain(fnn.dense(16), fnn.tanh, fnn.dense(2))
    critic = fnn.chain(fnn.dense(32), fnn.relu, fnn.dense(32), fnn.relu, fnn.dense(1))
    optimizer, critic_optimizer = optax.adam(2e-3, b1=0.5), optax.adam(4e-3, b1=0.5)

    def critic_loss(params, real, fake):
        return jnp.mean(fnn.softplus(-outputs(critic, params, real)) + fnn.softplus(outputs(critic, params, fake)))

    def generator_loss(params, critic_params, noise):
        return jnp.mean(fnn.softplus(-outputs(critic, critic_params, outputs(generator, params, noise))))

    def step(train_states, key):
        drawing, judging = train_states
        key_real, key_noise = jax.random.split(key)
        real = MEAN + DEVIATION * jax.random.normal(key_real, BATCH)
        noise = jax.random.normal(key_noise, BATCH)
        fake = outputs(generator, drawing.params, noise)
        judging = judging.apply_gradient(jax.grad(critic_loss)(judging.params, real, fake), critic_optimizer)
        gradient = jax.grad(generator_loss)(drawing.params, judging.params, noise)
        return (drawing.apply_gradient(gradient, optimizer), judging), None

    keys = jax.random.split(jax.random.key(0), 3)
    drawing = fnn.training.create_train_state(generator, optimizer, keys[0], (2,))
    judging = fnn.training.create_train_state(critic, critic_optimizer, keys[1], (2,))
    step_keys = jax.random.split(keys[2], 800 if quick else 4000)
    (drawing, judging), _ = jax.lax.scan(step, (drawing, judging), step_keys)
    points = outputs(generator, drawing.params, jax.random.normal(jax.random.key(1), (2000, 2)))
    error = jnp.abs(points.mean(axis=0) - MEAN).max()
    print(f"mean {points.mean(axis=0)} and standard deviation {points.std(axis=0)} of the points drawn")
    return {"error_of_mean": float(error), "error_of_deviation": float(jnp.abs(points.std(axis=0) - DEVIATION).max())}


if __name__ == "__main__":
    main()
