"""A 2-2-1 network learns XOR, with every gradient written out in NumPy beside jax.grad.

    python examples/12_xor_by_hand.py [--out FOLDER] [--seed 0] [--quick]

One neuron cannot compute XOR, because no straight line separates its two classes. With two hidden neurons it can be
done. You learn how the chain rule gives the gradient of each weight, and compare it with jax.grad. A run takes ten
seconds. The picture shows the loss from 20 random starts (about half of them get stuck), the output of the best network
for all inputs, and the four points in the plane of the hidden neurons, where one line separates the classes.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import functional_nn as fnn

X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
LABELS = np.array([[0.0], [1.0], [1.0], [0.0]])


def forward(params, x):
    """The values of the hidden neurons and of the output: h = tanh(x W + b), p = σ(h V + c)."""
    h = np.tanh(x @ params["dense_0"]["weight"] + params["dense_0"]["bias"])
    p = 1 / (1 + np.exp(-(h @ params["dense_1"]["weight"] + params["dense_1"]["bias"])))
    return h, p


def loss_and_gradient(params):
    """The mean cross-entropy L, and its derivative with respect to each weight, by the chain rule from the end."""
    h, p = forward(params, X)
    loss = -np.mean(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p))
    logit_bar = (p - LABELS) / len(X)  # ∂L/∂(h V + c): σ and the logarithm cancel
    sum_bar = logit_bar @ params["dense_1"]["weight"].T * (1 - h**2)  # through V, then tanh' = 1 - tanh²
    hidden = {"weight": X.T @ sum_bar, "bias": sum_bar.sum(axis=0)}
    output = {"weight": h.T @ logit_bar, "bias": logit_bar.sum(axis=0)}
    return loss, {"dense_0": hidden, "dense_1": output}


def train(params, steps, rate=1.0):
    losses = []
    for _ in range(steps):
        loss, gradient = loss_and_gradient(params)
        losses.append(loss)
        params = jax.tree.map(lambda value, bar: value - rate * bar, params, gradient)
    return params, losses


def draw(path, curves, params):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.1), layout="constrained", dpi=100)
    left, middle, right = figure.subplots(1, 3)
    for losses in curves:
        color, line = ("#d55e00", "--") if losses[-1] > 0.1 else ("#0072b2", "-")
        left.plot(losses, color=color, ls=line, lw=1)
    left.set(title="loss (dashed: stuck)", xlabel="step", ylabel="cross-entropy", yscale="log")
    side = np.linspace(-0.5, 1.5, 60)
    output = forward(params, np.stack(np.meshgrid(side, side), axis=-1))[1][..., 0]
    middle.contourf(side, side, output, levels=[0, 0.5, 1], colors=["#d8d2ea", "#fdd9b5"])
    middle.set(title="output (orange: p > ½)", xlabel="input x₁", ylabel="input x₂", aspect="equal")
    (v1, v2), c = params["dense_1"]["weight"][:, 0], params["dense_1"]["bias"][0]
    right.axline((0, -c / v2), slope=-v1 / v2, color="black")
    for axes, points in ((middle, X), (right, forward(params, X)[0])):
        for label, marker, color in ((0, "o", "#5e3c99"), (1, "s", "#e66101")):
            axes.plot(*points[LABELS[:, 0] == label].T, marker, ms=9, color=color, label=f"XOR = {label}")
    right.set(title="hidden neurons", xlabel="hidden neuron h₁", ylabel="hidden neuron h₂", aspect="equal")
    right.margins(0.1)
    right.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, starts, steps):
    net = fnn.chain(fnn.dense(2), fnn.tanh, fnn.dense(1))
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), starts)
        begun = [jax.tree.map(np.float64, net.init(key, (2,))[0]) for key in keys]
        objective = lambda params: fnn.binary_cross_entropy(net.apply(params, {}, X, train=True)[0], LABELS)  # noqa: E731
        automatic = fnn.trees.flatten(jax.tree.map(np.asarray, jax.grad(objective)(begun[0])))
    for name, bar in fnn.trees.flatten(loss_and_gradient(begun[0])[1]).items():
        off = np.abs(bar - automatic[name]).max()
        print(f"{name:15} gradient by hand {bar.ravel().round(4)}, jax.grad differs by at most {off:.0e}")
    runs = [train(params, steps) for params in begun]
    best, learned = min(runs, key=lambda run: run[1][-1])[0], sum(losses[-1] < 0.1 for _, losses in runs)
    print(
        f"{learned} of {starts} random starts learned XOR. The best one answers {forward(best, X)[1].ravel().round(3)}"
    )
    draw(folder / "xor_by_hand.png", [losses for _, losses in runs], best)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="four starts instead of 20, fewer steps")
    options = parser.parse_args()
    main(options.out, options.seed, *((4, 200) if options.quick else (20, 2000)))
