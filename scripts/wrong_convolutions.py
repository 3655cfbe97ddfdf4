"""Wrong gradients of a convolution, when XLA runs as many programs on a CPU as there are cores.

    python scripts/wrong_convolutions.py          # prints in how many programs the gradients are wrong
    python scripts/wrong_convolutions.py --avoid  # the same, compiled without dividing elementwise operations

It needs jax alone. scripts/wrong_convolutions.md is the report.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 200
AVOID = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}


def inner_product(x, kernel, y_bar):
    numbers = ("NWC", "WOI", "NWC")
    return jnp.vdot(jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=numbers), y_bar)


@jax.jit
def program(x, kernel, y_bar):
    def step(shift, _):
        values = y_bar + shift
        for _ in range(8):  # kernels that XLA divides into one task for each core
            values = jnp.tanh(1.5 * values - values.mean())
        gradient = jax.grad(inner_product)(x, kernel, values)
        return 1e-3 * jnp.mean(gradient), gradient[::4, ::28]  # the next step needs the gradient of this one

    return jax.lax.scan(step, 0.0, length=STEPS)[1]


def main():
    jax.config.update("jax_platforms", "cpu")
    keys = jax.random.split(jax.random.key(0))
    kernel = 0.1 * jax.random.normal(keys[0], (9, 64, 16))
    arguments = jnp.zeros((32, 196, 16)), kernel, jax.random.normal(keys[1], (32, 196, 64))
    compiled = program.lower(*arguments).compile(AVOID if "--avoid" in sys.argv else {})
    right = np.asarray(compiled(*arguments))  # alone

    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as threads:
        results = list(threads.map(lambda _: np.asarray(compiled(*arguments)), range(cores)))
    wrong = 0
    for number, result in enumerate(results):
        differences = np.abs(result - right).max((1, 2, 3)) / np.abs(right).max()
        steps = np.flatnonzero(differences)
        wrong += len(steps) > 0
        first = f"{len(steps)} steps differ, the first is {steps[0]}" if len(steps) else "no step differs"
        print(f"program {number}: {first}; largest relative difference {differences.max():.2g}")
    print(f"jax {jax.__version__}, {cores} cores: {wrong} of {cores} programs are wrong")


if __name__ == "__main__":
    main()
