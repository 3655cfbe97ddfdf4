"""Parameters from and for PyTorch."""

import functools

import jax
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.exchange import from_torch, to_torch

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from tests.exchange.networks import assert_same_bits  # noqa: E402
from tests.exchange.random_pytorch_models import random_pair  # noqa: E402


def draw_statistics(module, seed):
    """Random parameters and running statistics, as after training; none of them at its usual starting value."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else 0.4 * torch.randn_like(tensor))
    return module.eval()


def theirs(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(np.moveaxis(x, -1, 1) if x.ndim > 3 else x)).numpy()


EVERY_MODULE = (149, 68, 138, 0, 8, 18, 189, 5, 82, 6, 12)
"""Seeds of models that together have every module, each with and without its options."""
MORE = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(200) if seed not in EVERY_MODULE]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", [*EVERY_MODULE, *MORE])
def test_random_models_and_back(seed):
    module, net, in_shape, x = random_pair(seed)
    module = draw_statistics(module.double(), seed)
    expected = theirs(module, x)
    params, state = from_torch(net, module, in_shape)
    state_dict = to_torch(net, params, state, in_shape, module)
    draw_statistics(module, seed + 1).load_state_dict(state_dict)
    for found in (net.apply(params, state, x, train=False)[0], theirs(module, x)):
        assert np.abs(found - expected).max() <= 1e-12 * max(1, np.abs(expected).max()), (module, net)
    for like in (state_dict, None):
        again = from_torch(net, to_torch(net, params, state, in_shape, like, check=False), in_shape, check=False)
        assert_same_bits(again, (params, state))


def swapped():
    """A model that runs its layers in another order than that in which they are assigned."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)))

    return Net()


MISREAD = {
    "another order": (swapped, lambda: fnn.chain(fnn.dense(4), fnn.tanh, fnn.dense(4)), (4,)),
    "another activation": (
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU()),
        lambda: fnn.chain(fnn.dense(3), fnn.silu),
        (4,),
    ),
    "another epsilon": (lambda: torch.nn.LayerNorm(4, eps=0.1), lambda: fnn.chain(fnn.layer_norm()), (4,)),
    "another number of heads": (
        lambda: torch.nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True),
        lambda: fnn.models.transformer_block(1, hidden_size=8, activation=fnn.relu, norm_first=False),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", MISREAD)
def test_what_is_read_wrongly_is_an_error(name):
    make_module, make_net, in_shape = MISREAD[name]
    module, net = draw_statistics(make_module(), 0), make_net()
    with pytest.raises(InputError, match=r"outputs that differ by|outputs of shape"):
        from_torch(net, module, in_shape)
    params, state = from_torch(net, module, in_shape, check=False)
    with pytest.raises(InputError, match=r"outputs that differ by|outputs of shape"):
        to_torch(net, params, state, in_shape, module)


def test_names_put_it_right():
    module, net = swapped(), fnn.chain(fnn.dense(4), fnn.tanh, fnn.dense(4))
    params, state = from_torch(net, module, (4,), names={"dense_0": "first", "dense_1": "last"})
    np.testing.assert_array_equal(params["dense_0"]["weight"], module.first.weight.detach().numpy().T)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    to_torch(net, params, state, (4,), module, names={"dense_0": "first", "dense_1": "last"})["first.bias"].add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert np.array_equal(params["dense_0"]["bias"], before["first.bias"])  # what was written is a copy


def test_the_order_of_the_alphabet_is_no_order_of_layers(tmp_path):
    """A file sorts its names, so ``one, two, three`` come as ``one, three, two``. Numbers are in order."""
    net, file = fnn.chain(*[fnn.dense(4, bias=False) for _ in range(3)]), tmp_path / "model.safetensors"
    params, state = net.init(jax.random.key(0), (4,))

    def like(paths):
        save_file({f"{path}.weight": torch.zeros(4, 4) for path in paths}, file)
        return file

    with pytest.raises(InputError, match=r"a file does not tell, got .*: dense_0=one, dense_1=three, dense_2=two"):
        from_torch(net, like(["one", "two", "three"]), (4,), check=False)
    with pytest.raises(InputError, match="dense_0=one, dense_1=three, dense_2=two"):
        to_torch(net, params, state, (4,), file, check=False)
    with pytest.raises(InputError, match="dense_1=three, dense_2=two"):
        to_torch(net, params, state, (4,), file, names={"dense_0": "one"}, check=False)
    again = to_torch(net, params, state, (4,), file, names={"dense_1": "two", "dense_0": "one"}, check=False)
    np.testing.assert_array_equal(again["two.weight"], params["dense_1"]["weight"].T)
    again = to_torch(net, params, state, (4,), like(["a2.x", "a10.x", "a9.x"]), check=False)
    np.testing.assert_array_equal(again["a10.x.weight"], params["dense_2"]["weight"].T)


def test_a_model_that_cannot_be_run():
    net = fnn.chain(fnn.dense(3))
    module = torch.nn.Sequential(torch.nn.Unflatten(1, (2, 2)), torch.nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"run on an input of shape \(8, 4\), got one that raises \(Runtime"):
        from_torch(net, module, (4,))
    linear = module[1]
    outputs = functools.partial(theirs, linear)
    params, _ = from_torch(net, module, (4,), check=outputs)
    np.testing.assert_array_equal(params["dense_0"]["weight"], linear.weight.detach().numpy().T)
    with pytest.raises(InputError, match=r"outputs that differ by"):
        from_torch(net, module, (4,), check=lambda x: 2 * outputs(x))


def test_writing_like_a_state_dict_or_a_file(tmp_path):
    module, net = torch.nn.Linear(4, 3), fnn.chain(fnn.dense(3))
    in_shape, outputs = (4,), functools.partial(theirs, module)
    params, state = from_torch(net, module, in_shape)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    for like in (module.state_dict(), tmp_path / "model.safetensors"):
        with pytest.raises(InputError, match=r"check: expected False, or a function .*, got True"):
            to_torch(net, params, state, in_shape, like)
        assert to_torch(net, params, state, in_shape, like, check=outputs).keys() == module.state_dict().keys()
        with pytest.raises(InputError, match=r"outputs that differ by"):
            to_torch(net, params, state, in_shape, like, check=lambda x: -outputs(x))
    with pytest.raises(InputError, match=r"like: expected a torch.nn.Module, a state dict"):
        to_torch(net, params, state, in_shape, 3)
