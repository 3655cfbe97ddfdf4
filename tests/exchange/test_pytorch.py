"""Parameters from and for PyTorch."""

import pickle

import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.errors import DataError
from functional_nn.exchange import from_torch, to_torch

torch = pytest.importorskip("torch")
from tests.exchange.networks import assert_same_bits  # noqa: E402
from tests.exchange.pytorch_models import MODELS, channels_first, draw_statistics  # noqa: E402
from tests.exchange.random_pytorch_models import random_pair  # noqa: E402


def pair(name, seed=0):
    make_module, make_net, in_shape, draw = MODELS[name]
    x = draw(np.random.default_rng(seed))
    return draw_statistics(make_module(), seed), make_net(), in_shape, x


def theirs(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(channels_first(x))).numpy()


def ours(net, params, state, x):
    return np.asarray(net.apply(params, state, x, train=False)[0])


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
        assert_same_bits(again, (params, state))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 200), marks=pytest.mark.slow)], ids=len)
def test_random_models_in_float64(seeds):
    for seed in seeds:
        module, net, in_shape, x = random_pair(seed)
        module = draw_statistics(module.double(), seed)
        expected = theirs(module, x)
        params, state = from_torch(net, module, in_shape)
        found = ours(net, params, state, x)
        scale = max(1, np.abs(expected).max())
        assert np.abs(found - expected).max() <= 1e-12 * scale, (seed, module, net)
        again = from_torch(net, to_torch(net, params, state, in_shape, module), in_shape)
        assert_same_bits(again, (params, state))


class Danger:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_files_of_torch_save(tmp_path):
    module, net, in_shape, _ = pair("cnn")
    path = tmp_path / "model.pt"
    torch.save(module.state_dict(), path)
    assert_same_bits(from_torch(net, path, in_shape), from_torch(net, module, in_shape))
    whole = path.read_bytes()
    danger = tmp_path / "danger"
    torch.save({"a": Danger(str(danger))}, path)
    hostile = [path.read_bytes(), pickle.dumps(Danger(str(danger))), b"", whole[:100], whole[:-100], whole[50:]]
    for content in hostile:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"model.pt: expected a state dict that torch.save wrote"):
            from_torch(net, path, in_shape)
    assert not danger.exists()


def test_bfloat16_and_float16():
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        module = torch.nn.Linear(4, 3).to(dtype)
        params, _ = from_torch(fnn.dense(3), module, (4,))
        assert params["weight"].dtype == name
        expected = module.weight.detach().float().numpy().T
        np.testing.assert_array_equal(np.asarray(params["weight"], "float32"), expected)
