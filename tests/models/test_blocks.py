"""The transformer block: what it is composed of, and what goes through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import drawn

import functional_nn as fnn

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 5, 6))


def run(layer, params, x, **options):
    return jax.jit(lambda params, x: layer.apply(params, {}, x, **options)[0])(params, x)


@pytest.mark.parametrize("norm_first", [True, False])
def test_it_is_its_formula(norm_first):
    block = fnn.models.transformer_block(2, norm_first=norm_first, activation=fnn.relu, causal=True, rotary=False)
    params, _ = drawn(block, (5, 6))
    inner = [params[part] for part in ("attention", "mlp")]
    norms = [params[part]["layer_norm_0"] if norm_first else params[f"{part}_norm"] for part in ("attention", "mlp")]

    def norm(i, x):
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * np.asarray(norms[i]["scale"]) + np.asarray(norms[i]["bias"])

    def attend(x):
        return np.asarray(run(fnn.attention(2, causal=True), inner[0]["attention_0"], jnp.asarray(x), train=False))

    def feed_forward(x):
        first, second = ({k: np.asarray(v) for k, v in inner[1][f"dense_{i}"].items()} for i in (0, 1))
        assert first["weight"].shape == (6, 24)
        return np.maximum(x @ first["weight"] + first["bias"], 0) @ second["weight"] + second["bias"]

    x = np.asarray(X)
    if norm_first:
        z = x + attend(norm(0, x))
        expected = z + feed_forward(norm(1, z))
    else:
        z = norm(0, x + attend(x))
        expected = norm(1, z + feed_forward(z))
    np.testing.assert_allclose(run(block, params, X, train=True), expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_in_training_alone_and_may_be_traced():
    params, _ = drawn(fnn.models.transformer_block(2), (5, 6))

    @jax.jit
    def outputs(rate):
        block = fnn.models.transformer_block(2, dropout=rate)
        return [block.apply(params, {}, X, train=train, key=KEY)[0] for train in (True, False)]

    expected = run(fnn.models.transformer_block(2), params, X, train=True)
    trained, evaluated = outputs(0.5)
    np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-5)
    assert abs(trained - expected).max() > 0.1
    np.testing.assert_allclose(outputs(0.0)[0], expected, rtol=1e-4, atol=1e-5)


def test_blocks_repeat_with_their_names():
    net = fnn.chain(fnn.dense(6), fnn.models.transformer_block(2), fnn.models.transformer_block(2, name="last"))
    params, _ = jax.eval_shape(lambda key: net.init(key, (5, 3)), KEY)
    assert sorted(params) == ["dense_0", "last_0", "transformer_block_0"]
    assert "transformer_block_0/attention/attention_0/query/weight" in fnn.trees.flatten(params)
    summary = fnn.summary(net, (5, 3))
    assert summary.total.parameters == fnn.trees.size(params)
    assert {"last_0/attention/attention_0"} <= {row.layer for row in summary.rows}


def test_residual_block_names_its_parts():
    block = fnn.models.residual_block(4, projection=True)
    params, state = jax.eval_shape(lambda key: block.init(key, (8, 8, 3)), KEY)
    assert sorted(params["body"]) == ["batch_norm_0", "batch_norm_1", "conv_0", "conv_1", "shortcut"]
    assert sorted(params["body"]["shortcut"]) == [*sorted(state["body"]["shortcut"]), "conv_0"]
