"""Gradient checkers on right and wrong gradients: jax.test_util.check_grads and this package's check_gradients.

    python examples/06_gradient_checkers.py [--quick]

check_grads compares one number, the derivative in one random direction, with a difference of the loss. In float32 the
difference is rounded, and a step in all parameters at once crosses kinks of ReLU. So by default it rejects right
gradients, and with eps=1e-5 it accepts some without the L2 term. In float64 with eps=1e-6 it makes neither mistake.
check_gradients needs no such choice: it compares every parameter, and measures each error relative to the effect of
rounding. The second part locates mistakes in a formula of your own.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

import functional_nn as fnn

NET = fnn.models.mlp(10, hidden=(32,))
L2 = fnn.l2(1e-4)


def digits(count, size=14):
    """Digits of ``size`` × ``size`` pixels. Each pixel is the mean of several pixels of the original."""
    data = fnn.load_dataset("mnist5k")
    blocks = data.train_images[:count].reshape(count, size, 28 // size, size, 28 // size, 1)
    return jnp.float32(blocks.mean(axis=(2, 4)) / 255), jnp.asarray(data.train_labels[:count])


def objective(x, labels, state):
    """The loss with its L2 term, its gradient, and the gradient without the L2 term."""

    def cross_entropy(params):
        return fnn.cross_entropy(NET.apply(params, state, x, train=True)[0], labels)

    def without_l2(params):
        return jax.grad(cross_entropy)(params)

    def right(params):
        return jax.tree.map(jnp.add, without_l2(params), L2.gradient(params))

    return jax.jit(lambda params: cross_entropy(params) + L2(params)), jax.jit(right), jax.jit(without_l2)


def accepts(value, gradient, params, eps=None):
    """Whether check_grads accepts ``gradient`` as the backward pass of a loss."""
    loss = jax.custom_vjp(value)
    loss.defvjp(lambda p: (value(p), p), lambda p, y_bar: (jax.tree.map(lambda g: g * y_bar, gradient(p)),))
    try:
        check_grads(loss, (params,), order=1, modes=["rev"], eps=eps)
    except AssertionError:
        return False
    return True


def compare(starts, examples):
    """Counts the starting points at which check_grads is wrong, and calls check_gradients at one of them."""
    x, labels = digits(examples)
    points, states = zip(*(NET.init(jax.random.key(seed), x.shape[1:]) for seed in range(starts)), strict=True)
    value, right, without_l2 = objective(x, labels, states[0])
    rejected = [params for params in points if not accepts(value, right, params)]
    accepted = [params for params in points if accepts(value, without_l2, params, eps=1e-5)]
    assert rejected, "check_grads accepted every right gradient"
    assert accepted, "check_grads rejected every wrong gradient"
    with jax.enable_x64(True):
        doubles = jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), points)
        loss, *gradients = objective(jnp.float64(x), labels, states[0])
        verdicts = [[accepts(loss, gradient, params, eps=1e-6) for params in doubles] for gradient in gradients]
    mistakes = verdicts[0].count(False) + verdicts[1].count(True)
    reports = [
        fnn.check_gradients(NET, fnn.cross_entropy, params, states[0], x, labels, penalties=[L2], gradient=gradient)
        for params, gradient in ((rejected[0], right), (accepted[0], without_l2))
    ]
    print(f"{'gradient of cross-entropy + L2':32}{'check_grads':>36}{'check_gradients, at one of them':>36}")
    theirs = f"rejected at {len(rejected)} of {starts} points", f"accepted at {len(accepted)} of {starts}, eps=1e-5"
    for name, said, report in zip(("right", "L2 term of 1e-4 missing"), theirs, reports, strict=True):
        print(f"{name:32}{said:>36}{'accepted' if report.passed else 'rejected':>36}")
    print(f"\nIn float64 with eps=1e-6, check_grads is wrong about {mistakes} of {2 * starts} gradients.")
    print(f"\n{reports[1].sentence}")
    assert reports[0].passed
    assert {verdict.leaf for verdict in reports[1].failures} == {"dense_0/weight", "dense_1/weight"}


def standardize(x, scale):
    """Examples (batch, features) with mean 0 and variance 1, times a scale for each feature."""
    centered = x - x.mean(-1, keepdims=True)
    return scale * centered / jnp.sqrt(jnp.mean(centered**2, -1, keepdims=True) + 1e-5)


def standardize_vjp(x, scale, y_bar, mistake=""):
    """The backward pass of ``standardize``, right or with a mistake."""
    centered = x - x.mean(-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centered**2, -1, keepdims=True) + 1e-5)
    normal, normal_bar = centered / deviation, scale * y_bar
    x_bar = normal_bar - normal_bar.mean(-1, keepdims=True)
    if mistake != "variance treated as a constant":
        x_bar -= normal * jnp.mean(normal * normal_bar, -1, keepdims=True)
    scale_bar = jnp.sum(normal * y_bar, 0)
    if mistake == "mean over the examples, not sum":
        scale_bar = jnp.mean(normal * y_bar, 0)
    if mistake == "one element off by a millionth":
        scale_bar = scale_bar.at[3].multiply(1 + 1e-6)
    return x_bar / deviation, scale_bar


MISTAKES = {
    "variance treated as a constant": "x",
    "mean over the examples, not sum": "scale",
    "one element off by a millionth": "scale",
}
"""Each mistake, and the argument whose gradient it changes."""


def locate(mistakes):
    """Prints the verdict of check_vjp on the backward pass of ``standardize`` with each mistake."""
    random = np.random.default_rng(0)
    x, scale = np.float32(random.normal(size=(3, 5))), np.float32(random.normal(size=5))
    for mistake in mistakes:
        report = fnn.check_vjp(standardize, partial(standardize_vjp, mistake=mistake), x, scale, second_order=False)
        print(f"\n{mistake}:\n{report.sentence}")
        assert {verdict.leaf for verdict in report.failures} == {MISTAKES[mistake]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one mistake instead of three")
    quick = parser.parse_args().quick
    compare(starts=8, examples=16)
    locate(list(MISTAKES)[-1:] if quick else MISTAKES)
