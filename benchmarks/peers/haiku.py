"""W1 with Haiku and Optax, as in Haiku's MNIST example."""

import haiku as hk
import jax
import optax

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loop import mean_cross_entropy, python_loop
from benchmarks.w1 import LEARNING_RATE, SIZES

LIBRARIES = ("dm-haiku", "jax", "jaxlib", "optax")


def haiku_peer(mnist: Mnist, seed: int, donate: bool) -> Peer:
    network = hk.without_apply_rng(hk.transform(lambda images: hk.nets.MLP(SIZES[1:])(images)))
    params = network.init(jax.random.key(seed), mnist.train_images[:1])
    optimizer = optax.adam(LEARNING_RATE)

    def step(state, images, labels):
        params, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(network.apply(params, images), labels))
        updates, optimizer_state = optimizer.update(gradient(params), optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state

    return python_loop(
        step=jax.jit(step, donate_argnums=0 if donate else ()),
        state=(params, optimizer.init(params)),
        logits=lambda state, images: network.apply(state[0], images),
        mnist=mnist,
        seed=seed,
    )


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """A jitted step."""
    return haiku_peer(mnist, seed, donate=False)


def donated(mnist: Mnist, seed: int) -> Peer:
    """A jitted step with donated state."""
    return haiku_peer(mnist, seed, donate=True)
