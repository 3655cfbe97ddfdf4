"""A variational autoencoder learns to draw digits. It is composed of an encoder and a decoder by a plain function.

    python examples/10_variational_autoencoder.py [--out FOLDER] [--size 8] [--seed 0] [--quick]

The encoder gives a mean and a variance for each image, a code is drawn from this normal distribution, and the decoder
draws the image from the code. You learn to train such a network with its hand-derived backward pass. The loss is the
cost of the pixels plus the Kullback-Leibler divergence of the codes from a standard normal distribution (Kingma and
Welling 2014). A run takes half a minute. The picture shows test digits, what the network makes of them, digits on the
way from the code of the first to that of the second, and new digits from random codes.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def autoencoder(size):
    """A network that gives, for a batch of images, the logits of the pixels, and the mean and variance of the codes."""

    def function(net, x, *, train, key):
        mean, log_variance = jnp.split(net.encoder(x), 2, axis=-1)
        code = mean
        if train:
            noise = jax.random.normal(key, mean.shape)
            code = mean + jnp.exp(log_variance / 2) * noise
        return net.decoder(code), mean, log_variance

    encoder = fnn.chain(fnn.flatten(), fnn.dense(256), fnn.relu, output=fnn.dense(2 * size))
    decoder = fnn.chain(fnn.dense(256), fnn.relu, output=fnn.dense(28 * 28), image=fnn.reshape((28, 28, 1)))
    return fnn.compose({"encoder": encoder, "decoder": decoder}, function, name="autoencoder")


def loss_of(outputs, x):
    """The bound, on average over the images: the cross-entropy of the pixels, and the divergence of the codes."""
    logits, mean, log_variance = outputs
    pixels = jnp.sum(jnp.logaddexp(0.0, logits) - x * logits)
    divergence = jnp.sum(mean**2 + jnp.exp(log_variance) - log_variance - 1) / 2
    return (pixels + divergence) / len(x)


def draw(path, rows):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 2.6), layout="constrained", dpi=100)
    axes = figure.subplots()
    axes.imshow(np.concatenate([np.concatenate(row[..., 0], axis=1) for row in rows.values()]), cmap="gray_r")
    axes.set(xticks=[], yticks=28 * np.arange(len(rows)) + 14, yticklabels=list(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, size, seed, count, epochs):
    data, keys = fnn.load_dataset("mnist5k"), jax.random.split(jax.random.key(seed))
    images, held_out = jnp.float32(data.train_images[:count] / 255.0), jnp.float32(data.test_images / 255.0)
    net = autoencoder(size)
    print(fnn.summary(net, (28, 28, 1)), end="\n\n")

    # The labels are the images themselves. with_hand_vjp: the gradient is the composed backward pass.
    split = fnn.data.Split(images, images, held_out, held_out)
    run = fnn.fit(fnn.with_hand_vjp(net), loss_of, optax.adam(2e-3), split, epochs=epochs, batch_size=50, seed=seed)
    print(
        f"loss after epoch 1: {run.history[0].train_loss:.1f}, after epoch {epochs}: {run.history[-1].train_loss:.1f}"
    )
    bound = loss_of(net.apply(run.params, {}, held_out, train=True, key=keys[0])[0], held_out)
    print(f"loss on {len(held_out)} images that it has not seen: {bound:.1f}")

    # A child is a layer, and its parameters are under its name. So the decoder can be used alone.
    decoder = partial(dict(net.layers)["decoder"].apply, run.params["decoder"], {}, train=False)
    logits, codes, _ = net.apply(run.params, {}, held_out[:12], train=False)[0]
    between = codes[0] + jnp.linspace(0, 1, 12)[:, None] * (codes[1] - codes[0])
    new = decoder(jax.random.normal(keys[1], (12, size)))[0]
    rows = {"reconstructed": logits, "from 1st to 2nd": decoder(between)[0], "new digits": new}
    rows = {"test digits": held_out[:12]} | {name: jax.nn.sigmoid(row) for name, row in rows.items()}
    draw(folder / "variational_autoencoder.png", rows)

    with jax.enable_x64(True):
        exact, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (run.params, held_out[:20]))
        outputs, _, pullback = net.vjp(exact, {}, x, train=True, key=keys[0])
        by_hand, _ = pullback(jax.grad(loss_of)(outputs, x))
        automatic = jax.grad(lambda p: loss_of(net.apply(p, {}, x, train=True, key=keys[0])[0], x))(exact)
        differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), by_hand, automatic)
    print(f"gradient by hand and by jax.grad differ by at most {max(jax.tree.leaves(differences)):.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--size", type=int, default=8, help="the size of a code")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two epochs on 1,000 images")
    options = parser.parse_args()
    main(options.out, options.size, options.seed, *((1000, 2) if options.quick else (4000, 20)))
