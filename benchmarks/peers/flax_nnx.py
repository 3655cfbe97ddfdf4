"""Flax NNX with Optax: `nnx.jit` as in its tutorial, and the functional step of its performance guide."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks import w3, w6, w7
from benchmarks.data import Mnist, read_letters, read_sonnets
from benchmarks.peers import Peer
from benchmarks.peers.jax_loops import (
    donated_loop,
    epochs_of_text,
    keys_and_rates,
    mean_cross_entropy,
    population_loop,
    python_loop,
)
from benchmarks.w1 import LEARNING_RATE, SIZES
from benchmarks.w2 import members, sizes

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


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """A step under `nnx.jit`, which changes model and optimizer in place."""
    model, optimizer = model_and_optimizer(seed)
    jitted = nnx.jit(update)

    def step(_, images: np.ndarray, labels: np.ndarray) -> tuple[Network, nnx.Optimizer]:
        jitted(model, optimizer, images, labels)
        return model, optimizer

    return python_loop(step, (model, optimizer), lambda state, images: state[0](images), mnist, seed)


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


def models_and_optimizers(
    keys: jax.Array, learning_rates: jax.Array, hidden: Sequence[int]
) -> tuple[nnx.Sequential, nnx.Optimizer]:
    """All models and their optimizers, with a leading axis for the models. Each has its own learning rate."""

    @nnx.vmap
    def make(key):
        rngs = nnx.Rngs(key)
        layers = [layer for pair in pairwise(sizes(hidden)) for layer in (nnx.Linear(*pair, rngs=rngs), nnx.relu)]
        model = nnx.Sequential(*layers[:-1])
        adam = optax.inject_hyperparams(optax.adam)(learning_rate=LEARNING_RATE)
        return model, nnx.Optimizer(model, adam, wrt=nnx.Param)

    model, optimizer = make(keys)
    optimizer.opt_state.hyperparams["learning_rate"][...] = learning_rates
    return model, optimizer


def each_logits(graph, state, images) -> jax.Array:
    return jax.lax.map(lambda state: nnx.merge(graph, state)[0](images), state)


def population_functional(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """Split into a graph and arrays once. The jitted step donates the arrays, and gathers its batches on the device."""
    population = members(seed, models)
    graph, state = nnx.split(models_and_optimizers(*keys_and_rates(population), hidden))
    train_images, train_labels = jax.device_put((mnist.train_images, mnist.train_labels))

    def step(state, rows, images, labels):
        model, optimizer = nnx.merge(graph, state)
        update(model, optimizer, images[rows], labels[rows])
        return nnx.state((model, optimizer))

    step = jax.jit(jax.vmap(step, in_axes=(0, 0, None, None)), donate_argnums=0)
    return population_loop(
        step=lambda state, rows: step(state, rows, train_images, train_labels),
        state=state,
        logits=lambda state, images: each_logits(graph, state, images),
        population=population,
        images=len(mnist.train_images),
    )


def cnn(mnist: Mnist, seed: int) -> Peer:
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

    return donated_loop(network, params, w3, w3.IMAGE_SHAPE, mnist, seed)


class Block(nnx.Module):
    """A transformer block, norms first."""

    def __init__(self, sizes: w6.LanguageSizes, rngs: nnx.Rngs):
        features = sizes.features
        self.attention_norm, self.dense_norm = nnx.LayerNorm(features, rngs=rngs), nnx.LayerNorm(features, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(sizes.heads, features, decode=False, rngs=rngs)
        self.first = nnx.Linear(features, 4 * features, rngs=rngs)
        self.second = nnx.Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.second(nnx.gelu(self.first(self.dense_norm(x)), approximate=False))


class LanguageModel(nnx.Module):
    """Tokens to logits, with the vectors of the embedding for both."""

    def __init__(self, sizes: w6.LanguageSizes, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(sizes.count, sizes.features, rngs=rngs)
        shape = sizes.time, sizes.features
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.blocks = nnx.List([Block(sizes, rngs) for _ in range(sizes.depth)])
        self.norm = nnx.LayerNorm(sizes.features, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x, mask = self.embedding(tokens) + self.positions[...], nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.embedding.attend(self.norm(x))


class TinyGpt(nnx.Module):
    """The network of W7."""

    def __init__(self, sizes: w6.LanguageSizes, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.embedding = nnx.Embed(sizes.count, sizes.features, rngs=rngs)
        self.positions = nnx.Embed(sizes.time, sizes.features, rngs=rngs)
        self.norm = nnx.RMSNorm(sizes.features, epsilon=1e-5, use_scale=False, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(sizes.heads, sizes.features, use_bias=False, decode=False, rngs=rngs)
        self.first, self.second = linear(sizes.features, 4 * sizes.features), linear(4 * sizes.features, sizes.features)
        self.output = linear(sizes.features, sizes.count)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.norm(self.embedding(tokens) + self.positions.embedding[...])
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(tokens))
        return self.output(x + self.second(nnx.relu(self.first(self.norm(x)))))


def sonnets(mnist: Mnist, seed: int) -> Peer:
    """Split once, then plain `jit` with donation."""
    network = LanguageModel(w6.SIZES, nnx.Rngs(seed))
    return epochs_of_text(*split_network(network), w6.SIZES, read_sonnets(), seed)


def letters(mnist: Mnist, seed: int) -> Peer:
    """The same for W7."""
    return epochs_of_text(*split_network(TinyGpt(w7.SIZES, nnx.Rngs(seed))), w7.SIZES, read_letters(), seed)


def split_network(network: nnx.Module) -> tuple[Callable[[nnx.State, jax.Array], jax.Array], nnx.State]:
    """The function of a network, and its arrays."""
    graph, params = nnx.split(network)
    return lambda params, inputs: nnx.merge(graph, params)(inputs), params
