"""Benchmark of a program against the limits of the device, and the causes that make another program slow.

python examples/08_benchmark.py [--quick]
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

NET, OPTIMIZER = fnn.models.mlp(10), optax.adam(1e-3)


def fast(batch_size, seconds):
    """Measures a train step: each stage, its memory, and its share of the peaks measured in turns with it."""
    start = fnn.training.create_train_state(NET, OPTIMIZER, jax.random.key(0), (28, 28, 1))
    step = fnn.training.make_train_step(NET, fnn.cross_entropy, OPTIMIZER, keep_finite=False)
    x, labels = jnp.ones((batch_size, 28, 28, 1)), jnp.zeros(batch_size, jnp.int32)
    return fnn.benchmark(step, start, x, labels, donate=0, seconds=seconds, layers=True)


def slow(batch_size):
    """Explains a step with four mistakes: data that it closes over, a Python number that comes back as an array, a
    product of integers, and a state that is not donated."""
    images = np.ones((batch_size, 2048), np.float32)

    def step(carry, counts):
        with jax.named_scope("mistakes_0"):
            loss, gradient = jax.value_and_grad(lambda w: jnp.sum(jnp.square(images @ w)))(carry["w"])
            wins = counts @ counts
        return {"step": carry["step"] + jnp.int32(1), "w": carry["w"] - 1e-3 * gradient}, (loss, wins)

    return fnn.explain(step, {"step": 0, "w": jnp.ones((2048, 64))}, jnp.ones((256, 256), jnp.int32))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small batch and a short measurement")
    quick = parser.parse_args().quick
    print(fast(8, seconds=0.05) if quick else fast(128, seconds=2.0))
    print("\nWhat makes the other program slow:")
    print(slow(256))
