"""Small networks of every layer that other libraries have, and what each exchange with a library has to keep."""

import jax
import numpy as np

import functional_nn as fnn
from functional_nn.core import trees

SEQUENCE, IMAGE, FEATURES, TOKENS = (6, 5), (8, 8, 3), (5,), (7,)
NETWORKS = {
    "mlp": (fnn.chain(fnn.dense(4), fnn.relu, fnn.layer_norm(), fnn.prelu(), fnn.dense(3, bias=False)), FEATURES),
    "cnn": (
        fnn.chain(
            *(fnn.conv(4, 3), fnn.batch_norm(), fnn.relu, fnn.max_pool(2)),
            *(fnn.conv(6, 3, bias=False), fnn.group_norm(2), fnn.flatten(), fnn.dense(5)),
        ),
        IMAGE,
    ),
    "conv_transpose": (fnn.chain(fnn.conv_transpose(4, 3, stride=2, padding="valid")), IMAGE),
    "rnn": (fnn.chain(fnn.rnn(7, returns="sequence"), fnn.dense(3)), SEQUENCE),
    "lstm": (fnn.chain(fnn.lstm(7, returns="sequence"), fnn.dense(3)), SEQUENCE),
    "gru": (fnn.chain(fnn.gru(7, returns="sequence"), fnn.dense(3)), SEQUENCE),
    "attention": (fnn.chain(fnn.attention(2), fnn.rms_norm()), (6, 8)),
    "embedding": (fnn.chain(fnn.embedding(11, 8), fnn.dense(3)), TOKENS),
}


def random_trees(name, seed=0):
    """Parameters and statistics as after training: none of them at its usual starting value."""
    rng = np.random.default_rng(seed)
    net, in_shape = NETWORKS[name]

    def leaf(path, like):
        values = 0.4 * rng.normal(size=like.shape)
        return jax.numpy.asarray(np.abs(values) + 0.5 if path.endswith("variance") else values, like.dtype)

    params, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
    return trees.map_with_path(leaf, params), trees.map_with_path(leaf, state)


def assert_same_bits(found, expected):
    found, expected = trees.flatten(found), trees.flatten(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert leaf.dtype == found[path].dtype
        assert np.asarray(leaf).tobytes() == np.asarray(found[path]).tobytes(), path
