"""One neuron, y = σ(Σ wᵢ xᵢ + b), learns to separate two clouds of points.

    python examples/01_neuron.py [--out FOLDER] [--quick]

The gradient is computed twice, by `jax.grad` and by the neuron's hand-derived backward pass, and the two are compared.
With --out, the points, the decision line and the loss are drawn.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn


def make_points(key, count):
    """Two round clouds: class 0 around (-1, -1), class 1 around (1, 1)."""
    labels = jnp.arange(count) % 2
    centers = jnp.where(labels[:, None] == 1, 1.0, -1.0)
    return centers + 0.8 * jax.random.normal(key, (count, 2)), labels.astype(jnp.float32)


def main(out, steps):
    x, labels = make_points(jax.random.key(0), 200)
    neuron = fnn.neuron(fnn.sigmoid)
    params, state = neuron.init(jax.random.key(1), (2,))
    loss = fnn.losses.binary_cross_entropy_from_probabilities
    optimizer = optax.sgd(0.5)
    optimizer_state = optimizer.init(params)

    def objective(params):
        y, _ = neuron.apply(params, state, x, train=True)
        return loss(y, labels)

    @jax.jit
    def step(params, optimizer_state):
        value, gradient = jax.value_and_grad(objective)(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, value

    values = []
    for _ in range(steps):
        params, optimizer_state, value = step(params, optimizer_state)
        values.append(float(value))

    y, _, pullback = neuron.vjp(params, state, x, train=True)
    by_hand, _ = pullback(loss.gradient(y, labels))
    automatic = jax.grad(objective)(params)
    difference = max(float(jnp.max(jnp.abs(by_hand[name] - automatic[name]))) for name in params)
    share = float(jnp.mean((y > 0.5) == (labels == 1)))

    print(f"loss {values[0]:.4f} -> {values[-1]:.4f} in {steps} steps, {share:.1%} of the points classified correctly")
    print(f"weights {params['weight']}, bias {params['bias']:.4f}")
    print(f"largest difference between the hand-derived gradient and jax.grad: {difference:.1e}")
    if out:
        path = out / "neuron.png"
        draw(path, x, labels, params, values)
        print(f"picture: {path}")
    return share, difference


def draw(path, x, labels, params, values):
    """The points, the line where y = ½, and the loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for number, color in ((0, "#0072b2"), (1, "#d55e00")):
        cloud = x[labels == number]
        left.plot(cloud[:, 0], cloud[:, 1], "o", ms=4, color=color, alpha=0.7, label=f"class {number}")
    (w1, w2), b = params["weight"], params["bias"]
    left.axline((0.0, float(-b / w2)), slope=float(-w1 / w2), color="black", lw=1.5, label="y = ½")
    left.set(xlabel="x₁", ylabel="x₂", xlim=(-4, 4), ylim=(-4, 4), aspect="equal", title="decision line")
    left.legend(frameon=False, loc="lower left")
    right.plot(values, color="black")
    right.set(xlabel="step", ylabel="loss", title="one neuron learns", ylim=(0, None))
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the picture (default: no picture)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    arguments = parser.parse_args()
    main(arguments.out, 20 if arguments.quick else 200)
