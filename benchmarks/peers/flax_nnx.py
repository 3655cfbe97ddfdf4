"""W1 with Flax NNX and Optax: `nnx.jit` as in its tutorial, and the two faster ways of its performance guide."""

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.jax_loop import mean_cross_entropy, python_loop
from benchmarks.w1 import LEARNING_RATE, SIZES

LIBRARIES = ("flax", "jax", "jaxlib", "optax")


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        inputs, hidden_1, hidden_2, outputs = SIZES
        self.dense_1 = nnx.Linear(inputs, hidden_1, rngs=rngs)
        self.dense_2 = nnx.Linear(hidden_1, hidden_2, rngs=rngs)
        self.dense_3 = nnx.Linear(hidden_2, outputs, rngs=rngs)

    def __call__(self, images):
        hidden = nnx.relu(self.dense_1(images))
        return self.dense_3(nnx.relu(self.dense_2(hidden)))


def model_and_optimizer(seed: int) -> tuple[Network, nnx.Optimizer]:
    model = Network(nnx.Rngs(seed))
    return model, nnx.Optimizer(model, optax.adam(LEARNING_RATE), wrt=nnx.Param)


def update(model: Network, optimizer: nnx.Optimizer, images, labels) -> None:
    """The step of the tutorial, before any `jit`. It changes model and optimizer in place."""
    gradient = nnx.grad(lambda model: mean_cross_entropy(model(images), labels))
    optimizer.update(model, gradient(model))


def in_place(train_step, model: Network, optimizer: nnx.Optimizer, mnist: Mnist, seed: int) -> Peer:
    """A peer whose step changes model and optimizer in place."""

    def step(_, images: np.ndarray, labels: np.ndarray) -> tuple[Network, nnx.Optimizer]:
        train_step(images, labels)
        return model, optimizer

    return python_loop(step, (model, optimizer), lambda state, images: state[0](images), mnist, seed)


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """A step under `nnx.jit`."""
    model, optimizer = model_and_optimizer(seed)
    jitted = nnx.jit(update)
    return in_place(lambda images, labels: jitted(model, optimizer, images, labels), model, optimizer, mnist, seed)


def cached(mnist: Mnist, seed: int) -> Peer:
    """The same with `nnx.cached_partial`, which goes through the objects once."""
    model, optimizer = model_and_optimizer(seed)
    return in_place(nnx.cached_partial(nnx.jit(update), model, optimizer), model, optimizer, mnist, seed)


def functional(mnist: Mnist, seed: int) -> Peer:
    """The objects are split into a graph and arrays once; `jax.jit` takes the arrays, with donation."""
    graph, state = nnx.split(model_and_optimizer(seed))

    def step(state, images, labels):
        model, optimizer = nnx.merge(graph, state)
        update(model, optimizer, images, labels)
        return nnx.state((model, optimizer))

    return python_loop(
        step=jax.jit(step, donate_argnums=0),
        state=state,
        logits=lambda state, images: nnx.merge(graph, state)[0](images),
        mnist=mnist,
        seed=seed,
    )
