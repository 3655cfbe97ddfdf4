"""What the first layer of a convolutional network looks for in a digit.

    python examples/16_cnn_filters.py [--out FOLDER] [--seed 0] [--quick]

A convolution compares each 5x5 patch of an image with a few small patterns, its filters. You learn to read the filters
of a trained network, and its feature maps, which show where in the image each filter found its pattern. You also see
how much the network needs each filter, by switching it off. A run takes about half a minute. The picture shows each
filter (blue: positive weights, red: negative ones), its feature map for a digit, and the accuracy without it.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def draw(path, digit, filters, maps, accuracy, without):
    from matplotlib.figure import Figure

    count = len(filters)
    figure = Figure(figsize=(8.4, 3.0), layout="constrained", dpi=100)
    axes = figure.subplots(2, count + 1)
    limit = np.abs(filters).max()
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, "filters", ha="center", va="center", fontsize=11)
    axes[1, 0].imshow(digit, cmap="gray_r")
    axes[1, 0].set(xlabel=f"a digit\nall filters:\n{accuracy:.1%}")
    for number in range(count):
        axes[0, number + 1].imshow(filters[number], cmap="RdBu", vmin=-limit, vmax=limit)
        axes[1, number + 1].imshow(maps[number], cmap="gray_r", vmin=0, vmax=maps.max())
        axes[1, number + 1].set(xlabel=f"without\nfilter {number}:\n{without[number]:.1%}")
        axes[0, number + 1].set(title=f"{number}")
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    figure.suptitle("filters, where they found their pattern in a digit, and the test accuracy", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, filters, images, epochs):
    data = fnn.load_dataset("mnist5k")
    first = fnn.conv(filters, 5)
    net = fnn.chain(first, fnn.relu, fnn.max_pool(4), fnn.flatten(), fnn.dense(10))
    split = fnn.data.Split(data.train_images[:images], data.train_labels[:images], data.test_images, data.test_labels)
    run = fnn.fit(net, fnn.cross_entropy, optax.adam(5e-3), split, epochs=epochs, batch_size=50, seed=seed)

    x = jnp.asarray(fnn.data.scaled_bytes(data.test_images))
    # The image of a 3 that the network is most sure of.
    probabilities = fnn.training.predict_probabilities(net, run.params, run.state, x)
    digit = x[np.argmax(np.where(data.test_labels == 3, probabilities[:, 3], 0))]
    weight = run.params["conv_0"]["weight"]  # (height, width, 1, filters)
    maps = fnn.relu(first.apply(run.params["conv_0"], {}, digit[None], train=False)[0])[0]  # (28, 28, filters)

    accuracies = []
    for kept in (jnp.ones(filters), *(1 - jnp.eye(filters))):  # all filters, then all but one
        params = run.params | {"conv_0": jax.tree.map(lambda leaf, kept=kept: leaf * kept, run.params["conv_0"])}
        y = fnn.training.predict(net, params, run.state, x)
        accuracies.append(float(fnn.metrics.accuracy(y, data.test_labels)))
    accuracy, *without = accuracies
    needed, spare = int(np.argmin(without)), int(np.argmax(without))
    print(f"test accuracy {accuracy:.1%} with {filters} filters of 5x5 weights")
    print(
        f"without filter {needed} it falls to {without[needed]:.1%}, without filter {spare} it is {without[spare]:.1%}"
    )
    filters, maps = np.moveaxis(weight[:, :, 0], -1, 0), np.moveaxis(maps, -1, 0)
    draw(folder / "cnn_filters.png", digit[..., 0], filters, maps, accuracy, without)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="four filters, 500 digits, one epoch")
    options = parser.parse_args()
    main(options.out, options.seed, *((4, 500, 1) if options.quick else (8, 4000, 6)))
