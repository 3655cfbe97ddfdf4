"""Whole networks as models in ONNX. Every layer runs with ``-m slow``."""

import logging
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.exchange import onnx_models, to_onnx
from functional_nn.gradients.cases import LAYERS, draw_inputs

pytest.importorskip("jax2onnx")
onnxruntime = pytest.importorskip("onnxruntime")
BATCHES = (1, 7, 64)
NOT_CONVERTED = {"conv_of_volumes": "conv_general_dilated in the network"}
"""The cases of layers that jax2onnx does not convert, and the operation that the error names."""


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs), strict=True))


def check_images(net, params, state, in_shape):
    model = to_onnx(net, params, state, in_shape)
    for count in BATCHES:
        x = np.random.default_rng(count).uniform(size=(count, *in_shape)).astype("float32")
        expected, _ = net.apply(params, state, x, train=False)
        assert np.abs(run(model, input=x)["output"] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_network_of_every_operation_that_is_replaced():
    """Paddings, clamping and convolutions. Transposed ones pad between the rows."""
    net = fnn.chain(
        *(fnn.conv(2, 3, stride=2), fnn.batch_norm(), fnn.relu6, fnn.max_pool(3, stride=2, padding="same")),
        *(fnn.conv_transpose(4, 3, stride=2), lambda x: jax.lax.clamp(-0.1, x, 0.1)),
        *(fnn.dropout(0.5), fnn.flatten(), fnn.dense(3)),
    )
    params, state = net.init(jax.random.key(0), (9, 8, 1))
    check_images(net, params, state, (9, 8, 1))


def test_the_file_has_the_model(tmp_path):
    net = fnn.dense(2)
    params, state = net.init(jax.random.key(0), (3,))
    model = to_onnx(net, params, state, (3,), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == model.SerializeToString()
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3]


def test_tokens():
    net = fnn.chain(fnn.embedding(5, 4), fnn.lstm(3), fnn.dense(2))
    params, state = net.init(jax.random.key(0), (6,))
    tokens = np.array([[0, 1, 2, 3, 4, 0]], np.int32)
    found = run(to_onnx(net, params, state, (6,)), input=tokens)["output"]
    np.testing.assert_allclose(found, net.apply(params, state, tokens, train=False)[0], 1e-5)


def test_masked_sequences_and_inputs_in_a_dict():
    net = fnn.chain(fnn.gru(4, returns="sequence"), fnn.dense(2))
    params, state = net.init(jax.random.key(0), (6, 3))
    x = fnn.Masked(np.ones((2, 6, 3), "float32"), np.arange(6) < np.array([[6], [2]]))
    found = run(to_onnx(net, params, state, fnn.Masked((6, 3), (6,))), input_values=x.values, input_mask=x.mask)
    expected, _ = net.apply(params, state, x, train=False)
    np.testing.assert_allclose(found["output_values"], expected.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["output_mask"], x.mask)

    def both(x):
        return {"sum": x["a"] + x["b"], "a": x["a"]}

    net = fnn.chain(both)
    a, b = np.ones((1, 2), "float32"), np.full((1, 2), 3, "float32")
    found = run(to_onnx(net, {}, {}, {"a": (2,), "b": (2,), "unused": (2,)}), input_a=a, input_b=b, input_unused=a)
    assert found["output_sum"].tolist() == [[4, 4]]
    assert found["output_a"].tolist() == [[1, 1]]


def test_long_sums_lose_few_digits():
    x = np.random.default_rng(0).uniform(size=(10_000, 4)).astype(np.float32)
    model = onnx_models.converted(jax.make_jaxpr(lambda x: jnp.sum(x, axis=0))(x), "sum", ["x"], ["y"])
    np.testing.assert_allclose(run(model, x=x)["y"], np.sum(x, axis=0, dtype=np.float64), rtol=3e-7)


def test_the_process_is_as_before(capfd):
    def functions():
        modules = (jax, jnp, jax.lax, jax.nn, jax.random)
        found = {(m.__name__, name): value for m in modules for name, value in vars(m).items() if callable(value)}
        return found, list(warnings.filters), list(logging.root.handlers), logging.root.manager.disable

    before = functions()
    net = fnn.chain(fnn.dense(2), fnn.softmax)
    params, state = net.init(jax.random.key(0), (3,))
    to_onnx(net, params, state, (3,))
    after = functions()
    assert [name for name, value in before[0].items() if after[0][name] is not value] == []
    assert after[1:] == before[1:]
    assert capfd.readouterr() == ("", "")


def test_what_jax2onnx_or_onnx_runtime_cannot_do_is_an_error(tmp_path):
    path = tmp_path / "net.onnx"
    net = fnn.chain(fnn.relu, fnn.conv(2, (3, 3, 3)), fnn.relu)
    params, state = net.init(jax.random.key(0), (4, 4, 4, 1))
    with pytest.raises(InputError, match=r"that jax2onnx can convert, got conv_general_dilated in conv_0 \("):
        to_onnx(net, params, state, (4, 4, 4, 1), path)
    net = fnn.chain(lambda x: jnp.fft.fft(x).real)
    with pytest.raises(InputError, match=r"net: expected a model that ONNX Runtime can run, got"):
        to_onnx(net, {}, {}, (4,), path)
    assert not path.exists()


def test_a_wrong_model_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("old")
    net = fnn.chain(fnn.relu)
    monkeypatch.setattr(onnx_models, "REPLACEMENTS", {"name": lambda equation, x: 1.001 * x})
    with pytest.raises(InputError, match=r"the outputs of the network in ONNX Runtime, got outputs that differ by"):
        to_onnx(net, {}, {}, (4,), path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_text() == "old"


def test_missing_packages_and_parameters_that_are_too_large(monkeypatch):
    net = fnn.dense(1)
    large = {"weight": np.broadcast_to(np.float32(0), (2**29, 1)), "bias": np.zeros(1, "float32")}
    with pytest.raises(InputError, match=r"params: expected at most 2 GB, as in every file of ONNX, got 2\.1 GB"):
        to_onnx(net, large, {}, (2**29,))
    for missing in ("onnxruntime", "jax2onnx"):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(InputError, match=rf"expected {missing} to be installed.*functional-nn\[onnx\]"):
            to_onnx(fnn.relu, {}, {}, (3,))
        monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_every_layer(case):
    """``to_onnx`` itself compares the outputs. Shapes alone do not say that a mask beside the inputs has booleans."""
    if case.name.endswith("_with_bias_and_mask"):
        pytest.skip("in_shape gives shapes, not types")
    params, state, x = draw_inputs(case)
    in_shape = jax.tree.map(lambda leaf: leaf.shape[1:], x)
    if given := NOT_CONVERTED.get(case.name):
        with pytest.raises(InputError, match=given):
            to_onnx(case.layer, params, state, in_shape)
    else:
        to_onnx(case.layer, params, state, in_shape)
