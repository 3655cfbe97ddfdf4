"""A network of pure functions learns MNIST: its layers, its training, and its hand-derived gradient.

python examples/02_mnist.py [--dataset mnist5k] [--data-dir DIR] [--quick]
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn


def main(dataset, data_dir, epochs):
    data = fnn.load_dataset(dataset, data_dir)
    print(data.describe())

    net = fnn.chain(
        fnn.flatten(),
        fnn.dense(128, initializer="he"),
        fnn.relu,
        fnn.dense(64, initializer="he"),
        fnn.relu,
        fnn.dense(data.classes),
    )
    print(fnn.summary(net, data.train_images.shape[1:]))

    # All full batches of an epoch are one compiled program, a scan, with the images on the device as bytes.
    run = fnn.fit(net, fnn.cross_entropy, optax.adam(1e-3), data, epochs=epochs, batch_size=64, seed=0)
    for metrics in run.history:
        print(f"epoch {metrics.epoch}: loss {metrics.train_loss:.4f}, test accuracy {metrics.test_accuracy:.4f}")

    # The gradient of the same network, computed twice: by the hand-derived formulas of its layers, composed by chain,
    # and by jax.grad.
    x, labels = jnp.asarray(data.test_images[:100] / 255.0, jnp.float32), jnp.asarray(data.test_labels[:100])
    y, _, pullback = net.vjp(run.params, run.state, x, train=True)
    by_hand, _ = pullback(fnn.cross_entropy.gradient(y, labels))
    automatic = jax.grad(lambda p: fnn.cross_entropy(net.apply(p, run.state, x, train=True)[0], labels))(run.params)
    print("largest difference between the two gradients:")
    automatic = fnn.trees.flatten(automatic)
    for path, ours in fnn.trees.flatten(by_hand).items():
        largest = float(jnp.max(jnp.abs(automatic[path])))
        difference = float(jnp.max(jnp.abs(ours - automatic[path])))
        print(f"  {path:15} {difference:.1e} (largest entry {largest:.1e})")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--data-dir")
    parser.add_argument("--quick", action="store_true", help="two epochs")
    arguments = parser.parse_args()
    main(arguments.dataset, arguments.data_dir, 2 if arguments.quick else 10)
