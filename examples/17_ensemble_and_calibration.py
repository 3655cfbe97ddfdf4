"""Is a network that says "90% sure" right in 90% of the cases? And are many networks better judges than one?

    python examples/17_ensemble_and_calibration.py [--out FOLDER] [--seed 0] [--quick]

Sixteen networks learn the same 1,000 digits from different random starts, in one sweep. You learn to measure
calibration, which compares how sure a network is with how often it is right. You also see what it brings to average the
probabilities of several networks (an ensemble). A run takes about half a minute. The picture shows the reliability
diagram, where a well calibrated network is on the diagonal, and the loss for ensembles of one to sixteen networks.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn


def reliability(probabilities, labels, bins=10):
    """For each bin of confidence: the mean confidence, and how often the predicted class is right."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    filled = [number for number in range(bins) if np.sum(bin_of == number) >= 20]
    return np.array([(confidence[bin_of == number].mean(), right[bin_of == number].mean()) for number in filled])


def measured(probabilities, labels):
    """The accuracy, the cross-entropy and the expected calibration error."""
    logits = jnp.log(jnp.maximum(probabilities, 1e-30))
    functions = fnn.metrics.accuracy, fnn.cross_entropy, fnn.metrics.calibration_error
    return [float(function(logits, labels)) for function in functions]


def draw(path, diagrams, sizes, losses):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2)
    left.axline((0, 0), slope=1, color="0.6", lw=1, label="well calibrated")
    for (label, diagram), (color, marker) in zip(diagrams.items(), (("#d55e00", "s"), ("#0072b2", "o")), strict=True):
        left.plot(*diagram.T, marker + "-", color=color, label=label)
    left.set(xlabel="confidence (largest probability)", ylabel="share of right answers", title="reliability diagram")
    left.set(xlim=(0.2, 1.02), ylim=(0.2, 1.02))
    left.legend(frameon=False)
    right.plot(sizes, losses, "o-", color="#0072b2")
    right.set(xlabel="networks in the ensemble", ylabel="loss on test digits", xscale="log", title="more networks")
    right.set_xticks(sizes, map(str, sizes))
    right.minorticks_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(folder, seed, count, epochs):
    data = fnn.load_dataset("mnist5k")
    split = fnn.data.Split(data.train_images[:1000], data.train_labels[:1000], data.test_images, data.test_labels)
    net = fnn.chain(fnn.flatten(), fnn.dense(64), fnn.relu, fnn.dense(10))
    members = fnn.grid(seed=range(100 * seed, 100 * seed + count))
    result = fnn.sweep(net, optax.adam(3e-3), members, split, epochs=epochs, batch_size=50)

    x, labels = data.test_images, data.test_labels
    each = [fnn.training.predict_probabilities(net, one.params, one.state, x) for one in result.members]
    sizes = [2**power for power in range(count.bit_length()) if 2**power <= count]
    together = {size: np.mean(each[:size], axis=0) for size in sizes}
    rows = {"one network (mean of all)": np.mean([measured(one, labels) for one in each], axis=0)}
    rows[f"ensemble of {sizes[-1]}"] = measured(together[sizes[-1]], labels)
    for name, (accuracy, loss, error) in rows.items():
        print(f"{name:26} accuracy {accuracy:.3f}, loss {loss:.3f}, expected calibration error {error:.3f}")
    # All single networks side by side, so that the bins have many examples.
    single = reliability(np.concatenate(each), np.tile(labels, count))
    diagrams = {"single networks": single, f"ensemble of {sizes[-1]}": reliability(together[sizes[-1]], labels)}
    losses = [rows["one network (mean of all)"][1], *(measured(together[size], labels)[1] for size in sizes[1:])]
    draw(folder / "ensemble_and_calibration.png", diagrams, sizes, losses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two networks, two epochs")
    options = parser.parse_args()
    main(options.out, options.seed, *((2, 2) if options.quick else (16, 20)))
