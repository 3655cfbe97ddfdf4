"""W1 with stax and `optimizers` from JAX's example libraries, as in JAX's MNIST example."""

from collections.abc import Sequence

import jax
from jax.example_libraries import optimizers, stax

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loop import mean_cross_entropy, python_loop
from benchmarks.w1 import LEARNING_RATE, SIZES

LIBRARIES = ("jax", "jaxlib")


def stax_peer(
    mnist: Mnist,
    seed: int,
    *,
    sizes: Sequence[int] = SIZES,
    learning_rate: float = LEARNING_RATE,
    donate: bool,
) -> Peer:
    inputs, *hidden, outputs = sizes
    layers = [layer for size in hidden for layer in (stax.Dense(size), stax.Relu)]
    init, apply = stax.serial(*layers, stax.Dense(outputs))
    _, params = init(jax.random.key(seed), (-1, inputs))
    init_optimizer, update, get_params = optimizers.adam(learning_rate)

    def step(state, images, labels):
        count, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(apply(params, images), labels))
        return count + 1, update(count, gradient(get_params(optimizer_state)), optimizer_state)

    return python_loop(
        step=jax.jit(step, donate_argnums=0 if donate else ()),
        state=(0, init_optimizer(params)),
        logits=lambda state, images: apply(get_params(state[1]), images),
        mnist=mnist,
        seed=seed,
    )


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """A jitted step."""
    return stax_peer(mnist, seed, donate=False)


def donated(mnist: Mnist, seed: int) -> Peer:
    """A jitted step with donated state."""
    return stax_peer(mnist, seed, donate=True)
