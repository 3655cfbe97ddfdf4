"""A generative adversarial network learns to draw digits. Two networks play against each other.

    python examples/18_generative_adversarial_network.py [--out FOLDER] [--seed 0] [--quick]

The generator makes images from random numbers. The critic learns to tell them from real digits, and the generator
learns to deceive the critic. You learn how two losses and two optimizers work in one loop. A run takes about a minute.
The picture shows what the generator draws from the same random numbers after more and more steps, and the two losses
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

CODE, BATCH = 32, 64


@partial(jax.jit, static_argnums=(0, 1, 2))
def play(generator, critic, optimizer, states, images, keys):
    """One step of each network for each key: the train states, and the two losses of each step."""

    outputs = lambda net, params, x: net.apply(params, {}, x, train=True)[0]  # noqa: E731

    def critic_loss(params, real, fake):  # the critic should say 1 for real images and 0 for the others
        y = jnp.concatenate([outputs(critic, params, real), outputs(critic, params, fake)])
        return fnn.binary_cross_entropy(y, jnp.repeat(jnp.array([[0.9], [0.0]]), BATCH, axis=0))  # 0.9: not too sure

    def generator_loss(params, critic_params, noise):  # the critic should say 1 for the generator's images
        y = outputs(critic, critic_params, outputs(generator, params, noise))
        return fnn.binary_cross_entropy(y, jnp.ones_like(y))

    def step(states, key):
        drawing, judging = states
        key_real, key_noise = jax.random.split(key)
        real = images[jax.random.randint(key_real, (BATCH,), 0, len(images))]
        noise = jax.random.normal(key_noise, (BATCH, CODE))
        fake = outputs(generator, drawing.params, noise)
        judged, gradient = jax.value_and_grad(critic_loss)(judging.params, real, fake)
        judging = judging.apply_gradient(gradient, optimizer)
        drawn, gradient = jax.value_and_grad(generator_loss)(drawing.params, judging.params, noise)
        return (drawing.apply_gradient(gradient, optimizer), judging), (judged, drawn)

    return jax.lax.scan(step, states, keys)


def draw(path, rows, losses, steps):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    left.imshow(np.concatenate([np.concatenate(row.reshape(-1, 28, 28), axis=1) for row in rows]), cmap="gray_r")
    left.set(xticks=[], title="drawn from the same random numbers", ylabel="step")
    left.set_yticks(28 * np.arange(len(rows)) + 14, [str(steps * part) for part in range(len(rows))])
    for loss, label, color, line in zip(losses, ("critic", "generator"), ("#0072b2", "#d55e00"), "-:", strict=True):
        means = loss.reshape(-1, 20).mean(axis=1)  # of 20 steps at a time, since single steps are noisy
        right.plot(20 * np.arange(len(means)), means, color=color, ls=line, label=label)
    right.set(xlabel="step", ylabel="loss", title="losses")
    right.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, hidden, parts, steps):
    images = jnp.float32(fnn.load_dataset("mnist5k").train_images.reshape(-1, 784) / 255)
    generator = fnn.chain(fnn.dense(hidden), fnn.relu, fnn.dense(hidden), fnn.relu, fnn.dense(784), fnn.sigmoid)
    slope = fnn.activations.leaky_relu_with(0.2)
    critic = fnn.chain(fnn.dense(hidden), slope, fnn.dense(hidden // 2), slope, fnn.dense(1))
    optimizer = optax.adam(5e-4, b1=0.5)
    keys = jax.random.split(jax.random.key(seed), 3)
    create = fnn.training.create_train_state
    states = create(generator, optimizer, keys[0], (CODE,)), create(critic, optimizer, keys[1], (784,))
    noise, rows, losses = jax.random.normal(keys[2], (12, CODE)), [], []
    for part in range(parts + 1):
        rows.append(np.asarray(generator.apply(states[0].params, {}, noise, train=False)[0]))
        if part < parts:
            step_keys = jax.random.split(jax.random.fold_in(keys[2], part), steps)
            states, values = play(generator, critic, optimizer, states, images, step_keys)
            losses.append(values)
            judged, drawn = (float(value.mean()) for value in values)
            print(
                f"step {(part + 1) * steps}: loss of the critic {judged:.2f}, of the generator {drawn:.2f}", flush=True
            )
    draw(folder / "generative_adversarial_network.png", rows, np.concatenate(losses, axis=1), steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small networks, few steps")
    options = parser.parse_args()
    main(options.out, options.seed, *((16, 2, 20) if options.quick else (128, 4, 800)))
