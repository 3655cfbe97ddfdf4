"""A U-Net that marks the pixels of disks in noisy images, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def disks(random, count, size=16):
    """Images with one disk and much noise, and the pixels of the disk. Channels come first."""
    center, radius = random.uniform(4, size - 4, (count, 2, 1, 1)), random.uniform(2, 5, (count, 1, 1))
    distance = np.hypot(np.arange(size)[:, None] - center[:, 0], np.arange(size) - center[:, 1])
    mask = (distance < radius).astype(np.float32)[:, None]
    return (mask + random.normal(0, 0.7, mask.shape)).astype(np.float32), mask


class UNet(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    third: eqx.nn.Conv2d
    up_middle: eqx.nn.ConvTranspose2d
    fourth: eqx.nn.Conv2d
    up_large: eqx.nn.ConvTranspose2d
    last: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d

    def __init__(self, key):
        keys = jax.random.split(key, 7)
        self.first = eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(8, 16, 3, padding=1, key=keys[1])
        self.third = eqx.nn.Conv2d(16, 16, 3, padding=1, key=keys[2])
        self.up_middle = eqx.nn.ConvTranspose2d(16, 16, 2, stride=2, key=keys[3])
        self.fourth = eqx.nn.Conv2d(32, 16, 3, padding=1, key=keys[4])
        self.up_large = eqx.nn.ConvTranspose2d(16, 8, 2, stride=2, key=keys[5])
        self.last = eqx.nn.Conv2d(16, 1, 1, key=keys[6])
        self.pool = eqx.nn.MaxPool2d(2, stride=2)

    def __call__(self, x):
        large = jax.nn.relu(self.first(x))
        middle = jax.nn.relu(self.second(self.pool(large)))
        small = jax.nn.relu(self.third(self.pool(middle)))
        middle = jax.nn.relu(self.fourth(jnp.concatenate([middle, self.up_middle(small)])))
        return self.last(jnp.concatenate([large, self.up_large(middle)]))


def loss_of(model, x, mask):
    return jnp.mean(optax.sigmoid_binary_cross_entropy(jax.vmap(model)(x), mask))


def main(quick=False):
    random = np.random.default_rng(0)
    model, optimizer = UNet(jax.random.key(0)), optax.adam(5e-3)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))
    (x, mask), (test_x, test_mask) = disks(random, 384 if quick else 2048), disks(random, 128)

    @eqx.filter_jit
    def step(model, optimizer_state, x, mask):
        gradient = eqx.filter_grad(loss_of)(model, x, mask)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for _ in range(3 if quick else 10):
        for rows in random.permutation(len(x)).reshape(-1, 32):
            model, optimizer_state = step(model, optimizer_state, x[rows], mask[rows])
    accuracy = float(jnp.mean((jax.vmap(model)(test_x) > 0) == (test_mask > 0.5)))
    print(f"{accuracy:.1%} of the pixels are right")
    return {"accuracy": accuracy, "loss": float(loss_of(model, test_x, test_mask))}


if __name__ == "__main__":
    main()
