"""W3 with Flax NNX: its layers, split once, and a jitted step with donated state."""

from functools import partial

import jax
from flax import nnx

from benchmarks import w3
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_loop import python_loop

LIBRARIES = ("flax", "jax", "jaxlib", "optax")


def functional(mnist: Mnist, seed: int) -> Peer:
    """`nnx.Conv` and `nnx.max_pool`."""
    rngs = nnx.Rngs(seed)
    (height, width, inputs), (first, second) = w3.IMAGE_SHAPE, w3.CHANNELS
    pool = partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
    model = nnx.Sequential(
        nnx.Conv(inputs, first, (3, 3), rngs=rngs),
        nnx.relu,
        pool,
        nnx.Conv(first, second, (3, 3), rngs=rngs),
        nnx.relu,
        pool,
        lambda images: images.reshape(len(images), -1),
        nnx.Linear(second * (height // 4) * (width // 4), w3.CLASSES, rngs=rngs),
    )
    graph, params = nnx.split(model)

    def network(params, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(images)

    return python_loop(network, params, w3, w3.IMAGE_SHAPE, mnist, seed)
