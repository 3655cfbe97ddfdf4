"""Sweeps of many models: the effect of the seed, an ensemble, and learning rate against weight decay.

python examples/07_sweep.py [--dataset mnist5k] [--data-dir DIR] [--out runs/sweep] [--quick]
"""

import argparse
from pathlib import Path

import numpy as np
import optax
from scipy import stats

import functional_nn as fnn


def network(h):
    return fnn.chain(fnn.flatten(), fnn.dense(32), fnn.relu, fnn.dense(10))


def rule(h):
    return optax.adamw(h["learning_rate"], weight_decay=h["weight_decay"])


def main(dataset, data_dir, folder, seeds, rates, decays, epochs):
    data = fnn.load_dataset(dataset, data_dir)
    folder.mkdir(parents=True, exist_ok=True)

    # Members that differ only in numbers share one compiled program. Each has the same result as a separate run.
    settings = fnn.grid(learning_rate=[3e-3], weight_decay=[1e-3], seed=range(seeds))
    alike = fnn.sweep(network, rule, settings, data, epochs=epochs)
    print(alike)
    fnn.plots.plot_spread(alike).savefig(folder / "seeds.png")

    # The mean of many networks is usually better than one of them.
    net, accuracies = network({}), alike.curves("test_accuracy")[:, -1]
    each = [
        fnn.training.predict_probabilities(net, member.params, member.state, data.test_images)
        for member in alike.members
        if member.status == "finished"
    ]
    together = np.mean(np.mean(each, axis=0).argmax(axis=1) == data.test_labels)
    print(f"together: {together:.4f}; alone {accuracies.mean():.4f} on average, {accuracies.max():.4f} at best")

    crossed = fnn.sweep(
        network, rule, fnn.grid(learning_rate=rates, weight_decay=decays, seed=range(2)), data, epochs=epochs
    )
    print(crossed)
    fnn.plots.plot_heat_map(crossed, "learning_rate", "weight_decay").savefig(folder / "decay.png")

    # Is a larger learning rate better? Pairs with the same seed and the same decay are compared.
    low, high = crossed.where(learning_rate=rates[0]), crossed.where(learning_rate=rates[-1])
    test = stats.ttest_rel(high.curves()[:, -1], low.curves()[:, -1])
    interval = test.confidence_interval(0.95)
    print(f"{rates[-1]:g} minus {rates[0]:g}: {interval.low:+.4f} to {interval.high:+.4f}, p = {test.pvalue:.2g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--quick", action="store_true", help="few models, two epochs")
    arguments = parser.parse_args()
    if arguments.quick:
        size = {"seeds": 6, "rates": [1e-4, 1e-2], "decays": [1e-3, 1e-1], "epochs": 2}
    else:
        size = {"seeds": 256, "rates": [3e-4, 1e-3, 3e-3, 1e-2], "decays": [1e-3, 0.1, 1.0], "epochs": 5}
    main(arguments.dataset, arguments.data_dir, arguments.out, **size)
