"""Haiku with Optax: a jitted step with donated state, in a Python loop."""

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks import w1, w3, w4
from benchmarks.data import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loops import donated_loop

LIBRARIES = ("dm-haiku", "jax", "jaxlib", "optax")


def mlp(mnist: Mnist, seed: int) -> Peer:
    """`hk.nets.MLP`."""
    network = hk.without_apply_rng(hk.transform(lambda images: hk.nets.MLP(w1.SIZES[1:])(images)))
    params = network.init(jax.random.key(seed), mnist.train_images[:1])
    return donated_loop(network.apply, params, w1, (w1.SIZES[0],), mnist, seed)


def cnn(mnist: Mnist, seed: int) -> Peer:
    """`hk.Conv2D` and `hk.MaxPool`."""
    first, second = w3.CHANNELS

    def forward(images):
        pool = hk.MaxPool(2, 2, "VALID", channel_axis=-1)
        layers = [hk.Conv2D(first, 3), jax.nn.relu, pool, hk.Conv2D(second, 3), jax.nn.relu, pool]
        return hk.Sequential([*layers, hk.Flatten(), hk.Linear(w3.CLASSES)])(images)

    network = hk.without_apply_rng(hk.transform(forward))
    params = network.init(jax.random.key(seed), jnp.zeros((1, *w3.IMAGE_SHAPE)))
    return donated_loop(network.apply, params, w3, w3.IMAGE_SHAPE, mnist, seed)


def lstm(mnist: Mnist, seed: int) -> Peer:
    """`hk.dynamic_unroll` of `hk.LSTM`."""

    def forward(rows):
        lstm = hk.LSTM(w4.HIDDEN_SIZE)
        _, state = hk.dynamic_unroll(lstm, rows, lstm.initial_state(len(rows)), time_major=False)
        return hk.Linear(w4.CLASSES)(state.hidden)

    network = hk.without_apply_rng(hk.transform(forward))
    params = network.init(jax.random.key(seed), jnp.zeros((1, w4.ROWS, w4.COLUMNS)))
    return donated_loop(network.apply, params, w4, (w4.ROWS, w4.COLUMNS), mnist, seed)
