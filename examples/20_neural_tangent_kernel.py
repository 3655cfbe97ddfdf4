"""A wide network that is trained does what regression with a fixed kernel does: the neural tangent kernel.

    python examples/20_neural_tangent_kernel.py [--out FOLDER] [--seed 0] [--quick]

The kernel of two inputs is the product of the gradients of the network's output at these inputs, K = J Jᵀ. You learn to
compute it by jax.jacrev. The wider the network, the less its kernel changes in training, so the kernel predicts the
trained network (Jacot, Gabriel and Hongler 2018, "Neural tangent kernel"). A run takes about half a minute. The picture
shows the trained network and the prediction for a narrow and a wide network, and the change of the kernel by width.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import functional_nn as fnn


def network(width):
    """One hidden layer. Its outputs are scaled by 1/√width, and all weights are drawn with variance 1."""
    unit = jax.nn.initializers.normal(1.0)
    scaled = lambda h: h * (2 / width) ** 0.5  # noqa: E731
    return fnn.chain(fnn.dense(width, initializer=unit), fnn.relu, scaled, fnn.dense(1, initializer=unit))


def outputs(net, params, x):
    return net.apply(params, {}, x, train=False)[0][:, 0]


@partial(jax.jit, static_argnums=0)
def jacobian(net, params, x):
    """The derivatives of the outputs with respect to all parameters: a row for each input."""
    leaves = jax.tree.leaves(jax.jacrev(partial(outputs, net))(params, x))
    return jnp.concatenate([leaf.reshape(len(x), -1) for leaf in leaves], axis=1)


@partial(jax.jit, static_argnums=(0, 5))
def train(net, params, rate, x, y, steps):
    """Gradient descent on half the sum of the squared errors."""

    def step(params, _):
        gradient = jax.grad(lambda params: jnp.sum((outputs(net, params, x) - y) ** 2) / 2)(params)
        return jax.tree.map(lambda value, bar: value - rate * bar, params, gradient), None

    return jax.lax.scan(step, params, length=steps)[0]


def draw(path, angles, lines, points, changes):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.3), layout="constrained", dpi=100)
    *panels, right = figure.subplots(1, 3)
    for axes, width in zip(panels, (min(lines), max(lines)), strict=True):
        trained, predicted = lines[width]
        axes.plot(angles, trained, color="#0072b2", lw=2, label="trained")
        axes.plot(angles, predicted, "--", color="#d55e00", lw=2, label="kernel")
        axes.plot(*points, "o", color="black", label="examples")
        axes.set(xlabel="angle of the input", ylabel="output", title=f"width {width}")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    right.plot(list(changes), list(changes.values()), "o-", color="#0072b2")
    right.set(xlabel="width", ylabel="relative change of the kernel", xscale="log", yscale="log", title="in training")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, widths, steps):
    known, angles = jnp.linspace(-2.5, 2.5, 8), jnp.linspace(-jnp.pi, jnp.pi, 60)
    circle = lambda angles: jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)  # noqa: E731
    x, y, new_x = circle(known), jnp.sin(2 * known), circle(angles)
    lines, changes = {}, {}
    for width in widths:
        net = network(width)
        start, _ = net.init(jax.random.key(seed), (2,))
        rows, new_rows = jacobian(net, start, x), jacobian(net, start, new_x)
        kernel = rows @ rows.T
        values, vectors = jnp.linalg.eigh(kernel)
        rate = 0.5 / values[-1]
        # With a fixed kernel, t steps remove the share 1 - (1 - rate λ)ᵗ of the error along each eigenvector.
        removed = (1 - (1 - rate * values) ** steps) / values
        error = vectors @ (removed * (vectors.T @ (y - outputs(net, start, x))))
        predicted = outputs(net, start, new_x) + new_rows @ rows.T @ error
        end = train(net, start, rate, x, y, steps)
        trained, end_rows = outputs(net, end, new_x), jacobian(net, end, x)
        lines[width] = trained, predicted
        changes[width] = float(jnp.linalg.norm(end_rows @ end_rows.T - kernel) / jnp.linalg.norm(kernel))
        off = float(jnp.sqrt(jnp.mean((trained - predicted) ** 2)))
        print(f"width {width:5}: the kernel changes by {changes[width]:.1%}; trained and predicted differ by {off:.3f}")
    draw(folder / "neural_tangent_kernel.png", angles, lines, (known, y), changes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two widths, few steps")
    options = parser.parse_args()
    main(options.out, options.seed, *(((16, 256), 50) if options.quick else ((16, 64, 256, 1024), 1000)))
