"""Checks the exercises of a chapter, and says which element of which array is wrong.

    python -m pytest examples/exercises -k chapter_04

In a notebook in this folder, define a function with the name and the arguments of an exercise, and check it:

    from test_exercises import check
    check(dense_backward)
"""

import inspect
import runpy
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import optax

import functional_nn as fnn


def check(exercise):
    """Prints what is wrong with the function of an exercise, or that it is right."""
    print(problem(exercise) or f"{exercise.__name__}: right")


def pytest_generate_tests(metafunc):
    """Makes a test of each exercise. In a notebook, pytest need not be installed: it is not imported above."""
    metafunc.parametrize(("chapter", "name"), [(chapter, name) for chapter in EXERCISES for name in EXERCISES[chapter]])


def test_exercise(chapter, name):
    import pytest

    exercise = runpy.run_path(str(Path(__file__).with_name(f"{chapter}.py")))[name]
    try:
        wrong = problem(exercise)
    except NotImplementedError:
        pytest.skip(f"not yet written: {name}")
    if wrong:
        pytest.fail(wrong, pytrace=False)


def __tracebackhide__(error):
    """If an exercise raises an error, pytest shows its lines and not those of this file."""
    return error.typename != "Failed"


class Wrong(Exception):
    """Why the results of an exercise cannot be compared."""


def problem(exercise):
    """What is wrong with the function of an exercise, in words. It is "" if nothing is."""
    name, parameters = exercise.__name__, list(inspect.signature(exercise).parameters)
    known = {name: how for chapter in EXERCISES.values() for name, how in chapter.items()}
    if name not in known:
        return f"{name} is not the name of an exercise. The names are {', '.join(known)}."
    compare, arguments = known[name]
    try:
        verdicts = compare(exercise)
    except Wrong as error:
        return f"{name}: {error}"
    lines = {verdict.leaf: f"{verdict.leaf}: right" for verdict in verdicts}
    failures = [verdict for verdict in verdicts if verdict.outcome == "fail"]
    wrong = {verdict.leaf: described(verdict, parameters[len(arguments) :]) for verdict in reversed(failures)}
    if not wrong:
        return ""
    if len(wrong) == len(lines) > 1:
        lines[""] = "All are wrong. Look first at what they share."
    given = zip(parameters, map(np.asarray, arguments), strict=False)
    arrays = [f"  {name} = {array.tolist()}" for name, array in given if array.dtype != object]  # functions are objects
    return "\n    ".join([f"{name}:", *(lines | wrong).values(), "The arguments:", *arrays])


def described(verdict, cotangents):
    """A verdict in words that need no knowledge of the package.

    The names of the cotangents are those in the exercise. If there are none, nothing is said about them.
    """
    if verdict.hand is None:
        return f"{verdict.leaf}: {verdict.note}"
    note = verdict.note if cotangents else ""
    for number, name in enumerate(cotangents):
        note = note.replace(f"y_bar[{number}]" if len(cotangents) > 1 else "y_bar", name)
    place = f"{verdict.leaf}{list(verdict.index) or ''}"
    values = f"{place} is {verdict.hand:.6g}, but must be {verdict.arbiter:.6g}."
    return " ".join(filter(None, (values, verdict.likely_cause, note)))


def results(exercise, names, shapes, arguments):
    """Calls the function of an exercise. Its results must have these names and shapes."""
    with np.errstate(all="ignore"):  # numbers that are not finite are reported below
        found = exercise(*deepcopy(arguments))
    if found is None:
        raise Wrong("it returns nothing. Is the line with return missing?")
    found = found if isinstance(found, tuple | list) and len(names) > 1 else (found,)
    if len(found) != len(names):
        raise Wrong(f"it must return {len(names)} results: {', '.join(names)}.")
    for name, one, shape in zip(names, map(np.shape, found), shapes, strict=True):
        hint = " It is transposed." if one == shape[::-1] else ""
        hint = " Is a sum missing?" if len(one) > len(shape) else hint
        if one != shape:
            raise Wrong(f"{name} has the shape {one}, but must have the shape {shape}.{hint}")
    return [np.asarray(one, float) for one in found]


def gradient(forward, *arrays):
    """The comparison of a backward pass with differences of the forward pass. Whole numbers have no gradient."""
    floats = [place for place, array in enumerate(arrays) if array.dtype.kind == "f"]
    parameters = list(inspect.signature(forward).parameters)

    def verdicts(exercise):
        takes_y_bar = len(inspect.signature(exercise).parameters) > len(arrays)
        names = [f"{parameters[place]}_bar" for place in floats]
        names = names if takes_y_bar or len(names) > 1 else ["result"]
        shapes = [arrays[place].shape for place in floats]

        def backward(*arguments):
            *arguments, y_bar = arguments
            y_bars = y_bar if isinstance(y_bar, tuple) else (y_bar,)
            found = results(exercise, names, shapes, (*arguments, *y_bars) if takes_y_bar else arguments)
            # Without y_bar, it is the gradient of a loss, or the derivative of a function of single elements.
            bars = dict(zip(floats, found if takes_y_bar else [bar * y_bar for bar in found], strict=True))
            return tuple(map(bars.get, range(len(arrays))))

        y = forward(*arrays)
        backward(*arrays, tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y))
        report = fnn.gradients.check_implementation(forward, backward, *arrays, other_points=False)
        renamed = dict(zip((parameters[place] for place in floats), names, strict=True))
        return [replace(verdict, leaf=renamed.get(verdict.leaf, verdict.leaf)) for verdict in report.verdicts]

    return verdicts, arrays


def values(reference, *arguments, names=("result",), smallest=1e-6):
    """The comparison of a function with the right values, or with a function that gives them.

    A value may be off by 1e-4 of itself, or by the smallest error that counts.
    """

    def verdicts(exercise):
        right = reference(*arguments) if callable(reference) else reference
        right = [np.asarray(one, float) for one in (right if len(names) > 1 else [right])]
        found = results(exercise, names, [one.shape for one in right], arguments)
        compared = []
        for name, hand, arbiter in zip(names, found, right, strict=True):
            error = np.nan_to_num(abs(hand - arbiter) / (1e-4 * abs(arbiter) + smallest), nan=np.inf)
            at = tuple(map(int, np.unravel_index(np.argmax(error), error.shape)))
            pair = {"hand": float(hand[at]), "arbiter": float(arbiter[at])}
            outcome = "fail" if error[at] > 1 else "pass"
            compared.append(fnn.gradients.Verdict("", name, outcome, error[at], 1.0, index=at, **pair))
        return compared

    return verdicts, arguments


# Below are the functions whose gradients or values are compared. The chapters have the same formulas.

random = np.random.default_rng(0)


def draw(*shape):
    """Random numbers with one decimal, which can be read and typed. None is 0, since 0 hides mistakes."""
    numbers = np.round(random.normal(size=shape), 1)
    return np.where(numbers == 0, 0.5, numbers)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def neuron(x, weight, bias):
    return sigmoid(x @ weight + bias)


def softmax(s):
    return np.exp(s) / np.exp(s).sum(-1, keepdims=True)


def convolution(x, kernel):
    return np.einsum("ijab,ab", np.lib.stride_tricks.sliding_window_view(x, kernel.shape), kernel)


def cross_entropy(logits, labels):
    return np.mean(np.logaddexp.reduce(logits, axis=1) - logits[range(len(labels)), labels])


def half_squared_error(x, target, weight_1, bias_1, weight_2, bias_2):
    y = sigmoid(sigmoid(x @ weight_1 + bias_1) @ weight_2 + bias_2)
    return np.sum((y - target) ** 2) / 2 / len(x)


def states(x, weight, hidden_weight, bias):
    h = [np.zeros((len(x), len(bias)))]
    for step in range(x.shape[1]):
        h.append(np.tanh(x[:, step] @ weight + h[-1] @ hidden_weight + bias))
    return np.stack(h[1:], axis=1)


def last_state(x, w, u, b):
    return states(x[None, :, None], w[None, None], u[None, None], b[None])[0, -1, 0]


def cell(c, f, i, g, o):
    return f * c + i * g, o * np.tanh(f * c + i * g)


def momentum(w, g, m, rate):
    update, (trace, _) = optax.sgd(rate, momentum=0.9).update(g, (optax.TraceState(m), optax.EmptyState()))
    return w + update, trace.trace


def adam(w, g, m, v, n, rate):
    state = optax.ScaleByAdamState(np.int32(n - 1), m, v), optax.EmptyState()
    update, (state, _) = optax.adam(rate).update(g, state)
    return w + update, state.mu, state.nu


def causal(q, k):
    scores = q @ k.T / np.sqrt(q.shape[1])
    return softmax(np.where(np.tri(len(q)), scores, -np.inf))


both_sides = np.array([-2.0, -0.5, 0.3, 3.0])

EXERCISES = {
    "chapter_01": {
        "and_neuron": values([0, 0, 0, 1], np.array([[0, 0], [0, 1], [1, 0], [1, 1]])),
        "neuron": values(neuron, draw(4, 3), draw(3), draw()),
        "mean_loss": values(
            lambda y, labels: -np.log(np.where(labels, y, 1 - y)).mean(),
            np.array([0.9, 0.2, 0.6]),
            np.array([1, 0, 0]),
        ),
    },
    "chapter_02": {
        "sigmoid_derivative": gradient(sigmoid, both_sides),
        "leaky_relu_derivative": gradient(lambda x: np.where(x < 0, 0.01 * x, x), both_sides),
        "tanh_by_sigmoid": values(np.tanh, both_sides),
    },
    "chapter_03": {
        "product": values(np.matmul, draw(4, 3), draw(3, 2)),
        "network": values(
            lambda x, weight_1, bias_1, weight_2, bias_2: np.maximum(x @ weight_1 + bias_1, 0) @ weight_2 + bias_2,
            *(draw(*shape) for shape in ((4, 3), (3, 5), (5,), (5, 2), (2,))),
        ),
        "parameter_count": values(2673, [20, 50, 30, 3]),
    },
    "chapter_04": {
        "unit_backward": gradient(neuron, draw(2), draw(2), draw()),
        "dense_backward": gradient(neuron, draw(4, 3), draw(3, 2), draw(2)),
        "network_gradient": gradient(
            half_squared_error, draw(3, 2), np.array([[1], [0], [1]]), draw(2, 2), draw(2), draw(2, 1), draw(1)
        ),
    },
    "chapter_05": {
        "cross_entropy": values(
            cross_entropy,
            np.array([[1.0, 2.0, -1.0], [1000.0, 999.0, 0.0]]),
            np.array([0, 1]),
        ),
        "cross_entropy_gradient": gradient(cross_entropy, draw(4, 3), np.array([2, 0, 1, 2])),
        "binary_cross_entropy_gradient": gradient(
            lambda z, labels: np.mean(np.logaddexp(0, z) - labels * z), both_sides, np.array([1, 0, 0, 1])
        ),
    },
    "chapter_06": {
        "momentum_step": values(momentum, draw(3), draw(3), draw(3), 0.1, names=("w", "m")),
        "adam_step": values(adam, draw(3), draw(3), draw(3), abs(draw(3)), 3, 0.1, names=("w", "m", "v")),
        "largest_rate": values(0.5, 4.0),
    },
    "chapter_07": {
        "l2_gradient": values(lambda weight, gradient, factor: gradient + factor * weight, draw(3, 2), draw(3, 2), 0.3),
        "dropout": values(
            lambda x, kept, rate: x * kept / (1 - rate), draw(2, 3), np.array([[1, 0, 1], [1, 1, 0]]), 0.5
        ),
        "batch_norm": values(
            lambda x, scale, bias: scale * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + bias,
            draw(4, 3),
            draw(3),
            draw(3),
        ),
    },
    "chapter_08": {
        "accuracy": values(2 / 3, np.array([[0.7, 0.3], [0.1, 0.9], [0.6, 0.4]]), np.array([0, 1, 1])),
        "confusion_matrix": values(
            [[1, 1, 0], [0, 2, 0], [1, 0, 0]],
            np.array([0, 1, 0, 2, 1]),
            np.array([1, 1, 0, 0, 1]),
            3,
        ),
        "standard_deviation": values(0.03, 0.9, 100),
    },
    "chapter_09": {
        "convolve": values(convolution, draw(5, 4), draw(3, 2)),
        "convolve_backward": gradient(convolution, draw(5, 4), draw(3, 2)),
        "max_pool_backward": gradient(
            lambda x: x.reshape(len(x) // 2, 2, -1, 2).max((1, 3)), random.permutation(24).reshape(4, 6) / 10
        ),
    },
    "chapter_10": {
        "rnn_backward": gradient(last_state, np.array([1.0, 0.5, -1.0]), np.array(0.5), np.array(0.8), np.array(0.1)),
        "rnn_layer_backward": gradient(states, draw(3, 4, 2), *(draw(*shape) / 2 for shape in ((2, 2), (2, 2), (2,)))),
        "cell_backward": gradient(cell, draw(2, 3), *np.round(random.uniform(0.1, 0.9, (4, 2, 3)), 1)),
    },
    "chapter_11": {
        "causal_weights": values(causal, draw(3, 4), draw(3, 4)),
        "softmax_backward": gradient(softmax, draw(3, 3)),
        "attend_backward": gradient(
            lambda q, k, v: softmax(q @ k.T / np.sqrt(q.shape[1])) @ v, draw(3, 4), draw(3, 4), draw(3, 2)
        ),
    },
    "chapter_12": {
        "program_count": values(6, 5, 3, 2, 10),
        "best_setting": values(2, np.array([[0.9, 0.2, 0.5], [0.7, 0.5, 0.5], [0.6, 0.6, 0.6]])),
        "many_networks": values(
            lambda x, weight, bias: np.stack([x @ w + b for w, b in zip(weight, bias, strict=True)]),
            draw(4, 3),
            draw(5, 3, 2),
            draw(5, 2),
        ),
    },
    "chapter_13": {
        "inverse_backward": gradient(
            lambda x, centers, beta: 1 / (1 + beta * ((x[:, None] - centers) ** 2).sum(-1)),
            draw(3, 2),
            draw(4, 2),
            np.array(0.7),
        ),
        "slopes": values([3.21, 0.1], lambda x: x[0] ** 3 + x[0] * x[1] / 10, np.array([1.0, 2.0]), 0.1),
        "tanh_derivative": values(lambda x: 1 / np.cosh(x) ** 2, np.array([-20.0, -3.0, 0.5, 20.0]), smallest=0),
    },
    "chapter_14": {
        "intensity": values(50 / 7, 100, 50, 25),
        "roofline": values([2e9, 8e9, 1e10], np.array([0.5, 2.0, 8.0]), 1e10, 4e9),
        "steady_seconds": values(0.3, np.array([9.0, 1.0, 0.2, 0.3, 0.7]), 2),
    },
}
