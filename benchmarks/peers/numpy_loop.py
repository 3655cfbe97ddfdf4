"""NumPy: the step of W1 written out, with its products computed by NumPy's BLAS, which is OpenBLAS in its wheels."""

from itertools import pairwise

import numpy as np

from benchmarks import w1
from benchmarks.data import Mnist
from benchmarks.peers import Peer, shuffled_batches

LIBRARIES = ("numpy",)
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8


def mlp(mnist: Mnist, seed: int) -> Peer:
    """All parameters lie in one array, so that Adam is a few operations on it."""
    generator, shapes = np.random.default_rng(seed), list(pairwise(w1.SIZES))
    params = np.zeros(sum((inputs + 1) * outputs for inputs, outputs in shapes), np.float32)
    gradient, mean, square = (np.zeros_like(params) for _ in range(3))
    layers, bars = views(params, shapes), views(gradient, shapes)
    for weight, _ in layers:
        weight[:] = generator.normal(scale=(2 / len(weight)) ** 0.5, size=weight.shape)
    steps = 0

    def activations(images: np.ndarray) -> list[np.ndarray]:
        """The inputs of each layer, and the logits."""
        values = [images]
        for weight, bias in layers:
            z = values[-1] @ weight + bias
            values.append(z if len(values) == len(layers) else np.maximum(z, 0))
        return values

    def train_epoch() -> None:
        nonlocal steps
        for images, labels in shuffled_batches(generator, mnist.train_images, mnist.train_labels, w1.BATCH_SIZE):
            *inputs, logits = activations(images)
            bar = np.exp(logits - logits.max(axis=1, keepdims=True))
            bar /= bar.sum(axis=1, keepdims=True)
            bar[np.arange(len(labels)), labels] -= 1
            bar /= len(labels)
            for number in reversed(range(len(layers))):
                np.matmul(inputs[number].T, bar, out=bars[number][0])
                np.sum(bar, axis=0, out=bars[number][1])
                if number:
                    bar = bar @ layers[number][0].T
                    bar *= inputs[number] > 0
            steps += 1
            mean[:] = MEAN_DECAY * mean + (1 - MEAN_DECAY) * gradient
            square[:] = SQUARE_DECAY * square + (1 - SQUARE_DECAY) * gradient * gradient
            root = np.sqrt(square / (1 - SQUARE_DECAY**steps)) + EPSILON
            params[:] -= w1.LEARNING_RATE / (1 - MEAN_DECAY**steps) * mean / root

    return Peer(train_epoch, lambda images: activations(images)[-1])


def views(flat: np.ndarray, shapes: list[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The weight and the bias of each layer, as parts of one array."""
    found, start = [], 0
    for inputs, outputs in shapes:
        bias = start + inputs * outputs
        found.append((flat[start:bias].reshape(inputs, outputs), flat[bias : bias + outputs]))
        start = bias + outputs
    return found
