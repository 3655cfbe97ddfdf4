"""Random PyTorch models with the same networks here."""

import numpy as np
import pytest

import functional_nn as fnn

torch = pytest.importorskip("torch")
nn = torch.nn


def random_pair(seed):
    """A random PyTorch model with the same network here: ``(module, net, in_shape, x)``."""
    rng = np.random.default_rng(seed)
    match rng.choice(["features", "images", "sequence", "tokens"]):
        case "features":
            size = int(rng.integers(1, 9))
            in_shape, there, here = (size,), [], []
            add_dense(rng, size, there, here, int(rng.integers(1, 5)))
        case "images":
            in_shape, there, here = random_images(rng)
        case "sequence":
            size = int(rng.integers(1, 6))
            in_shape, there, here = (int(rng.integers(1, 6)), size), [], []
            for _ in range(rng.integers(1, 3)):
                size = add_recurrent(rng, size, there, here)
        case "tokens":
            features = 4 * int(rng.integers(1, 4))
            first = bool(rng.integers(2))
            theirs, ours = [("relu", fnn.relu), ("gelu", fnn.gelu)][rng.integers(2)]
            block = nn.TransformerEncoderLayer(features, 2, 6, 0.0, theirs, batch_first=True, norm_first=first)
            depth = int(rng.integers(1, 3))
            encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
            there = [nn.Embedding(11, features), encoder, nn.Linear(features, 3)]
            block = fnn.models.transformer_block(2, hidden_size=6, activation=ours, norm_first=first)
            here = [fnn.embedding(11, features), fnn.repeat(block, depth), fnn.dense(3)]
            in_shape = (int(rng.integers(1, 6)),)
    is_tokens = isinstance(there[0], nn.Embedding)
    x = rng.integers(0, 11, (3, *in_shape)) if is_tokens else rng.normal(size=(3, *in_shape))
    return nn.Sequential(*there), fnn.chain(*here), in_shape, x


def add_dense(rng, size, there, here, count):
    for _ in range(count):
        out, bias = int(rng.integers(2, 9)), bool(rng.integers(2))
        there.append(nn.Linear(size, out, bias=bias))
        here.append(fnn.dense(out, bias=bias))
        size = out
        add_norm(rng, size, there, here)


def add_norm(rng, size, there, here):
    options = [
        (nn.BatchNorm1d(size), fnn.batch_norm()),
        (nn.LayerNorm(size), fnn.layer_norm()),
        (nn.PReLU(size), fnn.prelu()),
        (nn.Tanh(), fnn.tanh),
    ]
    one, other = options[rng.integers(4)]
    there.append(one)
    here.append(other)


def random_images(rng):
    channels, side = int(rng.integers(1, 4)), 6
    in_shape, there, here = (side, side, channels), [], []
    for _ in range(rng.integers(1, 3)):
        groups = int(rng.integers(1, 3)) if channels % 2 == 0 else 1
        out, window, bias = groups * int(rng.integers(1, 4)), int(rng.choice([1, 3])), bool(rng.integers(2))
        if rng.integers(2):
            there.append(nn.Conv2d(channels, out, window, padding="same", groups=groups, bias=bias))
            here.append(fnn.conv(out, window, groups=groups, bias=bias))
        else:
            there.append(nn.ConvTranspose2d(channels, out, window, groups=groups, bias=bias, padding=window // 2))
            pads = ((window // 2, window // 2),) * 2
            here.append(fnn.conv_transpose(out, window, padding=pads, groups=groups, bias=bias))
        channels = out
        norms = [(nn.BatchNorm2d(out), fnn.batch_norm()), (nn.GroupNorm(1, out), fnn.group_norm(1))]
        one, other = norms[rng.integers(len(norms))]
        there += [one, nn.ReLU()]
        here += [other, fnn.relu]
    there += [nn.MaxPool2d(2), nn.Flatten()]
    here += [fnn.max_pool(2), fnn.flatten()]
    size = channels * (side // 2) ** 2
    add_norm(rng, size, there, here)
    add_dense(rng, size, there, here, int(rng.integers(1, 3)))
    return in_shape, there, here


class Outputs(nn.Module):
    """The output in every step of a recurrent module, without its last state."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]


def add_recurrent(rng, size, there, here):
    name = rng.choice(["rnn", "lstm", "gru"])
    theirs, ours = {"rnn": (nn.RNN, fnn.rnn), "lstm": (nn.LSTM, fnn.lstm), "gru": (nn.GRU, fnn.gru)}[name]
    hidden, depth, both, bias = (int(n) for n in rng.integers((1, 1, 0, 0), (6, 3, 2, 2)))
    there.append(Outputs(theirs(size, hidden, depth, bias=bool(bias), bidirectional=bool(both), batch_first=True)))
    for _ in range(depth):
        layer = ours(hidden, returns="sequence")
        here.append(fnn.bidirectional(layer) if both else layer)
    return hidden * (1 + both)
