"""PyTorch models and the same networks here, with the conversions of inputs."""

import functools

import numpy as np
import pytest

import functional_nn as fnn

torch = pytest.importorskip("torch")
nn = torch.nn


class Encoder(nn.Module):
    """Tokens, two blocks of a transformer, the mean over time, classes."""

    def __init__(self, norm_first):
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation="gelu", batch_first=True, norm_first=norm_first)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.blocks(self.tokens(x)).mean(1))


class Steps(nn.Module):
    """A recurrent module and classes of its output in each step."""

    def __init__(self, module, size):
        super().__init__()
        self.module, self.head = module, nn.Linear(size, 3)

    def forward(self, x):
        return self.head(self.module(x)[0])


def mean_over_time(x):
    return x.mean(1)


def encoder(norm_first):
    block = fnn.models.transformer_block(2, hidden_size=16, norm_first=norm_first)
    return fnn.chain(fnn.embedding(11, 8), fnn.repeat(block, 2), mean_over_time, fnn.dense(3))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.BatchNorm1d(24), nn.PReLU(24), nn.Linear(24, 5)),
    )


def cnn_here():
    return fnn.chain(
        *(fnn.conv(4, 3), fnn.batch_norm(), fnn.relu, fnn.max_pool(2)),
        *(fnn.conv(6, 3, groups=2, bias=False), fnn.batch_norm(), fnn.relu, fnn.max_pool(2)),
        *(fnn.flatten(), fnn.batch_norm(), fnn.prelu(), fnn.dense(5)),
    )


def stacked(layer, **options):
    return fnn.chain(
        *(fnn.bidirectional(layer(7, returns="sequence", **options)) for _ in range(2)),
        fnn.dense(3),
    )


def draw_statistics(module, seed):
    """Random parameters and running statistics, as after training; none of them at its usual starting value."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else 0.4 * torch.randn_like(tensor))
    return module.eval()


def images(shape):
    return lambda rng: rng.normal(size=(3, *shape)).astype("float32")


def tokens(rng):
    return rng.integers(0, 11, (3, 6))


def channels_first(x):
    return np.moveaxis(x, -1, 1) if x.ndim > 3 else x


MODELS = {
    "mlp": (mlp, functools.partial(fnn.models.mlp, 10), (28, 28, 1), images((28, 28, 1))),
    "cnn": (cnn, cnn_here, (8, 8, 3), images((8, 8, 3))),
    "lstm": (
        lambda: Steps(nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True), 14),
        lambda: stacked(fnn.lstm),
        (6, 5),
        images((6, 5)),
    ),
    "gru": (
        lambda: Steps(nn.GRU(5, 7, 2, bidirectional=True, batch_first=True), 14),
        lambda: stacked(fnn.gru),
        (6, 5),
        images((6, 5)),
    ),
    "encoder": (lambda: Encoder(True), lambda: encoder(True), (6,), tokens),
    "encoder-norms-last": (lambda: Encoder(False), lambda: encoder(False), (6,), tokens),
}
"""For each name: the PyTorch model, the network, the shape of an example, and how a batch is drawn."""
