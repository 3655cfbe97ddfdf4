"""Which digits pull hardest at the weights? The gradient of each example alone, by vmap of grad.

    python examples/19_per_example_gradients.py [--out FOLDER] [--seed 0] [--quick]

The gradient of a batch is the mean of one gradient for each example, and some examples have a much larger one than
others. Here a tenth of the labels is wrong. You learn to compute all single gradients at once, to find wrong labels by
their size, and to bound the influence of each example by clipping its gradient. A run takes about half a minute. The
picture shows the sizes, the digits that pull hardest, and the accuracy with and without clipping.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import functional_nn as fnn


def clipped(limit):
    """What ``fit`` takes in the place of jax.value_and_grad: no example's gradient has a norm above the limit."""

    def gradient_of(objective, has_aux):
        def differentiate(params, state, x, labels, key):
            def of_one(x, label):
                return jax.value_and_grad(objective, has_aux=True)(params, state, x[None], label[None], key)

            values, gradients = jax.vmap(of_one)(x, labels)
            total, _ = optax.per_example_global_norm_clip(gradients, limit)
            return jax.tree.map(lambda leaf: leaf.mean(axis=0), values), jax.tree.map(lambda bar: bar / len(x), total)

        return differentiate

    return gradient_of


@partial(jax.jit, static_argnums=0)
def gradient_sizes(net, params, x, labels):
    """The norm of the gradient of each example."""

    def loss(params, x, label):
        return fnn.cross_entropy(net.apply(params, {}, x[None], train=True)[0], label[None])

    # vmap, for 50 examples at a time
    return jax.lax.map(lambda pair: optax.tree.norm(jax.grad(loss)(params, *pair)), (x, labels), batch_size=50)


def draw(path, sizes, wrong, hardest, images, labels, curves):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), layout="constrained", dpi=100)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.9, 1))
    left, right = top.subplots(1, 2)
    bins = np.geomspace(max(sizes.min(), 1e-4), sizes.max(), 40)
    left.hist(sizes[~wrong], bins, color="#0072b2", alpha=0.8, label="right label")
    left.hist(sizes[wrong], bins, histtype="step", lw=2, color="#d55e00", label="wrong label")
    left.set(xlabel="norm of the gradient of one example", ylabel="number of examples", xscale="log", title="who pulls")
    for (label, curve), color, line in zip(curves.items(), ("#d55e00", "#0072b2"), ("--", "-"), strict=True):
        right.plot(range(1, len(curve) + 1), curve, color=color, ls=line, marker="o", ms=4, label=label)
    right.set(xlabel="epoch", ylabel="accuracy on test digits", title="training with a tenth of wrong labels")
    left.legend(frameon=False)
    right.legend(frameon=False)
    bottom.suptitle("the digits that pull hardest, with their labels (*: the label is wrong)", fontsize=11)
    for axes, number in zip(bottom.subplots(1, 10), hardest, strict=False):
        axes.imshow(images[number, ..., 0], cmap="gray_r")
        axes.set(xticks=[], yticks=[], xlabel=f"{labels[number]}{'*' * int(wrong[number])}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, count, hidden, epochs):
    data, random = fnn.load_dataset("mnist5k"), np.random.default_rng(seed)
    images, true, wrong = data.train_images[:count], data.train_labels[:count], random.random(count) < 0.1
    labels = np.where(wrong, (true + random.integers(1, 10, count)) % 10, true).astype(true.dtype)
    split = fnn.data.Split(images, labels, data.test_images, data.test_labels)
    net = fnn.chain(fnn.flatten(), fnn.dense(hidden), fnn.relu, fnn.dense(10))
    runs, optimizer = {}, optax.sgd(0.2, momentum=0.9)
    for name, options in (("plain", {}), ("each gradient clipped", {"gradient": clipped(1.0)})):
        runs[name] = fnn.fit(net, fnn.cross_entropy, optimizer, split, epochs=epochs, seed=seed, **options)
    curves = {name: [metrics.test_accuracy for metrics in run.history] for name, run in runs.items()}

    params, x = runs["each gradient clipped"].params, fnn.data.scaled_bytes(images)
    sizes = np.asarray(gradient_sizes(net, params, x, labels))
    hardest = np.argsort(-sizes)[: count // 10]
    print(f"a tenth of the examples has {sizes[hardest].sum() / sizes.sum():.0%} of the sum of all norms, and in this")
    print(f"tenth {wrong[hardest].mean():.0%} of the labels are wrong; of all labels {wrong.mean():.0%} are wrong")
    print(", ".join(f"{name}: test accuracy {curve[-1]:.3f}" for name, curve in curves.items()))
    draw(folder / "per_example_gradients.png", sizes, wrong, hardest[:10], images, labels, curves)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="1,000 digits, a small network, four epochs")
    options = parser.parse_args()
    main(options.out, options.seed, *((1000, 16, 4) if options.quick else (4000, 32, 8)))
