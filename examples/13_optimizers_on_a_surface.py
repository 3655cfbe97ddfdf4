"""Gradient descent, momentum, AdaGrad, RMSProp and Adam look for the lowest point of a curved valley.

    python examples/13_optimizers_on_a_surface.py [--out FOLDER] [--seed 0] [--quick]

The surface is Rosenbrock's f(x, y) = (1 - x)² + 10 (y - x²)²: it is easy to get into the valley and hard to follow it.
Each optimizer gets the learning rate that is best for it, out of many that run at once under jax.vmap. You see that the
rate matters, and what a memory of earlier gradients changes: momentum and Adam come closest. A run takes about ten
seconds. The picture shows the path of each optimizer with its best rate, and the height near the end for every rate.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

NAMES = {"sgd": "gradient descent", "momentum": "momentum", "adagrad": "AdaGrad", "rmsprop": "RMSProp", "adam": "Adam"}
STYLES = {
    "sgd": ("#000000", "-"),
    "momentum": ("#d55e00", "--"),
    "adagrad": ("#009e73", "-."),
    "rmsprop": ("#cc79a7", ":"),
    "adam": ("#0072b2", "-"),
}


def height(point):
    x, y = point
    return (1 - x) ** 2 + 10 * (y - x**2) ** 2


def descend(name, rate, start, steps):
    """The points that the optimizer visits, and their heights."""
    optimizer = fnn.training.optimizer(name, rate)

    def step(carry, _):
        point, state = carry
        value, gradient = jax.value_and_grad(height)(point)
        updates, state = optimizer.update(gradient, state, point)
        return (optax.apply_updates(point, updates), state), (point, value)

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]


def draw(path, rates, ends, paths):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.8), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    x, y = np.meshgrid(np.linspace(-2, 1.7, 120), np.linspace(-0.6, 2.8, 120))
    left.contour(x, y, height((x, y)), levels=[0.3, 3, 30], colors="0.85", linewidths=0.8)
    for name, (color, line) in STYLES.items():
        left.plot(*paths[name].T, color=color, ls=line, lw=1.5, label=NAMES[name])
        right.plot(rates, ends[name], color=color, ls=line)
    left.plot(1, 1, "*", ms=14, color="#e69f00", mec="black", label="lowest point", ls="none")
    left.set(xlabel="x", ylabel="y", title="paths, each with its best rate", xlim=(-2, 1.7), ylim=(-0.6, 2.8))
    right.set(xlabel="learning rate", xscale="log", yscale="log", ylim=(1e-9, 1e3))
    right.set(ylabel="largest height f near the end", title="too small, right, too large")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=6, columnspacing=1.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, count, steps):
    start = jnp.array([-1.5, 2.0]) + 0.3 * jax.random.normal(jax.random.key(seed), (2,))
    rates = np.geomspace(1e-4, 2, count).astype(np.float32)
    ends, paths = {}, {}
    for name, label in NAMES.items():
        points, heights = jax.jit(jax.vmap(lambda rate, name=name: descend(name, rate, start, steps)))(rates)
        # The largest height of the last quarter, since an optimizer that jumps about can be low at one step by luck.
        final = np.max(heights[:, -steps // 4 :], axis=1)
        ends[name] = np.where(final < 1e3, final, np.nan)  # a rate that is too large: the point flies away
        best = np.nanargmin(ends[name])
        paths[name] = np.asarray(points[best])
        print(
            f"{label:17} best rate {rates[best]:.1e}: height below {ends[name][best]:.1e} at the end of {steps} steps"
        )
    draw(folder / "optimizers_on_a_surface.png", rates, ends, paths)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="six rates, few steps")
    options = parser.parse_args()
    main(options.out, options.seed, *((6, 40) if options.quick else (40, 200)))
