"""The gradient vanishes on its way back through a deep network, and what helps against it.

    python examples/14_vanishing_gradients.py [--out FOLDER] [--seed 0] [--quick]

Networks with 20 hidden layers see 256 digits, before any training. You learn why the first layers of a deep network of
sigmoids hardly learn, and what helps: another activation, an initialization that fits it, batch norm, or residual
connections. A run takes about fifteen seconds. The picture shows how large the gradient is in each layer. If a curve
falls toward the left, the first layers of that network get a much smaller gradient than its last ones. If a curve is
low but level, all layers get a small gradient: the signal vanishes on its way forward as well as backward.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import functional_nn as fnn

STYLES = (("#d55e00", "-"), ("#0072b2", "--"), ("#009e73", "-."))


def small(key, shape, dtype=jnp.float32):
    """Weights that are too small: half of what He's rule says."""
    return 0.5 * jnp.sqrt(2 / shape[0]) * jax.random.normal(key, shape, dtype)


def blocks(width):
    """The hidden layers to compare: title, label and layer."""
    dense = lambda initializer="glorot": fnn.dense(width, initializer=initializer)  # noqa: E731
    return {
        "activation": {
            "sigmoid": fnn.chain(dense(), fnn.sigmoid),
            "tanh": fnn.chain(dense(), fnn.tanh),
            "ReLU": fnn.chain(dense(), fnn.relu),
        },
        "initialization (ReLU)": {
            "too small": fnn.chain(dense(small), fnn.relu),
            "Glorot": fnn.chain(dense("glorot"), fnn.relu),
            "He": fnn.chain(dense("he"), fnn.relu),
        },
        "structure (sigmoid)": {
            "plain": fnn.chain(dense(), fnn.sigmoid),
            "batch norm": fnn.chain(dense(), fnn.batch_norm(), fnn.sigmoid),
            "residual": fnn.residual(dense(), fnn.sigmoid),
        },
    }


def gradient_by_layer(block, depth, width, key, x, labels):
    """The root mean square of the gradient of each hidden layer's weights, from the first layer to the last."""
    net = fnn.chain(fnn.dense(width), fnn.repeat(block, depth), fnn.dense(10))  # weights: (layer, input, output)
    params, state = net.init(key, x.shape[1:])
    loss = lambda params: fnn.cross_entropy(net.apply(params, state, x, train=True)[0], labels)  # noqa: E731
    gradient = fnn.trees.flatten(jax.grad(loss)(params))
    (weight_bar,) = (bar for path, bar in gradient.items() if path.startswith("repeat") and path.endswith("weight"))
    return jnp.sqrt(jnp.mean(weight_bar**2, axis=(1, 2)))


def draw(path, results):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.3), layout="constrained", dpi=100)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (title, curves) in zip(panels, results.items(), strict=True):
        for (label, sizes), (color, line) in zip(curves.items(), STYLES, strict=True):
            axes.plot(range(1, len(sizes) + 1), sizes, color=color, ls=line, lw=2, label=label)
        axes.set(xlabel="hidden layer (1 is the first)", yscale="log", title=title)
        axes.legend(fontsize=9)
    panels[0].set(ylabel="size of the gradient")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, depth, width):
    data = fnn.load_dataset("mnist5k")
    x, labels = fnn.data.scaled_bytes(data.train_images[:256].reshape(256, 784)), data.train_labels[:256]
    nets = blocks(width)

    @jax.jit  # one program for all networks
    def measure(key):
        size = lambda block: gradient_by_layer(block, depth, width, key, x, labels)  # noqa: E731
        return [[size(block) for block in chosen.values()] for chosen in nets.values()]

    sizes = measure(jax.random.key(seed))
    results = {title: dict(zip(nets[title], row, strict=True)) for title, row in zip(nets, sizes, strict=True)}
    for title, curves in results.items():
        for label, values in curves.items():
            print(f"{title:22} {label:10} first hidden layer / last: {values[0] / values[-1]:.0e}")
    draw(folder / "vanishing_gradients.png", results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="five small layers instead of 20")
    options = parser.parse_args()
    main(options.out, options.seed, *((5, 16) if options.quick else (20, 64)))
