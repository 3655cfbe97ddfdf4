"""stax and `optimizers` from JAX's example libraries: a jitted step with donated state, in a Python loop."""

from collections.abc import Sequence

import jax
from jax.example_libraries import optimizers, stax

from benchmarks.data import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loops import mean_cross_entropy, python_loop
from benchmarks.peers.population import in_processes
from benchmarks.w1 import LEARNING_RATE, SIZES
from benchmarks.w2 import Member, sizes

LIBRARIES = ("jax", "jaxlib")


def mlp(mnist: Mnist, seed: int, units: Sequence[int] = SIZES, learning_rate: float = LEARNING_RATE) -> Peer:
    inputs, *hidden, outputs = units
    layers = [layer for size in hidden for layer in (stax.Dense(size), stax.Relu)]
    init, apply = stax.serial(*layers, stax.Dense(outputs))
    _, params = init(jax.random.key(seed), (-1, inputs))
    init_optimizer, update, get_params = optimizers.adam(learning_rate)

    def step(state, images, labels):
        count, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(apply(params, images), labels))
        return count + 1, update(count, gradient(get_params(optimizer_state)), optimizer_state)

    return python_loop(
        step=jax.jit(step, donate_argnums=0),
        state=(0, init_optimizer(params)),
        logits=lambda state, images: apply(get_params(state[1]), images),
        mnist=mnist,
        seed=seed,
    )


def one_model(mnist: Mnist, member: Member, hidden: Sequence[int]) -> Peer:
    return mlp(mnist, member.seed, sizes(hidden), member.learning_rate)


def population_processes(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One process per core, each with JAX's default number of threads."""
    return in_processes(one_model, mnist, seed, models, hidden)
