"""Random PyTorch models with the same networks here."""

import numpy as np
import pytest

import functional_nn as fnn

torch = pytest.importorskip("torch")
nn = torch.nn


def random_pair(seed):
    """A random PyTorch model with the same network here: ``(module, net, in_shape, x)``."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["features", "images", "sequence", "tokens"])
    in_shape, pairs = {"features": features, "images": images, "sequence": sequence, "tokens": tokens}[kind](rng)
    there, here = [module for module, _ in pairs if module], [layer for _, layer in pairs]
    x = rng.integers(0, 11, (3, *in_shape)) if kind == "tokens" else rng.normal(size=(3, *in_shape))
    return nn.Sequential(*there), fnn.chain(*here), in_shape, x


def features(rng):
    size = int(rng.integers(1, 9))
    return (size,), dense(rng, size, int(rng.integers(1, 5)))


def dense(rng, size, count):
    pairs = []
    for _ in range(count):
        out, bias = int(rng.integers(2, 9)), bool(rng.integers(2))
        pairs += [(nn.Linear(size, out, bias=bias), fnn.dense(out, bias=bias)), norm(rng, out)]
        size = out
    return pairs


def norm(rng, size):
    norms = [(nn.BatchNorm1d(size), fnn.batch_norm()), (nn.LayerNorm(size), fnn.layer_norm())]
    return [*norms, (nn.PReLU(size), fnn.prelu()), (nn.Tanh(), fnn.tanh)][rng.integers(4)]


def images(rng):
    channels, side = int(rng.integers(1, 4)), 6
    in_shape, pairs = (side, side, channels), []
    for _ in range(rng.integers(1, 3)):
        groups = int(rng.integers(1, 3)) if channels % 2 == 0 else 1
        out, window = groups * int(rng.integers(1, 4)), int(rng.choice([1, 3]))
        options = {"groups": groups, "bias": bool(rng.integers(2))}
        if rng.integers(2):
            theirs = nn.Conv2d(channels, out, window, padding="same", **options)
            ours = fnn.conv(out, window, **options)
        else:
            theirs = nn.ConvTranspose2d(channels, out, window, padding=window // 2, **options)
            ours = fnn.conv_transpose(out, window, padding=((window // 2, window // 2),) * 2, **options)
        norms = [(nn.BatchNorm2d(out), fnn.batch_norm()), (nn.GroupNorm(1, out), fnn.group_norm(1))]
        pairs += [(theirs, ours), norms[rng.integers(2)], (nn.ReLU(), fnn.relu)]
        channels = out
    size = channels * (side // 2) ** 2
    pairs += [(nn.MaxPool2d(2), fnn.max_pool(2)), (nn.Flatten(), fnn.flatten()), norm(rng, size)]
    return in_shape, pairs + dense(rng, size, int(rng.integers(1, 3)))


class Outputs(nn.Module):
    """The output in every step of a recurrent module, without its last state."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]


def sequence(rng):
    size = int(rng.integers(1, 6))
    in_shape, pairs = (int(rng.integers(1, 6)), size), []
    for _ in range(rng.integers(1, 3)):
        name = rng.choice(["rnn", "lstm", "gru"])
        theirs, ours = {"rnn": (nn.RNN, fnn.rnn), "lstm": (nn.LSTM, fnn.lstm), "gru": (nn.GRU, fnn.gru)}[name]
        hidden, depth, both, bias = (int(n) for n in rng.integers((1, 1, 0, 0), (6, 3, 2, 2)))
        module = Outputs(theirs(size, hidden, depth, bias=bool(bias), bidirectional=bool(both), batch_first=True))
        layer = ours(hidden, returns="sequence")
        layer = fnn.bidirectional(layer) if both else layer
        pairs += [(module, layer), *[(None, layer)] * (depth - 1)]
        size = hidden * (1 + both)
    return in_shape, pairs


def tokens(rng):
    size, first = 4 * int(rng.integers(1, 4)), bool(rng.integers(2))
    theirs, ours = [("relu", fnn.relu), ("gelu", fnn.gelu)][rng.integers(2)]
    block = nn.TransformerEncoderLayer(size, 2, 6, 0.0, theirs, batch_first=True, norm_first=first)
    depth = int(rng.integers(1, 3))
    encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
    block = fnn.models.transformer_block(2, hidden_size=6, activation=ours, norm_first=first)
    pairs = [(nn.Embedding(11, size), fnn.embedding(11, size)), (encoder, fnn.repeat(block, depth))]
    return (int(rng.integers(1, 6)),), [*pairs, (nn.Linear(size, 3), fnn.dense(3))]
