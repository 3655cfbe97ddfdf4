"""check_implementation and check_torch: right and wrong backward passes that JAX cannot trace."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from functional_nn.core.errors import InputError
from functional_nn.gradients.compare import passes
from functional_nn.gradients.implementation import check_implementation, check_torch

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return np.random.default_rng(shape).normal(size=shape)


def softmax(x):
    exps = np.exp(x - x.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def softmax_backward(x, y_bar):
    y = softmax(x)
    return y * (y_bar - (y * y_bar).sum(-1, keepdims=True))


def layer_norm(x, scale, bias):
    centered = x - x.mean(-1, keepdims=True)
    return scale * centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) + bias


def layer_norm_backward(x, scale, bias, y_bar, term=1):
    centered = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    normal, bar = centered / deviation, scale * y_bar
    shared = bar.mean(-1, keepdims=True) + term * normal * (normal * bar).mean(-1, keepdims=True)
    return (bar - shared) / deviation, (normal * y_bar).sum(0), y_bar.sum(0)


def cross_entropy(x, labels):
    return -np.log(softmax(x)[np.arange(len(labels)), labels]).mean()


def cross_entropy_backward(x, labels, y_bar):
    return y_bar * (softmax(x) - np.eye(x.shape[1])[labels]) / len(labels), None


def look_up_backward(table, tokens, y_bar):
    table_bar = np.zeros_like(table)
    np.add.at(table_bar, tokens, y_bar)
    return table_bar, None


def assigned(table, tokens, y_bar):
    table_bar = np.zeros_like(table)
    table_bar[tokens] = y_bar
    return table_bar, None


def pairs(x):
    return x.reshape(x.shape[0], -1, 2)


def max_pool_backward(x, y_bar, share=True):
    ties = pairs(x) == pairs(x).max(-1, keepdims=True)
    return (ties / (ties.sum(-1, keepdims=True) if share else 1) * y_bar[..., None]).reshape(x.shape)


def sort_backward(x, y_bar):
    x_bar = np.zeros_like(x)
    np.put_along_axis(x_bar, np.argsort(x, kind="stable"), y_bar, -1)
    return x_bar


def as_in_memory(array):
    """What code in C sees that takes the array for contiguous."""
    return np.lib.stride_tricks.as_strided(array, strides=np.empty(array.shape).strides)


def norm(x):
    return np.sqrt((x**2).sum())


def float32_square(x):
    assert x.dtype == np.float32  # as code in C does
    return x * x


def float32_product(x, w):
    assert x.dtype == np.float32
    return x * np.roll(w, 1)


def number_of_blocks(x):
    return [-(-length // 32) for length in x.shape]


def place(mask, numbers):
    """Numbers where the mask is true, and 0 elsewhere."""
    placed = np.zeros(mask.shape, numbers.dtype)
    placed[mask] = numbers
    return placed


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(np.zeros_like(x), x)


def windows(x, length):
    """Windows with a stride of 2: those of length 3 share numbers, and those of length 2 do not."""
    return np.lib.stride_tricks.sliding_window_view(x, length)[::2]


def fancy_convolution_backward(x, w, y_bar):
    x_bar = np.zeros_like(x)
    x_bar[windows(np.arange(x.size), w.size)] += y_bar[:, None] * w  # np.add.at adds what is for the same number
    return x_bar, windows(x, w.size).T @ y_bar


def squared_sech(x, w):
    return 1 - np.tanh(x @ w) ** 2


def squared_sech_backward(x, w, y_bar):
    t = np.tanh(x @ w)
    bar = -2 * t * (1 - t**2) * y_bar
    return bar @ w.T, x.T @ bar


def pool_from_999(x, y_bar):
    """As code that begins with a smallest number of its own."""
    first, second = pairs(x)[..., 0], pairs(x)[..., 1]
    is_first = (np.maximum(first, -999) >= second) | (second <= -999)
    return np.stack([y_bar * is_first, y_bar * ~is_first], -1).reshape(x.shape)


NORMALIZED = [draw(3, 5), draw(5), draw(5)]
LABELED = [draw(3, 3), np.array([0, 2, 1])]
TOKENS = [draw(4, 2), np.array([1, 3, 1])]
RIGHT = {
    "softmax": (softmax, softmax_backward, [draw(2, 3)]),
    "layer norm": (layer_norm, layer_norm_backward, NORMALIZED),
    "cross entropy": (cross_entropy, cross_entropy_backward, LABELED),
    "embedding": (lambda table, tokens: table[tokens], look_up_backward, TOKENS),
    "max pooling": (lambda x: pairs(x).max(-1), max_pool_backward, [draw(2, 4)]),
    "sorting, zeros repeated": (np.sort, sort_backward, [np.array([[2.0, 1.0, 3.0, 0.0], [0.3, -1.0, 5.0, 4.0]])]),
    "a norm, NaN at 0": (norm, lambda x, y_bar: y_bar * x / norm(x), [draw(4)]),
    "a logarithm": (np.log, lambda x, y_bar: y_bar / x, [np.array([0.5, 2.0, 3.0])]),
    "two outputs": (lambda x: (np.sin(x), x.sum()), lambda x, bars: bars[0] * np.cos(x) + bars[1], [draw(3)]),
    "ReLU at 0": (lambda x: np.maximum(x, 0), lambda x, y_bar: y_bar * (x > 0), [np.array([0.0, 1.0, -2.0])]),
    "saturated in float32": (sigmoid, lambda x, y_bar: y_bar * sigmoid(x) * (1 - sigmoid(x)), [np.float32([0.5, 2])]),
    "a mask without a true flag at length 1": (
        lambda x, mask: x[mask],
        lambda x, mask, y_bar: (place(mask, y_bar), None),
        [draw(4), np.arange(4) % 2 == 1],
    ),
    "labels in bytes": (
        lambda x, labels: x[np.arange(len(x)), labels],
        lambda x, labels, y_bar: (y_bar[:, None] * (np.arange(x.shape[1]) == labels[:, None]), None),
        [draw(4, 3), np.uint8([0, 2, 1, 1])],
    ),
    "float32 only": (float32_square, lambda x, y_bar: 2 * x * y_bar, [np.float32(draw(5))]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_backward_passes_pass(name):
    forward, backward, arrays = RIGHT[name]
    report = check_implementation(forward, backward, *arrays)
    report.raise_if_failed()
    given = [verdict for verdict in report.verdicts if verdict.regime == "given" and verdict.dtype == "float64"]
    assert all(verdict.error + verdict.reference_error < 1e-9 for verdict in given)
    assert len({verdict.regime for verdict in report.verdicts}) > 5
    assert any("at a kink" in reason for _, reason in report.skipped) == (name == "ReLU at 0")


class Cache:
    """A pair whose backward pass uses what the last forward pass left behind."""

    def forward(self, x):
        self.x = x
        return np.sin(x)

    def backward(self, x, y_bar):
        return y_bar * np.cos(self.x)


CACHE = Cache()


class CacheByAddress(Cache):
    """A pair whose backward pass uses what the forward pass left behind for an array in the same memory."""

    address = None

    def forward(self, x):
        self.address = x.ctypes.data
        return super().forward(x.copy())

    def backward(self, x, y_bar):
        return super().backward(x, y_bar) if x.ctypes.data == self.address else y_bar * np.cos(x)


BY_ADDRESS = CacheByAddress()


def in_place(x, y_bar):
    y_bar *= np.cos(x)
    return y_bar


WORKSPACES: dict = {}


def norms(x):
    return np.sqrt((x * x).sum(1, keepdims=True))


def squashed_backward(x, y_bar):
    """For x / (1 + |x|), with 0 / 0 = 0."""
    r = norms(x)
    return y_bar / (1 + r) - x * (x * y_bar).sum(1, keepdims=True) / (np.where(r == 0, 1, r) * (1 + r) ** 2)


WRONG = {
    # the leaf, the kind and the point of the first failure
    "softmax without its sum": (softmax, lambda x, y_bar: softmax(x) * y_bar, [draw(3, 5)], ("x", "vjp", "given")),
    "layer norm without a term": (
        layer_norm,
        lambda *given: layer_norm_backward(*given, term=0),
        NORMALIZED,
        ("x", "vjp", "given"),
    ),
    "repeated indices": (lambda table, tokens: table[tokens], assigned, TOKENS, ("table", "vjp", "given")),
    "indices that may repeat": (
        lambda table, tokens: table[tokens],
        assigned,
        [draw(6, 2), np.array([4, 0, 2, 5])],
        ("table", "vjp", "repeated whole numbers"),
    ),
    "an empty segment between others": (
        lambda x, segments: np.array([x[segments == n].sum() / max((segments == n).sum(), 1) for n in range(4)]),
        lambda x, n, y_bar: ((y_bar / np.resize(np.unique(n, return_counts=True)[1], 4))[n], None),
        [draw(6), np.array([0, 1, 1, 2, 3, 3])],
        ("x", "vjp", "repeated whole numbers"),
    ),
    "no label that counts": (
        lambda x, labels: x @ (labels >= 0) / max((labels >= 0).sum(), 1),
        lambda x, labels, y_bar: (y_bar * (labels >= 0) / (labels >= 0).sum(), None),
        [draw(4), np.array([2, -1, 0, 1])],
        ("x", "vjp", "equal whole numbers"),
    ),
    "y_bar twice": (
        lambda x, w: x * w,
        lambda x, w, y_bar: (y_bar * w, y_bar * y_bar * x),
        [draw(4), draw(4) + 3],
        ("w", "vjp", "given"),
    ),
    "ties": (
        lambda x: pairs(x).max(-1),
        lambda x, y_bar: max_pool_backward(x, y_bar, share=False),
        [draw(3, 6)],
        ("x", "vjp", "equal numbers"),
    ),
    "a slope outside of both at a kink": (
        np.abs,
        lambda x, y_bar: y_bar * np.where(x == 0, 7, np.sign(x)),
        [np.array([0.3, -2.0])],
        ("x", "vjp", "whole numbers"),
    ),
    "one row of zeros taken for all": (
        lambda x: x / (1 + norms(x)),
        lambda x, y_bar: y_bar.copy() if (norms(x) == 0).any() else squashed_backward(x, y_bar),
        [draw(4, 3)],
        ("x", "vjp", "zeros among others"),
    ),
    "one row of False taken for all": (
        lambda x, mask: x**2 * mask,
        lambda x, mask, y_bar: (2 * x * mask * y_bar * mask.any(1).all(), None),
        [draw(3, 4), np.array([[True, False, True, True], [True, True, False, False], [False, True, True, True]])],
        ("x", "vjp", "a row of False"),
    ),
    "0 / 0": (lambda x: x.prod(), lambda x, y_bar: y_bar * x.prod() / x, [draw(4)], ("x", "vjp", "zeros among others")),
    "the other branch": (
        lambda x: np.where(x > 0, np.sin(x), np.cos(x)),
        lambda x, y_bar: y_bar * np.where(x > 0, np.cos(x), np.sin(x)),
        [np.array([1.0, 0.5])],
        ("x", "vjp", "other signs"),
    ),
    "float32 results": (np.sin, lambda x, y_bar: np.float32(y_bar * np.cos(x)), [draw(3)], ("x", "vjp", "given")),
    "groups of four": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (np.arange(x.size) < x.size // 4 * 4),
        [draw(8)],
        ("x", "vjp", "axes of length 8 with length 1"),
    ),
    "33 to 64": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (np.arange(x.size) < (32 if x.size <= 64 else x.size)),
        [draw(5)],
        ("x", "vjp", "axes of length 5 with length 43"),
    ),
    "the last seven of eight": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (1 - (x.size % 8 == 7)),
        [draw(5)],
        ("x", "vjp", "axes of length 5 with length 287"),
    ),
    "16 numbers after blocks of 32": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (x.size < 32 or x.size % 32 < 16),
        [draw(5)],
        ("x", "vjp", "axes of length 5 with length 48"),
    ),
    "half a block of 16": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (np.arange(x.size) < x.size - 8 * (x.size % 16 == 8)),
        [draw(5)],
        ("x", "vjp", "axes of length 5 with length 24"),
    ),
    "a smallest number that is not small enough": (
        lambda x: pairs(x).max(-1),
        pool_from_999,
        [np.abs(draw(2, 8))],
        ("x", "vjp", "very large negative numbers"),
    ),
    "windows that share a number": (
        lambda x, w: windows(x, len(w)) @ w,
        fancy_convolution_backward,
        [draw(7), draw(2)],
        ("x", "vjp", "axes of length 2 with length 3"),
    ),
    "nothing for a tiny cotangent": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (np.abs(y_bar) > 1e-6),
        [np.float32(draw(4))],
        ("x", "vjp", "given"),
    ),
    "more than 1,024": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (np.arange(x.size) < 1024),
        [draw(5)],
        ("x", "vjp", "axes of length 5 with length 1028"),
    ),
    "the rest of a row of tiles of 64 x 64": (
        lambda x, bias: x + bias,
        lambda x, bias, y_bar: (y_bar, y_bar.sum(0) * (min(x.shape) < 64 or np.arange(len(bias)) < len(bias) // 4 * 4)),
        [draw(2, 3), draw(3)],
        ("bias", "vjp", "axes of length 2 with length 67 and axes of length 3 with length 101"),
    ),
    "no work for a cotangent with the sum 0": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (y_bar.sum(-1, keepdims=True) != 0),
        [draw(2, 4)],
        ("x", "vjp", "given"),
    ),
    "more than 4,096 in two axes": (
        lambda x, bias: x + bias,
        lambda x, bias, y_bar: (y_bar, y_bar[: max(4096 // len(bias), 1)].sum(0)),
        [draw(2, 3), draw(3)],
        ("bias", "vjp", "axes of length 2 with length 67 and axes of length 3 with length 101"),
    ),
    "seven blocks of 32": (
        lambda x, bias: x + bias,
        lambda x, bias, y_bar: (y_bar, y_bar.sum(0) * (number_of_blocks(x)[0] != 7)),
        [draw(5, 3), draw(3)],
        ("bias", "vjp", "axes of length 5 with length 205"),
    ),
    "one number of blocks for another": (
        lambda x, bias: x + bias,
        lambda x, bias, y_bar: (y_bar, y_bar.sum(0) * (1 in number_of_blocks(x) or len(x) >= x.shape[1])),
        [draw(5, 3), draw(3)],
        ("bias", "vjp", "axes of length 5 with length 67 and axes of length 3 with length 101"),
    ),
    "zeros are left out": (
        float32_product,
        lambda x, w, y_bar: (np.where(x == 0, 0, y_bar * np.roll(w, 1)), np.roll(y_bar * x, -1)),
        [np.float32(draw(2)), np.float32(draw(2))],
        ("x", "vjp", "whole numbers"),
    ),
    "overflow in the type of the arrays": (
        softplus,
        lambda x, y_bar: y_bar * np.exp(x) / (1 + np.exp(x)),
        [np.float32([-2, 0.3, 3])],
        ("x", "vjp", "large numbers"),
    ),
    "many elements": (
        np.sin,
        lambda x, y_bar: y_bar * np.cos(x) * (np.arange(x.size) != 77),
        [draw(100)],
        ("x", "vjp", "given"),
    ),
    "y_bar in memory": (
        lambda x: x**3,
        lambda x, y_bar: 3 * x**2 * as_in_memory(y_bar),
        [draw(3, 4)],
        ("x", "vjp", "given"),
    ),
    "x in memory": (
        lambda x: x**3,
        lambda x, y_bar: 3 * as_in_memory(x) ** 2 * y_bar,
        [draw(4)],
        ("x", "vjp", "given"),
    ),
    "channels last in memory": (
        lambda x: x**3,
        lambda x, y_bar: 3 * x**2 * y_bar * (2 if y_bar.transpose(0, 2, 3, 1).flags.c_contiguous else 1),
        [draw(2, 3, 1, 2)],
        ("x", "vjp", "given"),
    ),
    "rows that lie apart": (
        lambda x: x**3,
        lambda x, y_bar: 3 * x**2 * (as_in_memory(y_bar) if y_bar.strides[-1] == y_bar.itemsize else y_bar),
        [draw(3, 4)],
        ("x", "vjp", "given"),
    ),
    "one row for all": (
        lambda x: x**3,
        lambda x, y_bar: 3 * x**2 * y_bar * (2 if y_bar.strides[0] == 0 != y_bar.strides[1] else 1),
        [draw(3, 4)],
        ("x", "vjp", "given"),
    ),
    "clipped to float16": (
        lambda x: 3 * x,
        lambda x, y_bar: np.clip(3 * y_bar, -65504, 65504),
        [np.float32(draw(2, 3))],
        ("x", "vjp", "given"),
    ),
    "a cache": (CACHE.forward, CACHE.backward, [draw(3)], ("x", "call", "given")),
    "a cache by address": (
        BY_ADDRESS.forward,
        BY_ADDRESS.backward,
        [draw(3)],
        ("x", "call", "0.3 times the given numbers"),
    ),
    "one memory for all results": (
        np.sin,
        lambda x, y_bar: np.multiply(y_bar, np.cos(x), out=WORKSPACES.setdefault((x.shape, x.dtype), np.copy(x))),
        [draw(3)],
        ("", "call", "given"),
    ),
    "one memory for all results of forward": (
        lambda x: np.sin(x, out=WORKSPACES.setdefault((x.shape, x.dtype, "forward"), np.copy(x))),
        lambda x, y_bar: y_bar * np.cos(x),
        [np.array([1.0])],
        ("", "call", "0.3 times the given numbers"),
    ),
    "x in place": (np.sin, lambda x, y_bar: y_bar * np.cos(x, out=x), [draw(3)], ("x", "call", "given")),
    "in place": (np.sin, in_place, [draw(3)], ("y_bar", "call", "given")),
    "random": (np.sin, lambda x, y_bar: y_bar * np.cos(x) * RANDOM.uniform(), [draw(3)], ("x", "call", "given")),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_backward_passes_fail(name):
    forward, backward, arrays, expected = WRONG[name]
    report = check_implementation(forward, backward, *arrays)
    assert not report.passed
    first = report.failures[0]
    assert (first.leaf, first.kind, first.regime) == expected
    assert first.outcome == "fail"


def test_only_the_given_point_and_inconclusive_derivatives():
    arguments = np.sin, lambda x, y_bar: y_bar * np.cos(x) * (x > 0)
    assert check_implementation(*arguments, np.array([1.0, 0.5]), other_points=False).passed
    assert not check_implementation(*arguments, np.array([1.0, 0.5])).passed
    flat = check_implementation(sigmoid, lambda x, y_bar: 0 * x + 1e-30, np.array([700.0]), other_points=False)
    assert [verdict.outcome for verdict in flat.verdicts] == ["inconclusive"]


def test_what_is_wrong_before_any_comparison():
    def dense(x, weight, bias):
        return x @ weight + bias

    arrays = draw(4, 3), draw(3, 5), draw(5)
    with pytest.raises(InputError, match=r"backward: bias: .*shape \(5,\), got \(4, 5\). Sum over the axes"):
        check_implementation(dense, lambda x, w, b, y_bar: (y_bar @ w.T, x.T @ y_bar, y_bar), *arrays)
    with pytest.raises(InputError, match=r"backward: expected cotangents of .*, got ZeroDivisionError"):
        check_implementation(dense, lambda x, w, b, y_bar: 1 / 0, *arrays)
    with pytest.raises(InputError, match=r"forward: .* got ValueError"):
        check_implementation(dense, lambda x, w, b, y_bar: None, draw(4, 3), draw(4, 5), draw(5))
    with pytest.raises(InputError, match=r"arrays: expected at least one floating-point number"):
        check_implementation(np.sin, lambda x, y_bar: y_bar, np.arange(3))
    with pytest.raises(InputError, match=r"got those of float32. If it computes in float32, give arrays of float32"):
        check_implementation(lambda x: np.float32(np.sin(x)), lambda x, y_bar: y_bar * np.cos(x), draw(3))
    with pytest.raises(InputError, match=r"got those of float32. If it computes in float32, give arrays of float32"):
        check_implementation(lambda x: np.float64(np.sin(np.float32(x))), lambda x, y_bar: y_bar * np.cos(x), draw(3))


def test_arrays_of_a_variable_number_have_names():
    report = check_implementation(
        lambda x, *p: x * p[0] * p[1], lambda *given: [0 * x for x in given[:-1]], *draw(3, 2)
    )
    assert {verdict.leaf for verdict in report.verdicts} == {"x", "p[0]", "p[1]"}


def test_what_is_not_compared_one_by_one():
    passes = np.sin, lambda x, y_bar: y_bar * np.cos(x)
    skipped = "single elements of x: 100 were moved in 32 groups"
    report = check_implementation(*passes, draw(100), other_points=False)
    assert skipped in [what for what, _ in report.skipped]
    assert "reference" not in str(report)
    given = {"reference": jax.numpy.sin, "other_points": False, "mutants": False}
    with_reference = check_implementation(*passes, draw(100), **given)
    with_reference.raise_if_failed()
    assert not with_reference.skipped
    steep = lambda x: np.sin(1e9 * x), lambda x, y_bar: 1e9 * y_bar * np.cos(1e9 * x)
    assert "A reference in jax.numpy can tell more." in str(check_implementation(*steep, draw(3), other_points=False))
    given["reference"] = lambda x: jax.numpy.sin(1e9 * x)
    assert "can tell more" not in str(check_implementation(*steep, draw(3), **given))


def sigmoid_backward(x, y_bar):
    return y_bar * sigmoid(x) * sigmoid(-x)


def test_with_a_reference():
    x = np.array([0.5, -38.0])
    report = check_implementation(sigmoid, sigmoid_backward, x, reference=jax.nn.sigmoid)
    report.raise_if_failed()
    assert report.mutants > 10
    assert not report.wrong_automatic
    assert {verdict.kind for verdict in report.verdicts} == {"vjp", "value"}

    def lossy(x, y_bar):
        return y_bar * sigmoid(x) * (1 - sigmoid(x))

    lost = check_implementation(sigmoid, lossy, -x, reference=jax.nn.sigmoid)
    assert (lost.failures[0].unit, lost.failures[0].index) == ("relative", (1,))

    def steep(x, y_bar):
        return 20 * y_bar * (1 - np.tanh(20 * x) ** 2)

    # At other points, which nobody has chosen, tails do not count.
    near = np.array([0.03, -0.01])
    kept = check_implementation(lambda x: np.tanh(20 * x), steep, near, reference=lambda x: jnp.tanh(20 * x))
    kept.raise_if_failed()

    def larger(x):
        return 1.001 * sigmoid(x)

    def larger_backward(x, y_bar):
        return 1.001 * sigmoid_backward(x, y_bar)

    wrong = check_implementation(larger, larger_backward, x, reference=jax.nn.sigmoid)
    assert (wrong.failures[0].kind, wrong.failures[0].leaf) == ("value", "y")


def test_shapes_with_many_results_are_left_out(monkeypatch):
    monkeypatch.setattr(passes, "MOST_OUTPUTS", 1000)
    report = check_implementation(lambda x: x @ x.T, lambda x, y_bar: (y_bar + y_bar.T) @ x, draw(3, 2))
    report.raise_if_failed()
    regimes = {verdict.regime for verdict in report.verdicts}
    assert "axes of length 3 with length 30" in regimes
    assert "axes of length 3 with length 205" not in regimes
    assert "axes of length 2 with length 205" in regimes


def first_of_tied(x, y_bar):
    return y_bar[..., None] * (np.arange(x.shape[-1]) == x.argmax(-1)[..., None])


@pytest.mark.parametrize("factor", [1, 2])
def test_at_a_kink_any_value_between_the_slopes_passes_with_a_reference(factor):
    x = np.array([[1.0, 3.0, 3.0, -2.0], [0.5, 0.1, 0.2, 0.4]])
    passes = lambda x: x.max(-1), lambda x, y_bar: factor * first_of_tied(x, y_bar)
    given = {"reference": lambda x: x.max(-1), "mutants": False, "other_points": False}
    assert check_implementation(*passes, x, **given).passed == (factor == 1)


@pytest.mark.parametrize("other_points", [False, True])
def test_points_that_a_pass_refuses_with_a_reference(other_points):
    farthest = []

    def forward(x):
        farthest.append(np.abs(x).max())
        if x.min() < -4:
            raise np.linalg.LinAlgError("singular")
        return np.sin(x)

    backward = lambda x, y_bar: y_bar * np.cos(x)  # noqa: E731
    given = {"reference": jax.numpy.sin, "other_points": other_points}
    report = check_implementation(forward, backward, np.array([0.2, 0.5, 0.3]), **given)
    report.raise_if_failed()
    assert report.mutants
    assert (max(farthest) > 3) == other_points


def test_integers_with_a_reference():
    def look_up(table, tokens):
        return table[tokens]

    given = {"reference": look_up, "mutants": False, "other_points": False}
    check_implementation(look_up, look_up_backward, *TOKENS, **given).raise_if_failed()
    assert not check_implementation(look_up, assigned, *TOKENS, **given).passed


def test_the_checks_stand_alone():
    code = (
        "import sys, functional_nn.gradients as g; g.check_implementation; g.check_torch; names = set(sys.modules);"
        "print([n for n in names if n.startswith(('torch', 'functional_nn.training', 'functional_nn.data', "
        "'functional_nn.cli', 'functional_nn.sweeps'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def swish_of(backward):
    torch = pytest.importorskip("torch")

    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

    Swish.backward = staticmethod(backward)
    return torch, Swish.apply


def swish_backward(ctx, y_bar):
    (x,) = ctx.saved_tensors
    s = x.sigmoid()
    return y_bar * s * (1 + x * (1 - s))


def test_a_gradient_that_is_constant_near_the_point_passes():
    """The gradient of relu, by its two arguments: some of its values are 0, and so are all derivatives by x."""
    x, y_bar = draw(2, 7), draw(2, 7)
    derivative = lambda x, y_bar, bar: (0 * x, bar * (x > 0))  # noqa: E731
    assert check_implementation(lambda x, y_bar: y_bar * (x > 0), derivative, x, y_bar).passed


@pytest.mark.parametrize("seed", [0, 9])
def test_digits_that_forward_has_lost_itself_do_not_count(seed):
    """1 - tanh² has steps of 1e-16 in its tail, so two of its differences may agree by chance."""
    random = np.random.default_rng(seed)
    w, x = 3 * random.normal(size=(3, 4)), 3 * random.normal(size=(2, 3))
    check_implementation(squared_sech, squared_sech_backward, x, w).raise_if_failed()


def test_digits_that_a_gradient_has_lost_do_not_count_in_second_order():
    torch, random = pytest.importorskip("torch"), np.random.default_rng(0)
    w, x = (torch.from_numpy(3 * random.normal(size=shape)) for shape in ((3, 4), (2, 3)))
    check_torch(lambda x, w: torch.tanh(x @ w), x, w).raise_if_failed()


@pytest.mark.parametrize("name", ["relu", "abs"])
def test_functions_of_pytorch_that_are_straight_lines_pass(name):
    torch, x = pytest.importorskip("torch"), draw(2, 7)
    x[0, 0] = 0  # the kink
    assert check_torch(getattr(torch, name), torch.from_numpy(x).float(), other_points=False).passed


def test_a_second_derivative_that_is_wrong_for_larger_numbers_only():
    torch, swish = swish_of(
        lambda ctx, y_bar: y_bar * torch.where(ctx.saved_tensors[0].abs() > 2.5, slope(ctx).detach(), slope(ctx))
    )

    def slope(ctx):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return s * (1 + x * (1 - s))

    report = check_torch(swish, torch.from_numpy(0.5 * draw(2, 3)))
    assert report.failures[0].kind == "second order"


def test_a_function_of_pytorch_and_its_second_derivative():
    torch, swish = swish_of(swish_backward)
    report = check_torch(swish, torch.tensor([[0.5, -1.0], [2.0, 0.25]]), reference=jax.nn.silu, mutants=False)
    report.raise_if_failed()
    assert {(verdict.kind, verdict.leaf) for verdict in report.verdicts} == {
        ("vjp", "x"),
        ("value", "y"),
        ("second order", "x"),
        ("second order", "y_bar"),
    }
    assert {verdict.dtype for verdict in report.verdicts} == {"float64", "float32"}
    assert report.title == "Swish"


def detached(ctx, y_bar):
    (x,) = ctx.saved_tensors
    s = x.detach().sigmoid()
    return y_bar * s * (1 + x.detach() * (1 - s))


def detached_beyond_32(ctx, y_bar):
    (x,) = ctx.saved_tensors
    s, x = x.sigmoid(), x if len(x) <= 32 else x.detach()
    return y_bar * s * (1 + x * (1 - s))


def without_strides(ctx, y_bar):
    return swish_backward(ctx, y_bar * y_bar.is_contiguous())


def detached_elsewhere(ctx, y_bar):
    (x,) = ctx.saved_tensors
    s, x = x.sigmoid(), x.where(x > -1.5, x.detach())
    return y_bar * s * (1 + x * (1 - s))


def test_a_gradient_without_strides():
    torch, swish = swish_of(without_strides)
    report = check_torch(swish, torch.tensor([0.5, -1.0, 2.0]))
    assert "Only calls with arrays or a y_bar that are not contiguous show this mistake" in report.sentence


@pytest.mark.parametrize(
    ("backward", "kind"),
    [
        (lambda ctx, y_bar: y_bar, "vjp"),
        (detached, "second order"),
        (detached_elsewhere, "second order"),
        (detached_beyond_32, "second order"),
    ],
)
def test_wrong_functions_of_pytorch(backward, kind):
    torch, swish = swish_of(backward)
    report = check_torch(swish, torch.tensor([0.5, -1.0, 2.0]))
    assert (report.failures[0].outcome, report.failures[0].kind) == ("fail", kind)


def test_a_backward_pass_that_pytorch_cannot_differentiate():
    torch, swish = swish_of(lambda ctx, y_bar: swish_backward(ctx, y_bar).detach())
    x = torch.tensor([0.5, -1.0, 2.0])
    report = check_torch(swish, x)
    assert not report.passed
    assert "not compared, because of RuntimeError" in report.sentence
    assert check_torch(swish, x, second_order=False).passed


def product_of(backward, unused_are_none=False):
    torch = pytest.importorskip("torch")

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.set_materialize_grads(not unused_are_none)
            y = torch.sinh(x) * w
            ctx.save_for_backward(x, w, y)
            return y, x + w

    Product.backward = staticmethod(backward)
    tensors = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.5, 0.5, -1.0])
    return check_torch(Product.apply, *tensors, second_order=False, other_points=False)


def product_backward(ctx, y_bar, sum_bar):
    x, w, _ = ctx.saved_tensors
    return y_bar * x.cosh() * w + sum_bar, y_bar * x.sinh() + sum_bar


def of_the_wrong_input(ctx, y_bar, sum_bar):
    x_bar, w_bar = product_backward(ctx, y_bar, sum_bar)
    return x_bar, w_bar if ctx.needs_input_grad[0] else None


def nothing_without_y_bar(ctx, y_bar, sum_bar):
    return (None, None) if y_bar is None else product_backward(ctx, y_bar, 0 if sum_bar is None else sum_bar)


def in_place(ctx, y_bar, sum_bar):
    bars = product_backward(ctx, y_bar, sum_bar)
    ctx.saved_tensors[2].data.mul_(2)
    return bars


def adds_to_grad(ctx, y_bar, sum_bar):
    x_bar, w_bar = product_backward(ctx, y_bar, sum_bar)
    if ctx.saved_tensors[1].is_leaf:
        ctx.saved_tensors[1].grad = w_bar.detach()
    return x_bar, w_bar


def test_a_gradient_is_the_same_in_each_way_to_ask_for_it():
    product_of(product_backward).raise_if_failed()
    assert "w (call, float64, plain, normal): The backward pass changes .grad" in product_of(adds_to_grad).sentence
    words = "w (call, float64, plain, normal): The gradient is different if only these require a gradient: w."
    assert words in product_of(of_the_wrong_input).sentence
    words = "The gradient is different if only these results are used: y[1]."
    assert words in product_of(nothing_without_y_bar, unused_are_none=True).sentence
    assert "raises TypeError" in product_of(product_backward, unused_are_none=True).sentence
    assert "The backward pass changes the result of the forward pass" in product_of(in_place).sentence


KEPT = {}


def of_the_last_call(ctx, y_bar):
    return y_bar * KEPT["w"], y_bar * KEPT["x"], y_bar


def to_the_same_memory(ctx, y_bar):
    x, w = ctx.saved_tensors
    bars = y_bar * w, y_bar * x, y_bar.clone()
    return tuple(KEPT.setdefault((bar.dtype, place, len(bar)), bar).copy_(bar) for place, bar in enumerate(bars))


def of_an_unsaved_argument(ctx, y_bar):
    return y_bar * ctx.unsaved[1], y_bar * ctx.unsaved[0], y_bar


def from_the_start_of_memory(ctx, y_bar):
    x, w = ctx.saved_tensors
    return y_bar * w.as_strided(w.shape, w.stride(), 0), y_bar * x, y_bar


@pytest.mark.parametrize(
    ("backward", "words"),
    [
        (of_the_last_call, "different if both passes are called with other numbers in between"),
        (to_the_same_memory, "A call of backward changes what an earlier call has returned."),
        (
            of_an_unsaved_argument,
            "w (call, float64, plain, normal): The gradient is different if the argument x is changed",
        ),
        (from_the_start_of_memory, "different if the tensors are parts of longer ones"),
    ],
)
def test_a_gradient_is_the_same_whatever_else_is_computed(backward, words):
    torch = pytest.importorskip("torch")

    class Affine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, b):
            ctx.save_for_backward(x, w)
            ctx.unsaved = x.detach(), w.detach()
            KEPT.update(x=x.detach(), w=w.detach())
            return x * w + b

    Affine.backward = staticmethod(backward)
    tensors = torch.from_numpy(draw(3)), torch.from_numpy(draw(3)), torch.from_numpy(draw(3))
    assert words in check_torch(Affine.apply, *tensors, second_order=False, other_points=False).sentence


def test_a_backward_pass_that_works_only_once():
    torch = pytest.importorskip("torch")

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(2 * x)
            return x * x

        @staticmethod
        def backward(ctx, y_bar):
            return ctx.saved_tensors[0].mul_(y_bar)

    report = check_torch(Square.apply, torch.from_numpy(draw(3)), second_order=False, other_points=False)
    assert "if the same graph is used a second time" in report.sentence


@pytest.mark.parametrize("saves", [True, False])
def test_a_result_that_is_changed_in_place(saves):
    torch = pytest.importorskip("torch")

    class Exponential(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.y = x.exp()
            ctx.save_for_backward(ctx.y)
            return ctx.y

        @staticmethod
        def backward(ctx, y_bar):
            return y_bar * (ctx.saved_tensors[0] if saves else ctx.y)

    report = check_torch(Exponential.apply, torch.from_numpy(draw(3)), other_points=False)
    assert report.passed if saves else "different if its result is changed in place" in report.sentence


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("name", ["rows", "mask"])
def test_a_constant_that_is_changed_in_place(name, saves):
    torch = pytest.importorskip("torch")

    class Lookup(torch.autograd.Function):
        @staticmethod
        def forward(ctx, table, rows, mask):
            ctx.constants = {"rows": rows, "mask": mask}
            ctx.save_for_backward(*(x for key, x in ctx.constants.items() if saves or key != name))
            ctx.shape = table.shape
            return table[rows] * mask

        @staticmethod
        def backward(ctx, y_bar):
            assert ctx.saved_tensors is not None  # here PyTorch notices a change
            rows, mask = ctx.constants.values()
            return y_bar.new_zeros(ctx.shape).index_add(0, rows, y_bar * mask), None, None

    constants = torch.tensor([2, 0, 2]), torch.tensor([[2.0], [0.5], [1.5]])
    report = check_torch(Lookup.apply, torch.randn(4, 2, requires_grad=True), *constants, other_points=False)
    words = (
        f"table (call, float64, plain, normal): The gradient is different if the argument {name} is changed in place"
    )
    assert report.passed if saves else words in report.sentence
    assert constants[0].tolist() == [2, 0, 2]
    assert constants[1].tolist() == [[2.0], [0.5], [1.5]]


def of_parameters_alone(ctx, y_bar, *others):
    factor = 2 if ctx.needs_input_grad == (False, False, True, True) else 1
    return y_bar, *(factor * bar if bar is not None else None for bar in others)


def without_the_second(ctx, y_bar, h_bar, w_bar, b_bar):
    return y_bar, h_bar, w_bar if y_bar is None or h_bar is not None else None, b_bar


@pytest.mark.parametrize(
    ("backward", "words"),
    [
        (of_parameters_alone, "different if only these require a gradient: w, b."),
        (without_the_second, "different if only these results are used: y[0], y[2]."),
    ],
)
def test_any_tensors_may_require_a_gradient_and_any_results_may_be_used(backward, words):
    torch = pytest.importorskip("torch")

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, h, w, b):
            ctx.set_materialize_grads(False)
            return x * 1, h * 1, w * 1, b * 1

    Doubled.backward = staticmethod(backward)
    tensors = [torch.from_numpy(draw(2)) for _ in range(4)]
    report = check_torch(Doubled.apply, *tensors, second_order=False, other_points=False)
    assert words in report.sentence


@pytest.mark.parametrize(
    "mistake", ["", "only these results are used: y[1]", "only the gradients by these are used: s"]
)
def test_second_derivatives_of_some_results_and_of_some_gradients(mistake):
    torch = pytest.importorskip("torch")

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, s, y_bar):
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(x, s, y_bar)
            return 3 * x**2 * s * y_bar, x**3 * y_bar

        @staticmethod
        def backward(ctx, u, v):
            x, s, y_bar = ctx.saved_tensors
            if u is None and "gradients" in mistake:
                return None, None, None
            u, v = (torch.zeros_like(x) if bar is None else bar for bar in (u, v))
            return (6 * x * s * u + 3 * x**2 * v) * y_bar, 3 * x**2 * y_bar * u, 3 * x**2 * s * u + x**3 * v

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, s):
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(x, s)
            return torch.sin(x), x**3 * s

        @staticmethod
        def backward(ctx, of_sine, of_cube):
            x, s = ctx.saved_tensors
            x_bar, s_bar = (0, None) if of_cube is None else Gradient.apply(x, s, of_cube)
            if of_sine is None and "results" in mistake:
                return x_bar.detach(), s_bar
            return x_bar + (0 if of_sine is None else of_sine * torch.cos(x)), s_bar

    report = check_torch(Product.apply, torch.from_numpy(draw(3)), torch.from_numpy(draw(3)), other_points=False)
    assert report.passed if not mistake else f"second derivative is different if {mistake}." in report.sentence


def test_other_tensors_are_constants():
    torch = pytest.importorskip("torch")
    weight, labels = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 3])
    report = check_torch(
        lambda x, weight, labels: torch.nn.functional.cross_entropy(x @ weight, labels),
        torch.randn(2, 3),
        weight,
        labels,
    )
    report.raise_if_failed()
    assert {verdict.leaf for verdict in report.verdicts} == {"weight", "y_bar"}


def test_the_sentence_says_where_y_bar_is_1():
    def sentence(forward, backward):
        return check_implementation(forward, backward, np.array([[1.0], [2.0]])).sentence

    one = sentence(np.sin, lambda x, y_bar: [[1], [2]] * y_bar * np.cos(x))
    assert "It is 2 times too large. Here y_bar is 1 at (1, 0), and 0 elsewhere." in one
    ties = sentence(lambda x: x.max(0), lambda x, y_bar: y_bar * (x == x.max(0)))
    assert "moved together by 1, 1: this is the sum of their derivatives times these steps. Here y_bar is 1." in ties
    two = sentence(lambda x: (x[0], x), lambda x, y_bars: [[1], [0]] * y_bars[0] + 3 * y_bars[1])
    assert "It is 3 times too large. Here y_bar[1] is 1 at (0, 0), and 0 elsewhere." in two


def test_the_sentence_names_the_number_where_a_formula_is_not_finite():
    forward, backward, arrays, _ = WRONG["0 / 0"]
    assert check_implementation(forward, backward, *arrays).sentence.endswith(" This element of x is 0.")


def test_whole_numbers_change_their_lengths_with_the_others():
    torch = pytest.importorskip("torch")

    class MeanLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, labels):
            ctx.save_for_backward(x, labels)
            return torch.nn.functional.cross_entropy(x, labels)

        @staticmethod
        def backward(ctx, y_bar):
            x, labels = ctx.saved_tensors
            return y_bar * (x.softmax(1) - torch.nn.functional.one_hot(labels, x.shape[1])) / 4, None

    report = check_torch(MeanLoss.apply, torch.randn(4, 3), torch.tensor([0, 2, 1, 2]), second_order=False)
    assert report.failures[0].regime == "axes of length 4 with length 1"


def test_the_second_largest_of_three_equal_numbers_has_no_derivative(monkeypatch):
    """If all three move, it changes as the one in the middle does. A formula has to choose one of them."""
    at = np.array([[1.0, 2.0, 0.0, -1.0, -2.0], [-1.0, 0.0, -2.0, 0.0, 0.0], [1.0, 0.0, 1.0, -1.0, 0.0]])

    def backward(x, y_bar):
        first = np.arange(x.shape[1]) == x.argmax(1)[:, None]
        rest = np.where(first, -np.inf, x)
        last = np.arange(x.shape[1])[::-1] == rest[:, ::-1].argmax(1)[:, None]
        return first * y_bar[:, :1] + last * y_bar[:, 1:]

    monkeypatch.setattr(passes, "SIZES", ())
    monkeypatch.setattr(passes, "POINTS", {"whole numbers": lambda x, random, number: at})
    report = check_implementation(lambda x: -np.sort(-x)[:, :2], backward, draw(3, 5))
    report.raise_if_failed()
    assert "whole numbers" in {verdict.regime for verdict in report.verdicts}


def test_numbers_of_float32_far_from_zero():
    """Steps relative to 500 are far too large for numbers that are 1 apart."""

    def parts(x):
        if x.dtype != np.float32:
            raise TypeError
        centered = x - x.mean(-1, keepdims=True)
        scale = np.sqrt(np.mean(centered**2, -1, keepdims=True))
        return centered / scale, scale

    def backward(x, y_bar, factor=1):
        y, scale = parts(x)
        return (y_bar - y_bar.mean(-1, keepdims=True) - factor * y * (y * y_bar).mean(-1, keepdims=True)) / scale

    def reference(x):
        centered = x - x.mean(-1, keepdims=True)
        return centered / jnp.sqrt(jnp.mean(centered**2, -1, keepdims=True))

    x = np.float32(500 + draw(2, 5))
    given = {"reference": reference, "mutants": False, "other_points": False}
    check_implementation(lambda x: parts(x)[0], backward, x, **given).raise_if_failed()
    wrong = check_implementation(lambda x: parts(x)[0], lambda x, y_bar: backward(x, y_bar, 0.9), x)
    assert (wrong.failures[0].outcome, wrong.failures[0].regime) == ("fail", "given")


def test_lengths_at_which_forward_is_slow_are_left_out():
    def forward(x):
        time.sleep(0.11 * (len(x) > 1000))
        return np.sin(x)

    report = check_implementation(forward, lambda x, y_bar: np.cos(x) * y_bar, draw(3))
    report.raise_if_failed()
    place = "the point with axes of length 3 with length 1028"
    assert (place, "There, one call of forward takes more than 0.1 seconds.") in report.skipped
