"""Networks trained by their hand-derived backward pass and by jax.grad, with and without a mistake in it.

    python examples/03_backpropagation_by_hand.py [--quick]

The backward pass of every layer is derived by hand, and that of a network is composed of them. So a mistake in one
layer changes the gradients of that layer and of those before it, because gradients travel backward. The comparison
with jax.grad shows where. The loss may not show it: a network also learns from a wrong gradient.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp

import functional_nn as fnn

half_tanh = fnn.Activation("tanh", jnp.tanh, lambda x: 1 - jnp.tanh(x))
"""tanh with a mistake in its derivative, which should be 1 - tanh² x."""


def network(activation=fnn.tanh, block=fnn.residual):
    """Reads a digit row by row, convolves three neighboring states, and takes the mean over all rows."""
    neighbors = block(fnn.chain(fnn.conv(24, 3), activation))
    return fnn.chain(
        fnn.flatten(keep=1), fnn.rnn(24, returns="sequence"), neighbors, fnn.global_average_pool(), fnn.dense(10)
    )


def without_shortcut(inner):
    """A residual block y = f(x) + x whose backward pass has a mistake: without the shortcut, x_bar lacks y_bar."""
    right = fnn.residual(inner)

    def backward(residuals, y_bar):
        params_bar, x_bar = right.backward(residuals, y_bar)
        return params_bar, x_bar - y_bar

    return right._replace(backward=backward)


NETWORKS = {
    "right": network(),
    "tanh' wrong": network(activation=half_tanh),
    "shortcut forgotten": network(block=without_shortcut),
}


@partial(jax.jit, static_argnums=0)
def by_hand(net, params, state, x, labels):
    """The loss, and its gradient by the formulas: of the loss, then of the layers, from the last to the first."""
    y, _, pullback = net.vjp(params, state, x, train=True)
    params_bar, _ = pullback(fnn.cross_entropy.gradient(y, labels))
    return fnn.cross_entropy(y, labels), params_bar


@partial(jax.jit, static_argnums=0)
def by_jax(net, params, state, x, labels):
    """The same loss, and its gradient by automatic differentiation."""
    return jax.value_and_grad(lambda p: fnn.cross_entropy(net.apply(p, state, x, train=True)[0], labels))(params)


@partial(jax.jit, static_argnums=(0, 1))
def train(gradient, net, params, state, x, labels):
    """Gradient descent over batches (steps, batch, …): the final parameters, and the loss of every step."""

    def step(params, batch):
        loss, params_bar = gradient(net, params, state, *batch)
        return jax.tree.map(lambda p, bar: p - 0.2 * bar, params, params_bar), loss

    return jax.lax.scan(step, params, (x, labels))


def batches_of(data, size, steps=None):
    """Images in [0, 1] and labels, as (steps, size, …): all full batches, or the first ``steps`` of them."""
    if steps is None:
        steps = len(data.train_labels) // size
    images = jnp.float32(data.train_images[: steps * size] / 255.0)
    return images.reshape(steps, size, *images.shape[1:]), data.train_labels[: steps * size].reshape(steps, size)


def race(data, repetitions):
    """Trains 784-128-64-10 for an epoch by each gradient; returns the largest difference in parameters, and seconds."""
    net = fnn.models.mlp(10, hidden=(128, 64))
    params, state = net.init(jax.random.key(0), data.train_images.shape[1:])
    batches = batches_of(data, 50)
    ended, seconds = {}, {by_hand: [], by_jax: []}
    for gradient in (by_hand, by_jax) * (1 + repetitions):
        begin = time.perf_counter()
        ended[gradient], _ = jax.block_until_ready(train(gradient, net, params, state, *batches))
        seconds[gradient].append(time.perf_counter() - begin)
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), ended[by_hand], ended[by_jax])
    # The first time includes compilation.
    best = {gradient: min(times[1:]) for gradient, times in seconds.items()}
    return float(max(jax.tree.leaves(differences))), best


def compare(params, state, x, labels):
    """For each array and network, in float64: the largest difference, divided by the largest entry of the array."""
    layers = list(params)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        automatic = fnn.trees.flatten(by_jax(NETWORKS["right"], params, state, x, labels)[1])
        table = {path: [] for path in sorted(automatic, key=lambda path: layers.index(path.split("/")[0]))}
        for net in NETWORKS.values():
            for path, ours in fnn.trees.flatten(by_hand(net, params, state, x, labels)[1]).items():
                exact = automatic[path]
                table[path].append(float(jnp.max(jnp.abs(ours - exact)) / jnp.max(jnp.abs(exact))))
    return table


def main(steps, repetitions):
    data = fnn.load_dataset("mnist5k")
    apart, seconds = race(data, repetitions)
    print(f"784-128-64-10, one epoch of {len(data.train_labels)} digits from the same start")
    print(f"by hand {seconds[by_hand]:.3f} s, by jax.grad {seconds[by_jax]:.3f} s (the best of {repetitions})")
    print(f"the final parameters differ by at most {apart:.1e} in any element\n")

    params, state = NETWORKS["right"].init(jax.random.key(0), data.train_images.shape[1:])
    batches = batches_of(data, 50, steps)
    print(
        "largest difference from jax.grad in each array, divided by its largest entry, from the first layer to the last"
    )
    print(f"{'by hand:':32}" + "".join(f"{name:>20}" for name in NETWORKS))
    table = compare(params, state, batches[0][0], batches[1][0])
    for path, differences in table.items():
        print(f"{path:32}" + "".join(f"{difference:20.1e}" for difference in differences))

    ways = {"jax.grad": (by_jax, NETWORKS["right"])} | {name: (by_hand, net) for name, net in NETWORKS.items()}
    curves = {name: train(*way, params, state, *batches)[1] for name, way in ways.items()}
    print(f"\nmean loss of each {steps // 5} steps, in {steps} steps of training with each gradient")
    for name, curve in curves.items():
        print(f"{name:32}" + "".join(f"{loss:9.4f}" for loss in curve.reshape(5, -1).mean(axis=1)))
    apart = float(jnp.max(jnp.abs(curves["right"] - curves["jax.grad"])))
    print(f"with the right formula and with jax.grad it differs by at most {apart:.1e} in any step")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 steps instead of 80; epochs are timed once")
    if parser.parse_args().quick:
        main(steps=20, repetitions=1)
    else:
        main(steps=80, repetitions=7)
