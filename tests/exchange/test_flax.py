"""Parameters from and for Flax NNX."""

import numpy as np
import pytest
from tests.exchange.networks import NETWORKS, assert_near, assert_same_bits, batch, outputs, random_trees

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.exchange import from_flax, to_flax

nnx = pytest.importorskip("flax.nnx")


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests, since Flax mixes types."""


def model(name, cell=nnx.OptimizedLSTMCell):
    rngs = nnx.Rngs(0)

    def steps(cell):
        return nnx.Sequential(nnx.RNN(cell), nnx.Linear(7, 3, rngs=rngs))

    match name:
        case "mlp":
            norm, prelu = nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs), nnx.PReLU()
            return nnx.Sequential(
                nnx.Linear(5, 4, rngs=rngs), nnx.relu, norm, prelu, nnx.Linear(4, 3, use_bias=False, rngs=rngs)
            )
        case "cnn":
            return nnx.Sequential(
                nnx.Conv(3, 4, (3, 3), rngs=rngs),
                nnx.BatchNorm(4, use_running_average=True, rngs=rngs),
                lambda x: nnx.max_pool(nnx.relu(x), (2, 2), (2, 2)),
                nnx.Conv(4, 6, (3, 3), use_bias=False, rngs=rngs),
                nnx.GroupNorm(6, 2, epsilon=1e-5, rngs=rngs),
                lambda x: x.reshape(len(x), -1),
                nnx.Linear(96, 5, rngs=rngs),
            )
        case "conv_transpose":
            return nnx.Sequential(nnx.ConvTranspose(3, 4, (3, 3), 2, padding="VALID", rngs=rngs))
        case "rnn":
            return steps(nnx.SimpleCell(5, 7, rngs=rngs))
        case "lstm":
            return steps(cell(5, 7, rngs=rngs))
        case "gru":
            return steps(nnx.GRUCell(5, 7, rngs=rngs))
        case "attention":
            attend = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            return nnx.Sequential(attend, nnx.RMSNorm(8, epsilon=1e-5, rngs=rngs))
        case "embedding":
            return nnx.Sequential(nnx.Embed(11, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs))


def fitting(name):
    """Random trees that Flax can have: one slope for all features, and no second bias in a GRU."""
    params, state = random_trees(name)
    if name == "mlp":
        params["prelu_0"]["negative_slope"] = np.full(4, 0.3, "float32")
    if name == "gru":
        params["gru_0"]["hidden_bias"] = np.zeros(7, "float32")
    return params, state


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_a_model_and_back(name):
    net, in_shape = NETWORKS[name]
    there = model(name)
    params, state = fitting(name)
    nnx.update(there, to_flax(net, params, state, in_shape, there))
    assert_near(np.asarray(there(batch(name))), outputs(name, params, state))
    assert_same_bits(from_flax(net, there, in_shape), (params, state))


def test_a_cell_with_a_module_for_each_gate():
    net, in_shape = NETWORKS["lstm"]
    there = model("lstm", nnx.LSTMCell)
    params, state = random_trees("lstm")
    nnx.update(there, to_flax(net, params, state, in_shape, there))
    assert_near(np.asarray(there(batch("lstm"))), outputs("lstm", params, state))
    assert_same_bits(from_flax(net, there, in_shape), (params, state))


def test_a_transposed_kernel():
    net, in_shape = NETWORKS["conv_transpose"]
    options = {"strides": 2, "padding": "VALID", "transpose_kernel": True}
    there = nnx.Sequential(nnx.ConvTranspose(3, 4, (3, 3), **options, rngs=nnx.Rngs(0)))
    params, state = random_trees("conv_transpose")
    nnx.update(there, to_flax(net, params, state, in_shape, there))
    assert_near(np.asarray(there(batch("conv_transpose"))), outputs("conv_transpose", params, state))
    assert_same_bits(from_flax(net, there, in_shape), (params, state))


def test_modules_are_in_the_order_of_their_assignment():
    class Net(nnx.Module):
        def __init__(self):
            self.second_to_none, self.first = (nnx.Linear(3, 3, rngs=nnx.Rngs(seed)) for seed in (1, 2))

    net, there = fnn.chain(fnn.dense(3), fnn.dense(3)), Net()
    params, _ = from_flax(net, there, (3,), check=False)
    np.testing.assert_array_equal(params["dense_0"]["weight"], there.second_to_none.kernel[...])
    params, _ = from_flax(net, there, (3,), names={"dense_0": "first"}, check=False)
    np.testing.assert_array_equal(params["dense_0"]["weight"], there.first.kernel[...])


def test_modules_may_have_the_names_of_parts_of_flax_modules():
    class Net(nnx.Module):
        def __init__(self):
            self.query, self.out = (nnx.Linear(3, 3, rngs=nnx.Rngs(seed)) for seed in (1, 2))

    params, _ = from_flax(fnn.chain(fnn.dense(3), fnn.dense(3)), Net(), (3,), check=False)
    np.testing.assert_array_equal(params["dense_1"]["weight"], Net().out.kernel[...])


def test_what_does_not_fit():
    net, in_shape = NETWORKS["gru"]
    params, state = random_trees("gru")
    with pytest.raises(InputError, match=r"gru_0 \(gru: .*hidden_bias \(7,\).* does not fit layers/0/cell"):
        to_flax(net, params, state, in_shape, model("gru"))
    with pytest.raises(InputError, match=r"model: expected a flax.nnx.Module, got dict"):
        from_flax(net, {}, in_shape)
