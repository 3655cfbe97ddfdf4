"""Cases of embeddings."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase


def tokens(random, batch):
    """Makes sequences of five tokens out of eleven."""
    return random.integers(0, 11, (batch, 5))


LAYERS = [
    LayerCase("embedding", fnn.embedding(11, 3), (5,), make_x=tokens),
    LayerCase("unembedding", fnn.unembedding(11), (5, 3)),
]
