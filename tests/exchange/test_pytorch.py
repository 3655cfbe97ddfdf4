"""Parameters from and for PyTorch."""

import numpy as np
import pytest

from functional_nn.core import trees
from functional_nn.exchange import from_torch, to_torch

torch = pytest.importorskip("torch")
from tests.exchange.pytorch_models import MODELS, channels_first, draw_statistics  # noqa: E402


def pair(name, seed=0):
    make_module, make_net, in_shape, draw = MODELS[name]
    x = draw(np.random.default_rng(seed))
    return draw_statistics(make_module(), seed), make_net(), in_shape, x


def theirs(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(channels_first(x))).numpy()


def ours(net, params, state, x):
    return np.asarray(net.apply(params, state, x, train=False)[0])


def assert_bitwise(found, expected):
    found, expected = trees.flatten(found), trees.flatten(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert leaf.dtype == found[path].dtype
        assert np.asarray(leaf).tobytes() == np.asarray(found[path]).tobytes(), path


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_a_model_and_back(name):
    module, net, in_shape, x = pair(name)
    expected = theirs(module, x)
    params, state = from_torch(net, module, in_shape)
    found = ours(net, params, state, x)
    assert np.abs(found - expected).max() <= 1e-6 * max(1, np.abs(expected).max())

    state_dict = to_torch(net, params, state, in_shape, module)
    module = draw_statistics(module, 1)
    assert np.abs(theirs(module, x) - expected).max() > 1e-3
    module.load_state_dict({key: torch.tensor(array) for key, array in state_dict.items()}, strict=False)
    assert np.abs(theirs(module, x) - expected).max() <= 1e-6 * max(1, np.abs(expected).max())
    for like in (state_dict, None):
        again = from_torch(net, to_torch(net, params, state, in_shape, like), in_shape)
        assert_bitwise(again, (params, state))
