"""What L1, L2, dropout and early stopping do to the weights and to the loss on new digits.

    python examples/15_regularization.py [--out FOLDER] [--seed 0] [--quick]

A network learns from 500 digits, and one label in seven is wrong. It overfits: its loss on new digits falls and then
rises again. You learn how each of four methods acts against this. The networks are members of a sweep, so one compiled
program trains them all. A run takes about half a minute. The picture shows the loss on new digits after each epoch, and
how many weights of each size there are in the end: L1 makes most weights almost zero, L2 makes the large ones smaller.
"""

import argparse
from pathlib import Path

import numpy as np
import optax

import functional_nn as fnn

STYLES = {"nothing": ("#000000", "-"), "L1": ("#d55e00", "--"), "L2": ("#0072b2", "-."), "dropout": ("#009e73", ":")}
STYLES["early stopping"] = ("#cc79a7", (0, (6, 1)))


def network(h):
    return fnn.chain(fnn.flatten(), fnn.dense(128), fnn.relu, fnn.dropout(h["dropout"]), fnn.dense(10))


def penalty(h):
    l1, l2 = fnn.l1(h["l1"]), fnn.l2(h["l2"])
    return lambda params: l1(params) + l2(params)


def draw(path, curves, weights):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.7), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2)
    for name, (color, line) in STYLES.items():
        left.plot(range(1, len(curves[name]) + 1), curves[name], color=color, ls=line, lw=2, label=name)
        counts, edges = np.histogram(weights[name], bins=np.linspace(-0.4, 0.4, 41))
        right.stairs(np.maximum(counts, 0.5), edges, color=color, ls=line, lw=1.5)
    left.plot(len(curves["early stopping"]), curves["early stopping"][-1], "o", ms=9, color="#cc79a7", mec="black")
    left.set(
        xlabel="epoch", ylabel="loss on validation digits", title="loss", ylim=(None, 1.05 * max(curves["nothing"]))
    )
    right.set(xlabel="weight of the first layer", ylabel="number of weights", yscale="log", title="weights at the end")
    figure.legend(frameon=False, loc="outside lower center", ncols=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, count, epochs):
    data, random = fnn.load_dataset("mnist5k"), np.random.default_rng(seed)
    chosen = random.permutation(len(data.train_images))[: count + 1000]
    images, labels = data.train_images[chosen], data.train_labels[chosen].copy()
    labels[: count // 7] = random.integers(0, 10, count // 7)
    # The validation digits decide when to stop. The test digits are used once, at the end.
    split = fnn.data.Split(images[:count], labels[:count], images[count:], labels[count:])

    def train(members, epochs):
        members = [member | {"seed": seed} for member in members]
        rule = optax.adam(2e-3)
        return fnn.sweep(network, rule, members, split, penalty=penalty, epochs=epochs, batch_size=50)

    rates = {"l1": [0.0, 1e-3, 0.0, 0.0], "l2": [0.0, 0.0, 1e-2, 0.0], "dropout": [0.0, 0.0, 0.0, 0.7]}
    settings = fnn.sweeps.zipped(**rates)
    result = train(settings, epochs)
    stop = int(np.argmin(result.curves("test_loss")[0])) + 1
    stopped = train(settings[:1], stop)

    curves = dict(zip(STYLES, [*result.curves("test_loss"), *stopped.curves("test_loss")], strict=True))
    weights = {}
    for name, member in zip(STYLES, [*result.members, *stopped.members], strict=True):
        weights[name] = np.ravel(member.params["dense_0"]["weight"])
        y = fnn.training.predict(network(member.hyperparameters), member.params, member.state, data.test_images / 255)
        zero = np.mean(np.abs(weights[name]) < 0.01)
        print(
            f"{name:14} test loss {fnn.cross_entropy(y, data.test_labels):.2f}, accuracy "
            f"{fnn.metrics.accuracy(y, data.test_labels):.3f}; {zero:.0%} of the weights are below 0.01, "
            f"the largest is {np.abs(weights[name]).max():.2f}"
        )
    draw(folder / "regularization.png", curves, weights)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="100 digits, three epochs")
    options = parser.parse_args()
    main(options.out, options.seed, *((100, 3) if options.quick else (500, 40)))
