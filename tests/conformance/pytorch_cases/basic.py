"""Dense layers, embeddings and all activations; dropout in evaluation."""

import numpy as np
from tests.conformance.comparison import BATCH, Case, torch
from tests.conformance.weight_maps import channels_first, channels_last, embedding, linear, prelu

import functional_nn as fnn

nn, functional = torch.nn, torch.nn.functional


def dense(*middle, bias=True):
    shape = (BATCH, *middle, 5)
    return Case(f"dense{shape}-bias={bias}", fnn.dense(7, bias=bias), nn.Linear(5, 7, bias=bias), (shape,), linear)


def token_embedding(*shape):
    tokens = np.random.default_rng(0).integers(0, 11, (BATCH, *shape))
    module = nn.Embedding(11, 5)

    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = module.weight

        def forward(self):
            return functional.embedding(torch.from_numpy(tokens), self.weight)

    return Case(f"embedding{tokens.shape}", fnn.embedding(11, 5), Lookup(), (), embedding, lambda: (), lambda x: tokens)


def parametric_relu(*middle):
    """PyTorch's has its channels on axis 1."""
    shape = (BATCH, 5, *middle)
    images = {"x": channels_last, "y": channels_first} if middle else {}
    return Case(f"prelu{shape}", fnn.prelu(), nn.PReLU(5), (shape,), prelu, **images)


ACTIVATIONS = [
    (fnn.identity, nn.Identity()),
    (fnn.sigmoid, nn.Sigmoid()),
    (fnn.tanh, nn.Tanh()),
    (fnn.softsign, nn.Softsign()),
    (fnn.softplus, nn.Softplus(threshold=40)),  # by default x itself from 20 on, which is 2e-9 off
    (fnn.log_sigmoid, nn.LogSigmoid()),
    (fnn.relu, nn.ReLU()),
    (fnn.leaky_relu, nn.LeakyReLU()),
    (fnn.activations.leaky_relu_with(0.3), nn.LeakyReLU(0.3)),
    (fnn.elu, nn.ELU()),
    (fnn.activations.elu_with(0.7), nn.ELU(0.7)),
    (fnn.activations.elu_with(2.5), nn.ELU(2.5)),
    (fnn.selu, nn.SELU()),
    (fnn.gelu, nn.GELU()),
    (fnn.gelu_tanh, nn.GELU(approximate="tanh")),
    (fnn.silu, nn.SiLU()),
    (fnn.mish, nn.Mish()),
    (fnn.relu6, nn.ReLU6()),
    (fnn.hard_tanh, nn.Hardtanh()),
    (
        fnn.activations.hard_sigmoid,
        lambda x: functional.relu6(x + 3) / 6,
    ),  # nn.Hardsigmoid's derivative is 1/6 in single precision
    (fnn.hard_silu, nn.Hardswish()),
    (fnn.softmax, nn.Softmax(-1)),
    (fnn.log_softmax, nn.LogSoftmax(-1)),
]


def scaled(theirs, factor):
    return lambda x: theirs(factor * x)


def of_activation(ours, theirs, number):
    """Once on numbers about 1, and once on numbers about 10, where tails and pieces show."""
    for factor, reach in ((1.0, "near"), (10.0, "far")):
        name = f"{ours.name}-{number}-{reach}"
        yield Case(name, ours.as_layer(), scaled(theirs, factor), ((31, 5),), x=lambda x, factor=factor: factor * x)


CASES = [
    *(dense(*middle, bias=bias) for middle in ((), (2,), (2, 4)) for bias in (True, False)),
    *(token_embedding(*shape) for shape in ((), (7,), (2, 4))),
    *(case for number, pair in enumerate(ACTIVATIONS) for case in of_activation(*pair, number)),
    *(parametric_relu(*middle) for middle in ((), (2,), (2, 4))),
    Case("unembedding", fnn.unembedding(11), nn.Linear(5, 11, bias=False), ((BATCH, 2, 5),), embedding),
    Case("flatten", fnn.flatten(), nn.Flatten(), ((BATCH, 2, 4, 5),)),
    *(
        Case(f"{ours.name}-in-evaluation", ours, theirs, ((BATCH, 7, 5),), train=False)
        for ours, theirs in [(fnn.dropout(0.4), nn.Dropout(0.4)), (fnn.spatial_dropout(0.4), nn.Dropout1d(0.4))]
    ),
]
