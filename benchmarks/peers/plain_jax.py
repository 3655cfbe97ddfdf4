"""The workloads and the growth of cost without a library: plain JAX programs without tuning."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import w2, w3, w4, w7
from benchmarks.data import Mnist, read_letters, share_of_right_characters
from benchmarks.growth.work import LEARNING_RATE as GROWTH_RATE
from benchmarks.growth.work import Work
from benchmarks.peers import Peer
from benchmarks.peers.jax_loops import (
    bytes_at_once,
    donated_loop,
    forget_programs,
    keys_and_rates,
    mean_cross_entropy,
)
from benchmarks.w1 import BATCH_SIZE, LEARNING_RATE, SIZES
from benchmarks.w6 import LanguageSizes

LIBRARIES = ("jax", "jaxlib", "optax")


def start(key, learning_rate, sizes: Sequence[int]):
    """The parameters of a network, and the state of its optimizer."""
    keys = jax.random.split(key, len(sizes) - 1)
    glorot = jax.nn.initializers.glorot_uniform()
    params = [(glorot(key, pair), jnp.zeros(pair[1])) for key, pair in zip(keys, pairwise(sizes), strict=True)]
    return params, optax.adam(learning_rate).init(params)


def network(params, images):
    *hidden_layers, (weight, bias) = params
    for hidden_weight, hidden_bias in hidden_layers:
        images = jax.nn.relu(images @ hidden_weight + hidden_bias)
    return images @ weight + bias


def epoch(state, key, learning_rate, images, labels):
    """Shuffles the images, and trains on the full batches and on the remaining images."""
    optimizer = optax.adam(learning_rate)

    def step(state, batch):
        params, optimizer_state = state
        gradient = jax.grad(lambda params: mean_cross_entropy(network(params, images[batch]), labels[batch]))
        updates, optimizer_state = optimizer.update(gradient(params), optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), None

    order = jax.random.permutation(key, len(images))
    full, rest = jnp.split(order, [len(order) // BATCH_SIZE * BATCH_SIZE])
    state, _ = jax.lax.scan(step, state, full.reshape(-1, BATCH_SIZE))
    return step(state, rest)[0] if rest.size else state


def whole_epoch(mnist: Mnist, seed: int) -> Peer:
    """One compiled program per epoch."""
    key_start, key = jax.random.split(jax.random.key(seed))
    state, compiled_epoch = start(key_start, LEARNING_RATE, SIZES), jax.jit(epoch)
    images, labels = jnp.asarray(mnist.train_images), jnp.asarray(mnist.train_labels)

    def train_epoch() -> None:
        nonlocal state, key
        key, key_epoch = jax.random.split(key)
        state = jax.block_until_ready(compiled_epoch(state, key_epoch, LEARNING_RATE, images, labels))

    return Peer(train_epoch, lambda images: np.asarray(network(state[0], images)))


def population(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """The same with `vmap`, for many models in one program."""
    keys, rates = keys_and_rates(w2.members(seed, models))
    state = jax.vmap(lambda key, rate: start(key, rate, w2.sizes(hidden)))(keys, rates)
    epochs = jax.jit(jax.vmap(epoch, in_axes=(0, 0, 0, None, None)), donate_argnums=0)
    images, labels = jnp.asarray(mnist.train_images), jnp.asarray(mnist.train_labels)
    number = 0

    def train_epoch() -> None:
        nonlocal state, number
        number += 1
        epoch_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
        state = jax.block_until_ready(epochs(state, epoch_keys, rates, images, labels))

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(jax.lax.map(lambda params: network(params, images), state[0]))

    return Peer(train_epoch, predict, models_a_round=models)


def cnn_start(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The weight and the bias of each layer."""
    (height, width, inputs), (first, second) = w3.IMAGE_SHAPE, w3.CHANNELS
    he, features = jax.nn.initializers.he_normal(), second * (height // 4) * (width // 4)
    shapes = (3, 3, inputs, first), (3, 3, first, second), (features, w3.CLASSES)
    return [(he(key, shape), jnp.zeros(shape[-1])) for key, shape in zip(jax.random.split(key, 3), shapes, strict=True)]


def cnn(params: list[tuple[jax.Array, jax.Array]], images: jax.Array) -> jax.Array:
    """The logits of images (batch, height, width, 1)."""
    *convolutions, (weight, bias) = params
    for kernel, offset in convolutions:
        numbers = ("NHWC", "HWIO", "NHWC")
        images = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        images = jax.nn.relu(images + offset)
        images = jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return images.reshape(len(images), -1) @ weight + bias


def cnn_loop(mnist: Mnist, seed: int) -> Peer:
    """A jitted step in a Python loop."""
    return donated_loop(cnn, cnn_start(jax.random.key(seed)), w3, w3.IMAGE_SHAPE, mnist, seed)


def lstm_start(key: jax.Array) -> dict[str, jax.Array]:
    """The parameters, with the weights of all gates side by side."""
    keys = jax.random.split(key, 3)
    glorot, gates = jax.nn.initializers.glorot_uniform(), 4 * w4.HIDDEN_SIZE
    return {
        "input": glorot(keys[0], (w4.COLUMNS, gates)),
        "hidden": glorot(keys[1], (w4.HIDDEN_SIZE, gates)),
        "bias": jnp.zeros(gates),
        "dense": glorot(keys[2], (w4.HIDDEN_SIZE, w4.CLASSES)),
        "dense_bias": jnp.zeros(w4.CLASSES),
    }


def lstm(params: dict[str, jax.Array], rows: jax.Array) -> jax.Array:
    """The logits of rows (batch, time, columns). The products with the input are computed before the scan."""

    def step(state, row):
        hidden, cell = state
        i, f, g, o = jnp.split(row + hidden @ params["hidden"], 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(cell), cell), None

    zeros = jnp.zeros((len(rows), w4.HIDDEN_SIZE))
    inputs = jnp.swapaxes(rows, 0, 1) @ params["input"] + params["bias"]
    (hidden, _), _ = jax.lax.scan(step, (zeros, zeros), inputs)
    return hidden @ params["dense"] + params["dense_bias"]


def lstm_scan(mnist: Mnist, seed: int) -> Peer:
    """All gates in one product."""
    return donated_loop(lstm, lstm_start(jax.random.key(seed)), w4, (w4.ROWS, w4.COLUMNS), mnist, seed)


TINY_GPT_SCALE = 0.08
"""The standard deviation of all parameters at the start, as in microgpt."""


def tiny_gpt_start(key: jax.Array, sizes: LanguageSizes) -> dict[str, jax.Array]:
    """The parameters of W7's network, in the order in which the network uses them."""
    features = sizes.features
    square = (features, features)
    shapes = {"embedding": (sizes.count, features), "positions": (sizes.time, features)}
    shapes |= {"query": square, "key": square, "value": square, "attended": square}
    shapes |= {"first": (features, 4 * features), "second": (4 * features, features), "output": (features, sizes.count)}
    keys = jax.random.split(key, len(shapes))
    return {
        name: TINY_GPT_SCALE * jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def tiny_gpt(params: dict[str, jax.Array], tokens: jax.Array, heads: int) -> jax.Array:
    """Tokens (batch, time) to logits (batch, time, count)."""

    def norm(x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)

    time = tokens.shape[1]
    x = norm(params["embedding"][tokens] + params["positions"][:time])
    query, key, value = (
        (norm(x) @ params[name]).reshape(*x.shape[:2], heads, -1) for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bihd,bjhd->bhij", query, key) / query.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(jnp.tri(time, dtype=bool), scores, -jnp.inf))
    attended = jnp.einsum("bhij,bjhd->bihd", weights, value).reshape(x.shape)
    x = x + attended @ params["attended"]
    x = x + jax.nn.relu(norm(x) @ params["first"]) @ params["second"]
    return x @ params["output"]


def letters_epoch(state, windows: jax.Array):
    """One step for each window, in this order: the new state, and the loss of each step."""

    def step(state, window):
        params, optimizer_state = state

        def loss(params):
            return mean_cross_entropy(tiny_gpt(params, window[None, :-1], w7.SIZES.heads), window[None, 1:])

        value, gradient = jax.value_and_grad(loss)(params)
        updates, optimizer_state = optax.adam(w7.LEARNING_RATE).update(gradient, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), value

    return jax.lax.scan(step, state, windows)


def letters_scan(mnist: Mnist, seed: int) -> Peer:
    """W7, one compiled program per epoch."""
    key_start, key = jax.random.split(jax.random.key(seed))
    text, params = read_letters(), tiny_gpt_start(key_start, w7.SIZES)
    state, windows = (params, optax.adam(w7.LEARNING_RATE).init(params)), jnp.asarray(text.train)
    epoch = jax.jit(lambda state, key, windows: letters_epoch(state, jax.random.permutation(key, windows))[0])

    def train_epoch() -> None:
        nonlocal state, key
        key, key_epoch = jax.random.split(key)
        state = jax.block_until_ready(epoch(state, key_epoch, windows))

    def accuracy() -> float:
        logits = tiny_gpt(state[0], text.test[:, :-1], w7.SIZES.heads)
        return share_of_right_characters(np.asarray(logits), text.test)

    return Peer(train_epoch, None, accuracy=accuracy)


def growth_functions(work: Work) -> tuple[Callable, Callable]:
    """`start(key)` and `epoch(state, key, x, labels)`, which are pure."""
    optimizer = optax.adam(GROWTH_RATE)

    def epoch(state, key, x, labels):
        def step(state, rows):
            params, optimizer_state = state
            batch, batch_labels = x[rows], labels[rows]
            gradient = jax.grad(lambda params: mean_cross_entropy(network(params, batch), batch_labels))(params)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), None

        order = jax.random.permutation(key, work.examples)[: work.steps * work.batch_size]
        return jax.lax.scan(step, state, order.reshape(work.steps, work.batch_size))[0]

    return lambda key: start(key, GROWTH_RATE, work.sizes), epoch


def _growth_mapped(work: Work) -> tuple[Callable, Callable]:
    start, epoch = growth_functions(work)
    return jax.vmap(start), jax.vmap(epoch, in_axes=(0, 0, None, None))


def growth_turn(work: Work) -> Callable[[], float]:
    start, epoch = _growth_mapped(work) if work.models else growth_functions(work)
    start, epoch = jax.jit(start), jax.jit(epoch, donate_argnums=0)
    keys = jax.random.split(jax.random.key(0), work.models) if work.models else jax.random.key(0)
    x, labels = jax.device_put(work.data())

    def train() -> float:
        begin = time.perf_counter()
        state = jax.block_until_ready(start(keys))
        for _ in range(work.epochs):
            if not work.models:
                begin = time.perf_counter()
            state = jax.block_until_ready(epoch(state, keys, x, labels))
        return time.perf_counter() - begin

    return train


def growth_compile_seconds(work: Work) -> float:
    """Two programs: one makes the initial values, and one is the epoch."""
    forget_programs()
    x, labels = work.data()
    keys = jax.random.split(jax.random.key(0), work.models) if work.models else jax.random.key(0)
    begin = time.perf_counter()
    start, epoch = _growth_mapped(work) if work.models else growth_functions(work)
    jax.jit(start).lower(keys).compile()
    state = jax.eval_shape(start, keys)
    jax.jit(epoch, donate_argnums=0).lower(state, keys, x, labels).compile()
    return time.perf_counter() - begin


def growth_memory(work: Work) -> int:
    start, epoch = growth_functions(work)
    key = jax.random.key(0)
    state = jax.eval_shape(start, key)
    return bytes_at_once(jax.jit(epoch, donate_argnums=0).lower(state, key, *work.data()).compile())
