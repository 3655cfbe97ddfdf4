"""The exercises of the tutorial: right answers pass, and typical mistakes of students are located."""

import importlib.util
import inspect
import itertools
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER, TUTORIAL = ROOT / "examples" / "exercises", ROOT / "docs" / "tutorial"


def imported(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


exercises = imported(FOLDER / "test_exercises.py")


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class Answers:
    """The right answers. A test changes their text into typical mistakes."""

    def and_neuron(x):
        return x @ np.array([10, 10]) - 15 > 0

    def neuron(x, weight, bias):
        return sigmoid(x @ weight + bias)

    def mean_loss(y, labels):
        return np.mean(-labels * np.log(y) - (1 - labels) * np.log(1 - y))

    def sigmoid_derivative(x):
        return sigmoid(x) * (1 - sigmoid(x))

    def leaky_relu_derivative(x):
        return np.where(x >= 0, 1, 0.01)

    def tanh_by_sigmoid(x):
        return 2 * sigmoid(2 * x) - 1

    def product(x, weight):
        columns = range(weight.shape[1])
        return [[sum(row[i] * weight[i][j] for i in range(len(row))) for j in columns] for row in x]

    def network(x, weight_1, bias_1, weight_2, bias_2):
        return np.maximum(x @ weight_1 + bias_1, 0) @ weight_2 + bias_2

    def parameter_count(sizes):
        return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))

    def unit_backward(x, weight, bias, y_bar):
        y = sigmoid(x @ weight + bias)
        a_bar = y_bar * y * (1 - y)
        return a_bar * weight, a_bar * x, a_bar

    def dense_backward(x, weight, bias, y_bar):
        a = x @ weight + bias
        y = sigmoid(a)
        a_bar = y_bar * y * (1 - y)
        return a_bar @ weight.T, x.T @ a_bar, a_bar.sum(0)

    def network_gradient(x, target, weight_1, bias_1, weight_2, bias_2):
        h = sigmoid(x @ weight_1 + bias_1)
        y = sigmoid(h @ weight_2 + bias_2)
        a_bar = (y - target) / len(x) * y * (1 - y)
        h_bar = a_bar @ weight_2.T
        delta = h_bar * h * (1 - h)
        return delta @ weight_1.T, x.T @ delta, delta.sum(0), h.T @ a_bar, a_bar.sum(0)

    def cross_entropy(logits, labels):
        z = logits - logits.max(1, keepdims=True)
        return np.mean(np.log(np.exp(z).sum(1)) - z[range(len(z)), labels])

    def cross_entropy_gradient(logits, labels):
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return (p - np.eye(logits.shape[1])[labels]) / len(labels)

    def binary_cross_entropy_gradient(z, labels):
        return (sigmoid(z) - labels) / len(z)

    def momentum_step(w, g, m, rate):
        m = 0.9 * m + g
        return w - rate * m, m

    def adam_step(w, g, m, v, n, rate):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        return w - rate * m / (1 - 0.9**n) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8), m, v

    def largest_rate(curvature):
        return 2 / curvature

    def l2_gradient(weight, gradient, factor):
        return gradient + factor * weight

    def dropout(x, kept, rate):
        return x * kept / (1 - rate)

    def batch_norm(x, scale, bias):
        return scale * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + bias

    def accuracy(probabilities, labels):
        return np.mean(probabilities.argmax(1) == labels)

    def confusion_matrix(labels, answers, classes):
        counts = np.zeros((classes, classes))
        np.add.at(counts, (labels, answers), 1)
        return counts

    def standard_deviation(accuracy, count):
        return np.sqrt(accuracy * (1 - accuracy) / count)

    def convolve(x, kernel):
        (height, width), (rows, columns) = x.shape, kernel.shape
        y = np.zeros((height - rows + 1, width - columns + 1))
        for a, b in np.ndindex(kernel.shape):
            y += kernel[a, b] * x[a : a + len(y), b : b + y.shape[1]]
        return y

    def convolve_backward(x, kernel, y_bar):
        x_bar, kernel_bar = np.zeros_like(x), np.zeros_like(kernel)
        height, width = y_bar.shape
        for a, b in np.ndindex(kernel.shape):
            x_bar[a : a + height, b : b + width] += kernel[a, b] * y_bar
            kernel_bar[a, b] = np.sum(x[a : a + height, b : b + width] * y_bar)
        return x_bar, kernel_bar

    def max_pool_backward(x, y_bar):
        x_bar = np.zeros_like(x)
        for i, j in np.ndindex(y_bar.shape):
            window = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            x_bar[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = (window == window.max()) * y_bar[i, j]
        return x_bar

    def rnn_backward(x, w, u, b, h_bar):
        h = [0.0]
        for number in x:
            h.append(np.tanh(w * number + u * h[-1] + b))
        x_bar, w_bar, u_bar, b_bar = np.zeros_like(x), 0, 0, 0
        for t in range(len(x), 0, -1):
            a_bar = (1 - h[t] ** 2) * h_bar
            x_bar[t - 1] = w * a_bar
            w_bar += x[t - 1] * a_bar
            u_bar += h[t - 1] * a_bar
            b_bar += a_bar
            h_bar = u * a_bar
        return x_bar, w_bar, u_bar, b_bar

    def rnn_layer_backward(x, weight, hidden_weight, bias, y_bar):
        steps = x.shape[1]
        h = [np.zeros((len(x), len(bias)))]
        for t in range(steps):
            h.append(np.tanh(x[:, t] @ weight + h[t] @ hidden_weight + bias))
        x_bar, weight_bar, hidden_weight_bar, bias_bar = map(np.zeros_like, (x, weight, hidden_weight, bias))
        from_next = 0
        for t in range(steps - 1, -1, -1):
            h_bar = y_bar[:, t] + from_next
            a_bar = (1 - h[t + 1] ** 2) * h_bar
            x_bar[:, t] = a_bar @ weight.T
            weight_bar += x[:, t].T @ a_bar
            hidden_weight_bar += h[t].T @ a_bar
            bias_bar += a_bar.sum(0)
            from_next = a_bar @ hidden_weight.T
        return x_bar, weight_bar, hidden_weight_bar, bias_bar

    def cell_backward(c, f, i, g, o, new_c_bar, h_bar):
        new_c = f * c + i * g
        c_bar = new_c_bar + h_bar * o * (1 - np.tanh(new_c) ** 2)
        return f * c_bar, c * c_bar, g * c_bar, i * c_bar, np.tanh(new_c) * h_bar

    def causal_weights(q, k):
        scores = q @ k.T / np.sqrt(q.shape[1])
        shares = np.exp(scores) * np.tri(len(q))
        return shares / shares.sum(1, keepdims=True)

    def softmax_backward(s, p_bar):
        p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        return p * (p_bar - (p * p_bar).sum(1, keepdims=True))

    def attend_backward(q, k, v, c_bar):
        scale = np.sqrt(q.shape[1])
        s = q @ k.T / scale
        p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        p_bar = c_bar @ v.T
        s_bar = p * (p_bar - (p * p_bar).sum(1, keepdims=True))
        return s_bar @ k / scale, s_bar.T @ q / scale, p.T @ c_bar

    def program_count(rates, batch_sizes, activations, seeds):
        return batch_sizes * activations

    def best_setting(accuracies):
        return accuracies.mean(axis=1).argmax()

    def many_networks(x, weight, bias):
        return x @ weight + bias[:, None]

    def inverse_backward(x, centers, beta, y_bar):
        difference = x[:, None] - centers
        r = (difference**2).sum(-1)
        shared = -y_bar / (1 + beta * r) ** 2
        shares = 2 * beta * difference * shared[:, :, None]
        return shares.sum(1), -shares.sum(0), (r * shared).sum()

    def slopes(function, x, h):
        return [(function(x + step) - function(x - step)) / (2 * h) for step in h * np.eye(len(x))]

    def tanh_derivative(x):
        e = np.exp(-2 * abs(x))
        return 4 * e / (1 + e) ** 2

    def intensity(rows, columns, batch):
        return 2 * rows * columns * batch / 4 / (rows * columns + columns * batch + rows * batch)

    def roofline(intensity, peak, bandwidth):
        return np.minimum(peak, intensity * bandwidth)

    def steady_seconds(seconds, warm_up):
        return np.median(seconds[warm_up:])


ANSWERS = {name: answer for name, answer in vars(Answers).items() if inspect.isfunction(answer)}


NAMES = [(chapter, name) for chapter, checks in exercises.EXERCISES.items() for name in checks]


@pytest.mark.parametrize(("chapter", "name"), NAMES)
def test_a_starting_file_asks_for_what_is_checked(chapter, name):
    with pytest.raises(pytest.skip.Exception, match=f"not yet written: {name}$"):
        exercises.test_exercise(chapter, name)
    starting = getattr(imported(FOLDER / f"{chapter}.py"), name)
    assert inspect.signature(starting) == inspect.signature(ANSWERS[name])


def test_each_chapter_has_three_exercises():
    chapters = sorted(path.stem for path in FOLDER.glob("chapter_*.py"))
    assert chapters == [f"chapter_{page.name[:2]}" for page in sorted(TUTORIAL.glob("[0-9]*.md"))]
    for chapter in chapters:
        assert (FOLDER / f"{chapter}.py").read_text("utf-8").count("raise NotImplementedError") == 3
        assert len(exercises.EXERCISES[chapter]) == 3


@pytest.mark.parametrize("name", ANSWERS)
def test_a_right_answer_passes(name):
    assert exercises.problem(ANSWERS[name]) == ""


def test_a_wrong_file_fails_with_the_verdict_alone(monkeypatch, tmp_path):
    (tmp_path / "chapter_06.py").write_text("def largest_rate(curvature):\n    return 1 / curvature\n", "utf-8")
    monkeypatch.setattr(exercises, "__file__", str(tmp_path / "test_exercises.py"))
    with pytest.raises(pytest.fail.Exception) as raised:
        exercises.test_exercise("chapter_06", "largest_rate")
    assert not raised.value.pytrace
    line = "result is 0.25, but must be 0.5. It is 2 times too small."
    assert str(raised.value).split("\n    ") == ["largest_rate:", line, "The arguments:", "  curvature = 4.0"]


def test_in_a_notebook_the_verdict_is_printed(capsys):
    exercises.check(Answers.roofline)
    exercises.check(test_in_a_notebook_the_verdict_is_printed)
    right, unknown = capsys.readouterr().out.splitlines()
    assert right == "roofline: right"
    assert "is not the name of an exercise. The names are and_neuron, neuron, mean_loss, " in unknown


OF_NETWORK = "x_bar weight_1_bar bias_1_bar weight_2_bar bias_2_bar"
OF_LAYER = "x_bar weight_bar hidden_weight_bar bias_bar"
MISTAKES = [
    ("dense_backward", "y * (1 - y)", "sigmoid(y) * (1 - sigmoid(y))", "x_bar weight_bar bias_bar", "All are wrong"),
    ("dense_backward", "x.T @ a_bar", "(x.T @ a_bar).T", "", "(3, 2). It is transposed."),
    ("dense_backward", "x.T @ a_bar", "x.T @ a_bar / len(x)", "weight_bar", "It is 4 times too small."),
    ("dense_backward", "a_bar.sum(0)", "a_bar", "", "(2,). Is a sum missing?"),
    ("dense_backward", "a_bar.sum(0)", "y_bar.sum(0)", "bias_bar", "Here y_bar is 1 at ("),
    ("dense_backward", "x.T @ a_bar, a_bar.sum(0)", "x.T @ a_bar", "", "must return 3 results"),
    ("dense_backward", "return", "result =", "", "returns nothing"),
    ("network_gradient", "(y - target)", "(target - y)", OF_NETWORK, "It has the wrong sign."),
    ("rnn_backward", "h[t - 1] * a_bar", "h[t] * a_bar", "u_bar", "Here h_bar is 1."),
    ("rnn_backward", "h_bar = u * a_bar", "h_bar = 0", "x_bar w_bar u_bar b_bar", "It is 0: a term is missing"),
    ("rnn_layer_backward", "y_bar[:, t] + from_next", "y_bar[:, t]", OF_LAYER, "It is 0: a term is missing"),
    (
        "rnn_layer_backward",
        "hidden_weight_bar += h[t]",
        "hidden_weight_bar += h[t + 1]",
        "hidden_weight_bar",
        "must be 0.",
    ),
    ("cell_backward", "new_c_bar + h_bar", "h_bar", "c_bar f_bar i_bar g_bar", "Here new_c_bar is 1 at "),
    ("mean_loss", "np.mean", "np.sum", "result", "It is 3 times too large."),
    ("sigmoid_derivative", "(1 - sigmoid(x))", "(1 - x)", "result", "result[3] is -1.9"),
    ("product", "sum(row[i] * weight[i][j] for i in range(len(row)))", "row[0] * weight[0][j]", "result", ""),
    ("cross_entropy_gradient", " / len(labels)", "", "result", "It is 4 times too large."),
    ("cross_entropy", "logits - logits.max(1, keepdims=True)", "logits", "result", "result is inf"),
    ("adam_step", " / (1 - 0.9**n)", "", "w", "m: right"),
    ("batch_norm", "x.mean(0)", "x.mean()", "result", ""),
    ("confusion_matrix", "(labels, answers)", "(answers, labels)", "result", "result[0, 2] is 1, but must be 0."),
    ("convolve_backward", "] += kernel", "] = kernel", "x_bar", "It is 0: a term is missing"),
    ("softmax_backward", " - (p * p_bar).sum(1, keepdims=True)", "", "s_bar", ""),
    ("tanh_derivative", "4 * e / (1 + e) ** 2", "1 - np.tanh(x) ** 2", "result", "It is 0: a term is missing"),
]


def verdict_on_a_mistake(name, right, wrong):
    """The verdict on the answer with another text."""
    text = textwrap.dedent(inspect.getsource(ANSWERS[name]))
    assert right in text
    space = {"np": np, "sigmoid": sigmoid}
    exec(text.replace(right, wrong), space)
    return exercises.problem(space[name])


@pytest.mark.parametrize(("name", "right", "wrong", "leaves", "words"), MISTAKES)
def test_a_mistake_is_located(name, right, wrong, leaves, words):
    """The verdict names these arrays and no others, and has these words."""
    verdict = verdict_on_a_mistake(name, right, wrong)
    assert re.findall(r"^    (\w+)(?:\[.*?\])? is ", verdict, re.MULTILINE) == leaves.split()
    assert words in verdict


@pytest.mark.parametrize("folder", ["tutorial", "zh"])
def test_the_page_shows_a_verdict(folder):
    page = (ROOT / "docs" / folder / "index.md").read_text("utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)      …\n```", page, re.MULTILINE | re.DOTALL)
    assert verdict_on_a_mistake("dense_backward", "x.T @ a_bar", "x.T @ a_bar / len(x)").startswith(shown)
