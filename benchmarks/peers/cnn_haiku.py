"""W3 with Haiku: its layers, and a jitted step with donated state."""

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks import w3
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_loop import python_loop

LIBRARIES = ("dm-haiku", "jax", "jaxlib", "optax")


def donated(mnist: Mnist, seed: int) -> Peer:
    """`hk.Conv2D` and `hk.MaxPool`."""
    first, second = w3.CHANNELS

    def forward(images):
        pool = hk.MaxPool(2, 2, "VALID", channel_axis=-1)
        layers = [hk.Conv2D(first, 3), jax.nn.relu, pool, hk.Conv2D(second, 3), jax.nn.relu, pool]
        return hk.Sequential([*layers, hk.Flatten(), hk.Linear(w3.CLASSES)])(images)

    network = hk.without_apply_rng(hk.transform(forward))
    params = network.init(jax.random.key(seed), jnp.zeros((1, *w3.IMAGE_SHAPE)))
    return python_loop(network.apply, params, w3, w3.IMAGE_SHAPE, mnist, seed)
