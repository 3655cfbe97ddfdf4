"""A U-Net marks the pixels of disks in noisy images. Skip connections bring fine detail to the last layers.

Ronneberger, Fischer and Brox 2015, "U-Net: convolutional networks for biomedical image segmentation".
"""

import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def disks(random, count, size=16):
    """Images with one disk and much noise, and the pixels of the disk."""
    center, radius = random.uniform(4, size - 4, (count, 2, 1, 1)), random.uniform(2, 5, (count, 1, 1))
    distance = np.hypot(np.arange(size)[:, None] - center[:, 0], np.arange(size) - center[:, 1])
    mask = (distance < radius).astype(np.float32)[..., None]
    return (mask + random.normal(0, 0.7, mask.shape)).astype(np.float32), mask


def block(features):
    return fnn.chain(fnn.conv(features, 3), fnn.relu)


def u_net(net, x):
    large = net.first(x)
    middle = net.second(net.pool(large))
    small = net.third(net.pool(middle))
    middle = net.fourth(jnp.concatenate([middle, net.up_middle(small)], axis=-1))
    return net.last(jnp.concatenate([large, net.up_large(middle)], axis=-1))


def main(quick=False):
    random = np.random.default_rng(0)
    net = fnn.compose(
        {
            "first": block(8),
            "second": block(16),
            "third": block(16),
            "up_middle": fnn.conv_transpose(16, 2, stride=2),
            "fourth": block(16),
            "up_large": fnn.conv_transpose(8, 2, stride=2),
            "last": fnn.conv(1, 1),
            "pool": fnn.max_pool(2),
        },
        u_net,
    )
    data = fnn.data.Split(*disks(random, 384 if quick else 2048), *disks(random, 128))
    metrics = {"accuracy": lambda y, mask: jnp.mean((y > 0) == (mask > 0.5))}
    epochs = 3 if quick else 10
    run = fnn.fit(net, fnn.binary_cross_entropy, optax.adam(5e-3), data, epochs=epochs, batch_size=32, metrics=metrics)
    print(f"{run.history[-1].test_accuracy:.1%} of the pixels are right")
    return {"accuracy": run.history[-1].test_accuracy, "loss": run.history[-1].test_loss}


if __name__ == "__main__":
    main()
