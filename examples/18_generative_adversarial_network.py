"""A generative adversarial network learns to draw a ring of points. Two networks play against each other.

    python examples/18_generative_adversarial_network.py [--out FOLDER] [--seed 0] [--quick]

The generator makes points from random numbers. The critic learns to tell them from real points. The generator learns
to deceive the critic. You learn how two losses and two optimizers work in one loop. A run takes about ten seconds. The
picture shows real points and those of the generator after more and more steps, and the critic's opinion as shading
(Goodfellow et al. 2014, "Generative adversarial nets").
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

BATCH, RADIUS = 128, 2.0
outputs = lambda net, params, x: net.apply(params, {}, x, train=True)[0]  # noqa: E731


def real_points(key, count):
    key_angle, key_noise = jax.random.split(key)
    angle = jax.random.uniform(key_angle, (count,), maxval=2 * jnp.pi)
    return RADIUS * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1) + 0.1 * jax.random.normal(key_noise, (count, 2))


@partial(jax.jit, static_argnums=(0, 1, 2))
def play(generator, critic, optimizer, states, keys):
    """One step of each network for each key."""
    loss = fnn.binary_cross_entropy  # it takes logits

    def critic_loss(params, real, fake):  # the critic should answer 1 for real points and 0 for the others
        real_y, fake_y = outputs(critic, params, real), outputs(critic, params, fake)
        return loss(real_y, jnp.ones_like(real_y)) + loss(fake_y, jnp.zeros_like(fake_y))

    def generator_loss(params, critic_params, noise):  # the critic should answer 1 for the generator's points
        y = outputs(critic, critic_params, outputs(generator, params, noise))
        return loss(y, jnp.ones_like(y))

    def step(states, key):
        drawing, judging = states
        key_real, key_noise = jax.random.split(key)
        noise = jax.random.normal(key_noise, (BATCH, 4))
        fake = outputs(generator, drawing.params, noise)
        gradient = jax.grad(critic_loss)(judging.params, real_points(key_real, BATCH), fake)
        judging = judging.apply_gradient(gradient, optimizer)
        gradient = jax.grad(generator_loss)(drawing.params, judging.params, noise)
        return (drawing.apply_gradient(gradient, optimizer), judging), None

    return jax.lax.scan(step, states, keys)[0]


def draw(path, real, panels):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 2.7), layout="constrained", dpi=100)
    for axes, (step, side, shading, points) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.contourf(side, side, shading, levels=np.linspace(0, 1, 6), cmap="Greys", alpha=0.6)
        axes.plot(*real.T, ".", ms=3, color="#d55e00", label="real")
        axes.plot(*points.T, ".", ms=3, color="#0072b2", label="drawn")
        axes.set(title=f"step {step}", xlabel="x₁", ylabel="x₂", aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, hidden, parts):
    generator = fnn.chain(fnn.dense(hidden), fnn.relu, fnn.dense(hidden), fnn.relu, fnn.dense(2))
    critic = fnn.chain(fnn.dense(hidden), fnn.relu, fnn.dense(hidden), fnn.relu, fnn.dense(1))
    optimizer, create = optax.adam(1e-3, b1=0.5), fnn.training.create_train_state
    keys = jax.random.split(jax.random.key(seed), 5)
    states = create(generator, optimizer, keys[0], (4,)), create(critic, optimizer, keys[1], (2,))
    noise, real, done, panels = jax.random.normal(keys[2], (300, 4)), real_points(keys[3], 300), 0, []
    side = np.linspace(-3, 3, 40)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    for end in parts:
        states = play(
            generator, critic, optimizer, states, jax.random.split(jax.random.fold_in(keys[4], end), end - done)
        )
        points, done = outputs(generator, states[0].params, noise), end
        off = float(jnp.mean(jnp.abs(jnp.linalg.norm(points, axis=1) - RADIUS)))
        sectors = len(np.unique(np.floor(np.arctan2(points[:, 1], points[:, 0]) * 6 / np.pi)))
        print(f"step {end}: the points are {off:.2f} from the ring on average, in {sectors} of its 12 sectors")
        panels.append((end, side, jax.nn.sigmoid(outputs(critic, states[1].params, grid))[..., 0], points))
    draw(folder / "generative_adversarial_network.png", real, panels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="smaller networks, fewer steps")
    options = parser.parse_args()
    main(options.out, options.seed, *((32, (0, 1000)) if options.quick else (64, (0, 200, 1000, 6000))))
