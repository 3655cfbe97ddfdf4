"""State dicts of NumPy arrays and their files: pairing, errors and bits, without PyTorch."""

import jax
import numpy as np
import pytest
from tests.contracts.composed import others_are_slow
from tests.exchange.networks import NETWORKS, assert_same_bits, random_trees

import functional_nn as fnn
from functional_nn.core.errors import DataError, InputError
from functional_nn.exchange import from_torch, to_torch
from functional_nn.storage.arrays import packed

NET = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(3))


def state_dict(**shapes):
    rng = np.random.default_rng(0)
    shapes = shapes or {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (3, 3), "b.bias": (3,)}
    return {name.replace("__", "."): rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", **others_are_slow(NETWORKS, {"cnn", "attention"}))
def test_writing_and_reading_keep_the_bits(name):
    net, in_shape = NETWORKS[name]
    params, state = random_trees(name)
    written = to_torch(net, params, state, in_shape)
    assert_same_bits(from_torch(net, written, in_shape, check=False), (params, state))
    # What was written is a copy, whose names and shapes another call can take.
    assert all(
        np.array_equal(written[key], array)
        for key, array in to_torch(net, params, state, in_shape, written, check=False).items()
    )


def flattened(x):
    return x.reshape(len(x), -1)


@pytest.mark.parametrize("flatten", [fnn.flatten(), fnn.reshape((24,)), flattened, fnn.chain(fnn.relu, fnn.flatten())])
def test_features_after_flatten_are_in_the_order_of_pytorch(flatten):
    """PyTorch flattens (channels, height, width), and this package (height, width, channels)."""
    net = fnn.chain(flatten, fnn.dense(5))
    x = np.random.default_rng(1).uniform(size=(2, 3, 4, 2)).astype("float32")
    theirs = {"1.weight": state_dict(w=(5, 24))["w"], "1.bias": np.zeros(5, "float32")}
    params, state = from_torch(net, theirs, (3, 4, 2), check=False)
    expected = np.moveaxis(x, -1, 1).reshape(2, -1) @ theirs["1.weight"].T
    np.testing.assert_allclose(net.apply(params, state, x, train=False)[0], expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(to_torch(net, params, state, (3, 4, 2), theirs, check=False)["1.weight"], theirs["1.weight"])


def test_layers_of_one_shape_are_paired_in_order_or_by_name():
    net, theirs = fnn.chain(fnn.dense(3), head=fnn.dense(3)), state_dict(a__weight=(3, 3), b__weight=(3, 3))
    theirs |= {"a.bias": np.zeros(3, "float32"), "b.bias": np.ones(3, "float32")}
    params, _ = from_torch(net, theirs, (3,), check=False)
    assert np.array_equal(params["head"]["weight"], theirs["b.weight"].T)
    params, state = from_torch(net, theirs, (3,), names={"head": "a"}, check=False)
    assert np.array_equal(params["head"]["weight"], theirs["a.weight"].T)
    assert np.array_equal(params["dense_0"]["weight"], theirs["b.weight"].T)
    back = to_torch(net, params, state, (3,), theirs, names={"head": "a"}, check=False)
    assert all(np.array_equal(back[name], array) for name, array in theirs.items())


def test_tied_weights_are_one():
    net = fnn.shared(fnn.chain(fnn.embedding(5, 4), fnn.unembedding(5)), {"unembedding_0": "embedding_0"})
    theirs = state_dict(tokens__weight=(5, 4))
    params, _ = from_torch(net, theirs, (3,), check=False)
    assert np.array_equal(params["embedding_0"]["weight"], theirs["tokens.weight"])


def test_a_checkpoint_with_other_things_and_counters():
    theirs = state_dict() | {"bn.num_batches_tracked": np.int64(3)}
    params, _ = from_torch(NET, {"epoch": 3, "state_dict": theirs}, (4,), check=False)
    assert np.array_equal(params["dense_1"]["weight"], theirs["b.weight"].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"c.weight": np.zeros((3, 3), "float32")},
            r"as many layers of each kind as the PyTorch model has, got 2 weight matrices in the network \(dense_0, "
            r"dense_1\), 3 in the model \(a, b, c\)",
        ),
        (
            {"scale": np.zeros(3, "float32")},
            r"0 other arrays in the network \(none\), 1 in the model \(the model",
        ),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        from_torch(NET, state_dict() | change, (4,), check=False)


def test_a_missing_bias():
    with pytest.raises(InputError, match=r"dense_1 \(dense: bias \(3,\), weight \(3, 3\)\) does not fit b \(weight"):
        from_torch(NET, {name: array for name, array in state_dict().items() if name != "b.bias"}, (4,), check=False)
    params, state = NET.init(jax.random.key(0), (4,))
    like = {name: array for name, array in state_dict().items() if name != "b.bias"}
    assert "b.bias" not in to_torch(NET, params, state, (4,), like, check=False)  # the bias is 0 here
    params["dense_1"]["bias"] += 1
    with pytest.raises(InputError, match=r"dense_1 .* does not fit b \(weight \(3, 3\)\)"):
        to_torch(NET, params, state, (4,), like, check=False)


@pytest.mark.parametrize(("layer", "left_out"), [(fnn.gru(3), "bias_ih"), (fnn.lstm(3), "bias_hh")])
def test_one_of_the_two_biases_of_a_recurrent_module_is_not_enough(layer, left_out):
    params, state = jax.eval_shape(lambda key: layer.init(key, (5, 4)), jax.random.key(0))
    theirs = to_torch(layer, jax.tree.map(lambda leaf: np.ones(leaf.shape, "float32"), params), state, (5, 4))
    one = {name: array for name, array in theirs.items() if left_out not in name}
    with pytest.raises(InputError, match=r"does not fit"):
        from_torch(layer, one, (5, 4), check=False)
    params, _ = from_torch(layer, {n: array for n, array in one.items() if "bias" not in n}, (5, 4), check=False)
    biases = [array for name, array in params.items() if "bias" in name]
    assert all(array.dtype == "float32" and not array.any() for array in biases)


@pytest.mark.parametrize(("weights", "biases"), [("float8_e4m3fn", "bfloat16"), ("float32", "float16")])
def test_arrays_of_one_module_keep_their_types(weights, biases):
    theirs = {name: array.astype(biases if "bias" in name else weights) for name, array in state_dict().items()}
    params, _ = from_torch(NET, theirs, (4,), check=False)
    for name, array in params["dense_0"].items():
        expected = theirs[f"a.{name}"].T
        assert array.dtype == expected.dtype
        assert np.array_equal(array.astype("float32"), expected.astype("float32"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, r"source: expected a torch.nn.Module, a state dict, or the path of a file with one, got 3"),
        ({}, r"source: expected .*, got {}"),
        ({"a.weight": "x"}, r"source: expected tensors by their names, got a.weight: str"),
        ("none.pt", r"none.pt: expected a file of PyTorch parameters, got no such file"),
        (__file__, r"expected a file that ends in .safetensors, got 'test_state_dicts.py'. PyTorch converts its files"),
    ],
)
def test_what_is_no_source(source, message):
    with pytest.raises(InputError, match=message):
        from_torch(NET, source, (4,), check=False)


def test_other_wrong_arguments():
    with pytest.raises(
        InputError, match=r"a layer in names: expected a known name, got 'dens_0'. Did you mean dense_0"
    ):
        from_torch(NET, state_dict(), (4,), names={"dens_0": "a"}, check=False)
    with pytest.raises(InputError, match=r"a module in names: expected a known name, got 'c'"):
        from_torch(NET, state_dict(), (4,), names={"dense_0": "c"}, check=False)
    mine = fnn.chain(fnn.Layer("my", lambda key, in_shape: ({"a": jax.numpy.ones(())}, {}), scaled))
    with pytest.raises(InputError, match=r"layers that PyTorch has too .*, got my_0 \(my\)"):
        from_torch(mine, state_dict(), (3,), check=False)
    frozen = fnn.frozen(NET, "dense_0/*")
    with pytest.raises(InputError, match=r"also frozen/dense_0/bias.* parameters are trees\.merge\(params, state"):
        to_torch(frozen, *frozen.init(jax.random.key(0), (4,)), (4,))
    params, state = NET.init(jax.random.key(0), (5,))
    with pytest.raises(InputError, match=r"params/dense_0/weight: expected shape \(4, 3\), got \w+ of shape \(5, 3\)"):
        to_torch(NET, params, state, (4,))


def scaled(params, state, x, *, train, key=None):
    return params["a"] * x, state, ()


def test_numbers_of_64_bits_are_not_narrowed():
    theirs = {name: array.astype("float64") for name, array in state_dict().items()}
    with pytest.raises(InputError, match=r"64-bit numbers switched on, got 64-bit "):
        from_torch(NET, theirs, (4,), check=False)


def test_a_damaged_file_of_our_own_is_noticed_by_its_checksum(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(state_dict(), {}))
    whole = path.read_bytes()
    assert_same_bits(from_torch(NET, path, (4,), check=False), from_torch(NET, state_dict(), (4,), check=False))
    for place in (-1, -40, -90):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[len(whole) + place + 1 :])
        with pytest.raises(DataError, match="checksum does not match"):
            from_torch(NET, path, (4,), check=False)


@pytest.mark.parametrize("in_shape", [(4, 4, 2), (3, 3)])
def test_a_norm_over_whole_images_has_its_channels_moved(in_shape):
    net = fnn.chain(fnn.conv(3, 1), fnn.layer_norm(axes=range(1, len(in_shape) + 1)))
    shape = (*in_shape[:-1], 3)
    theirs = state_dict(conv__weight=(3, in_shape[-1], *(1 for _ in shape[1:])), conv__bias=(3,))
    theirs |= {f"norm.{name}": state_dict(a=(3, *shape[:-1]))["a"] for name in ("weight", "bias")}
    params, state = from_torch(net, theirs, in_shape, check=False)
    assert np.array_equal(params["layer_norm_0"]["scale"], np.moveaxis(theirs["norm.weight"], 0, -1))
    back = to_torch(net, params, state, in_shape, theirs, check=False)
    assert all(np.array_equal(back[name], array) for name, array in theirs.items())


def test_the_outputs_of_parameters_without_a_model_are_compared_by_a_function():
    net, theirs = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2)), state_dict(a__weight=(3, 4), b__weight=(2, 3))
    theirs |= {"a.bias": np.zeros(3, "float32"), "b.bias": np.zeros(2, "float32")}
    with pytest.raises(InputError, match=r"check: expected False, or a function .*, got True"):
        from_torch(net, theirs, (4,))
    with pytest.raises(InputError, match=r"check: expected True, False, or a function from inputs to outputs, got"):
        from_torch(net, theirs, (4,), check="yes")

    def outputs(x):
        hidden = np.maximum(x @ theirs["a.weight"].T, 0)
        return hidden @ theirs["b.weight"].T

    assert_same_bits(from_torch(net, theirs, (4,), check=outputs), from_torch(net, theirs, (4,), check=False))


def test_a_scale_of_zeros_is_not_left_out():
    net = fnn.chain(fnn.batch_norm())
    params, state = net.init(jax.random.key(0), (4,))
    params["batch_norm_0"]["scale"] *= 0
    like = {"running_mean": np.zeros(4, "float32"), "running_var": np.zeros(4, "float32")}
    with pytest.raises(InputError, match=r"does not fit the model itself"):
        to_torch(net, params, state, (4,), like, check=False)
