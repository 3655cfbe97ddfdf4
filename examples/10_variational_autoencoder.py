"""A variational autoencoder learns to draw digits. It is composed of an encoder and a decoder by a plain function.

    python examples/10_variational_autoencoder.py [--size 8] [--epochs 20] [--quick]

The encoder gives a mean and a variance for each image. A code is drawn from this normal distribution, and the decoder
draws the image from the code. The loss is a bound on how improbable the images are: the cost of the pixels, given the
code, and the Kullback-Leibler divergence of the code's distribution from a standard normal one. After training the
decoder draws new digits from random codes (Kingma and Welling 2014, "Auto-encoding variational Bayes").

The network is trained with its hand-derived backward pass, in a loop written here. At the end the gradient is compared
with that of ``jax.grad``.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

SHADES = np.array(list(" .:-=+*#%@"))


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


def gradient_of_loss(outputs, x):
    """The derivative of ``loss_of`` with respect to each output."""
    logits, mean, log_variance = outputs
    bars = jax.nn.sigmoid(logits) - x, mean, (jnp.exp(log_variance) - 1) / 2
    return jax.tree.map(lambda bar: bar / len(x), bars)


def by_hand(net, params, x, key):
    """The loss and its gradient, by the composed backward pass."""
    outputs, _, pullback = net.vjp(params, {}, x, train=True, key=key)
    params_bar, _ = pullback(gradient_of_loss(outputs, x))
    return loss_of(outputs, x), params_bar


def by_jax(net, params, x, key):
    """The same, by automatic differentiation."""
    return jax.value_and_grad(lambda params: loss_of(net.apply(params, {}, x, train=True, key=key)[0], x))(params)


@partial(jax.jit, static_argnums=(0, 1))
def train_epoch(net, optimizer, params, optimizer_state, batches, key):
    """One step for each batch, as a scan: the parameters, the optimizer's state, and the mean of the losses."""

    def step(carry, batch):
        params, optimizer_state, key = carry
        key, key_step = jax.random.split(key)
        loss, gradient = by_hand(net, params, batch, key_step)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state, key), loss

    (params, optimizer_state, _), losses = jax.lax.scan(step, (params, optimizer_state, key), batches)
    return params, optimizer_state, jnp.mean(losses)


def drawn(images):
    """Images side by side as text, with two rows of pixels in one line."""
    row = np.concatenate([image[:, :, 0] for image in images], axis=1)
    darkness = (row[::2] + row[1::2]) / 2
    lines = SHADES[np.clip(darkness * len(SHADES), 0, len(SHADES) - 1).astype(int)]
    return "\n".join("".join(line).rstrip() for line in lines)


def main(size, epochs, quick):
    data = fnn.load_dataset("mnist5k")
    images = jnp.float32(data.train_images / 255.0)[: 1000 if quick else None]
    held_out = jnp.float32(data.test_images / 255.0)
    net, optimizer = autoencoder(size), optax.adam(2e-3)
    params, _ = net.init(jax.random.key(0), (28, 28, 1))
    print(fnn.summary(net, (28, 28, 1)), end="\n\n")

    optimizer_state, keys = optimizer.init(params), jax.random.split(jax.random.key(1), epochs)
    count = len(images) // 50
    for epoch, key in enumerate(keys, start=1):
        order = jax.random.permutation(key, len(images))[: count * 50]
        batches = images[order].reshape(count, 50, 28, 28, 1)
        params, optimizer_state, loss = train_epoch(net, optimizer, params, optimizer_state, batches, key)
        if epoch in (1, epochs) or epoch % 5 == 0:
            print(f"epoch {epoch}: loss {loss:.1f}")

    bound = loss_of(net.apply(params, {}, held_out, train=True, key=jax.random.key(2))[0], held_out)
    print(f"loss on {len(held_out)} images that it has not seen: {bound:.1f}")
    reconstructed = jax.nn.sigmoid(net.apply(params, {}, held_out[:4], train=False)[0][0])
    print(f"\nfour of them, and what the network makes of them:\n{drawn(held_out[:4])}\n{drawn(reconstructed)}")

    # A child is a layer, and its parameters are under its name. So the decoder can be used alone.
    decoder = dict(net.layers)["decoder"]
    codes = jax.random.normal(jax.random.key(3), (4, size))
    logits, _ = decoder.apply(params["decoder"], {}, codes, train=False)
    print(f"\nfour new digits, from random codes:\n{drawn(jax.nn.sigmoid(logits))}")

    with jax.enable_x64(True):
        exact, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, held_out[:20]))
        ours, theirs = (gradient(net, exact, x, jax.random.key(4))[1] for gradient in (by_hand, by_jax))
        differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), ours, theirs)
    print(f"\ngradient by hand and by jax.grad differ by at most {max(jax.tree.leaves(differences)):.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8, help="the size of a code")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two epochs on 1,000 images")
    options = parser.parse_args()
    main(options.size, 2 if options.quick else options.epochs, options.quick)
