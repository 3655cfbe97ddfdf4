"""W3 without a library: `lax.conv_general_dilated` and `lax.reduce_window`, which Flax and Haiku call, too."""

import jax
import jax.numpy as jnp

from benchmarks import w3
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_loop import python_loop

LIBRARIES = ("jax", "jaxlib", "optax")


def start(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The weight and the bias of each layer."""
    (height, width, inputs), (first, second) = w3.IMAGE_SHAPE, w3.CHANNELS
    he, features = jax.nn.initializers.he_normal(), second * (height // 4) * (width // 4)
    shapes = (3, 3, inputs, first), (3, 3, first, second), (features, w3.CLASSES)
    return [(he(key, shape), jnp.zeros(shape[-1])) for key, shape in zip(jax.random.split(key, 3), shapes, strict=True)]


def network(params: list[tuple[jax.Array, jax.Array]], images: jax.Array) -> jax.Array:
    """The logits of images (batch, height, width, 1)."""
    *convolutions, (weight, bias) = params
    for kernel, offset in convolutions:
        numbers = ("NHWC", "HWIO", "NHWC")
        images = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        images = jax.nn.relu(images + offset)
        images = jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return images.reshape(len(images), -1) @ weight + bias


def loop(mnist: Mnist, seed: int) -> Peer:
    """A jitted step in a Python loop."""
    return python_loop(network, start(jax.random.key(seed)), w3, w3.IMAGE_SHAPE, mnist, seed)
