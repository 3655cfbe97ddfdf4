"""A recurrent layer and a residual convolution, differentiated by hand: compared, trained on, and broken.

    python examples/05_backpropagation_by_hand.py [--quick]

Every layer's backward pass is derived by hand, and a network's is composed of them. So a mistake in one shows where the
formula and jax.grad part: in that layer and in those before it, since gradients travel backward. It need not show in
the loss: a network learns from a wrong gradient too.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp

import functional_nn as fnn

half_tanh = fnn.Activation("tanh", jnp.tanh, lambda x: 1 - jnp.tanh(x))
"""tanh with a slip in its derivative, which is 1 - tanh² x."""


def network(activation=fnn.tanh, block=fnn.residual):
    """Reads a digit row by row, looks at every three states in a row, and takes the mean over all rows."""
    neighbours = block(fnn.chain(fnn.conv(24, 3), activation))
    return fnn.chain(
        fnn.flatten(keep=1), fnn.rnn(24, returns="sequence"), neighbours, fnn.global_average_pool(), fnn.dense(10)
    )


def without_shortcut(inner):
    """A residual block y = f(x) + x whose backward pass forgets the second x: its x_bar lacks y_bar."""
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
    """The gradient by the formulas: the loss's, then each layer's from the last to the first."""
    y, _, pullback = net.vjp(params, state, x, train=True)
    params_bar, _ = pullback(fnn.cross_entropy.gradient(y, labels))
    return params_bar


@partial(jax.jit, static_argnums=0)
def by_jax(net, params, state, x, labels):
    """The gradient of the same loss by automatic differentiation."""
    return jax.grad(lambda p: fnn.cross_entropy(net.apply(p, state, x, train=True)[0], labels))(params)


def compare(params, state, x, labels):
    """For every leaf and network, in float64: the largest difference, as a share of the leaf's largest entry."""
    layers = list(params)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        automatic = fnn.trees.flatten(by_jax(NETWORKS["right"], params, state, x, labels))
        table = {path: [] for path in sorted(automatic, key=lambda path: layers.index(path.split("/")[0]))}
        for net in NETWORKS.values():
            for path, ours in fnn.trees.flatten(by_hand(net, params, state, x, labels)).items():
                exact = automatic[path]
                table[path].append(float(jnp.max(jnp.abs(ours - exact)) / jnp.max(jnp.abs(exact))))
    return table


@partial(jax.jit, static_argnums=0)
def train(net, params, state, x, labels):
    """Gradient descent over batches (steps, batch, …) with jax.grad, which takes the formula where a net carries it."""

    def step(params, batch):
        def objective(params):
            y, _ = net.apply(params, state, batch[0], train=True)
            return fnn.cross_entropy(y, batch[1])

        loss, gradient = jax.value_and_grad(objective)(params)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient), loss

    return jax.lax.scan(step, params, (x, labels))[1]


def main(steps):
    data = fnn.load_dataset("mnist5k")
    images, labels = jnp.float32(data.train_images / 255.0), jnp.asarray(data.train_labels)
    params, state = NETWORKS["right"].init(jax.random.key(0), images.shape[1:])

    print("largest difference from jax.grad in each leaf, as a share of its largest entry, from the first layer on")
    print(f"{'by hand:':32}" + "".join(f"{name:>20}" for name in NETWORKS))
    table = compare(params, state, images[:32], labels[:32])
    for path, differences in table.items():
        print(f"{path:32}" + "".join(f"{difference:20.1e}" for difference in differences))

    batches = images[: steps * 50].reshape(steps, 50, 28, 28, 1), labels[: steps * 50].reshape(steps, 50)
    nets = {"jax.grad": NETWORKS["right"]} | {name: fnn.with_hand_vjp(net) for name, net in NETWORKS.items()}
    curves = {name: train(net, params, state, *batches) for name, net in nets.items()}
    print(f"\nmean loss of every {steps // 5} of {steps} steps of training on it")
    for name, curve in curves.items():
        print(f"{name:32}" + "".join(f"{loss:9.4f}" for loss in curve.reshape(5, -1).mean(axis=1)))
    apart = float(jnp.max(jnp.abs(curves["right"] - curves["jax.grad"])))
    print(f"by the right formula and by jax.grad it is at most {apart:.1e} apart")
    return table, curves


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="twenty steps of training, not eighty")
    main(20 if parser.parse_args().quick else 80)
