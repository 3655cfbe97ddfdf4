"""Statistics of layers: what they count, and what their file keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.storage import run_folder
from functional_nn.training.layer_statistics import (
    StatisticsRecorder,
    chosen_examples,
    is_recorded,
    make_layer_statistics,
)

NET = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2), fnn.tanh, name="net")
X, LABELS = np.float32([[1, 0], [0, 1], [1, 1], [2, 1]]), np.int32([0, 1, 1, 0])


@pytest.fixture(scope="module")
def params():
    params, _ = NET.init(jax.random.key(0), (2,))
    weight = jnp.float32([[1, -1, 0.5], [1, -1, -0.5]])
    params["dense_0"] = {"weight": weight, "bias": jnp.zeros(3)}
    params["dense_1"] = {"weight": jnp.full((3, 2), 10.0).at[:, 0].set(0.1), "bias": jnp.zeros(2)}
    return params


@pytest.fixture(scope="module")
def statistics():
    return make_layer_statistics(NET, fnn.cross_entropy)


def test_outputs_and_gradients_are_those_of_the_network(params, statistics):
    outputs, gradients = statistics(params, {}, jnp.asarray(X), jnp.asarray(LABELS))
    y = np.maximum(X @ np.asarray(params["dense_0"]["weight"]), 0)
    assert list(outputs) == ["dense_0", "relu_0", "dense_1", "tanh_0"]
    assert outputs["relu_0"] == {
        **{"units": 3, "dead": 1, "zeros": pytest.approx(np.mean(y == 0), 1e-3)},
        **{"mean": pytest.approx(y.mean(), 1e-3), "deviation": pytest.approx(y.std(), 1e-3)},
    }
    assert outputs["tanh_0"]["saturated"] == 0.5  # one of two units is far from 0

    def loss(params):
        return fnn.cross_entropy(NET.apply(params, {}, X, train=False)[0], LABELS)

    expected = jax.jit(jax.grad(loss))(params)
    assert list(gradients) == ["dense_0", "dense_1"]
    for layer, numbers in gradients.items():
        assert numbers["gradient"] == pytest.approx(np.sqrt(np.mean(expected[layer]["weight"] ** 2)), 1e-3)
        assert numbers["weight"] == pytest.approx(np.sqrt(np.mean(params[layer]["weight"] ** 2)), 1e-3)


def test_examples_are_spread_over_all(params):
    assert len(chosen_examples(5000)) == 256
    assert (chosen_examples(5000)[0], chosen_examples(5000)[-1]) == (0, 4999)
    assert chosen_examples(3).tolist() == [0, 1, 2]


def test_a_run_that_goes_on_keeps_its_rows(tmp_path, params, statistics):
    def recorder(restored=0):
        made = StatisticsRecorder(tmp_path, NET, fnn.cross_entropy, "float32", X, LABELS, restored)
        made._statistics = statistics  # compiled once for all of these tests
        return made

    first = recorder()
    for epoch in (1, 2, 3):
        first.record(epoch, params, {})
    rows = run_folder.read_layer_statistics(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert first.seconds > 0
    # The run goes on from epoch 2; epoch 3 is computed again. Restored epochs come with the parameters of epoch 2.
    other = jax.tree.map(lambda leaf: 2 * leaf, params)
    again = recorder(2)
    for epoch in (1, 2, 3):
        again.record(epoch, other, {})
    later = run_folder.read_layer_statistics(tmp_path)
    assert later[:2] == rows[:2]
    assert later[2]["gradients"]["dense_0"]["weight"] == pytest.approx(2 * rows[2]["gradients"]["dense_0"]["weight"])
    # A line that was damaged is left out, and one that is missing for the last restored epoch is made again.
    path = tmp_path / run_folder.LAYER_STATISTICS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b'"dead": 1', b'"dead": 2') + lines[1] + lines[2][:-20])
    with pytest.warns(UserWarning, match="line 1: it is damaged"):
        assert [row["epoch"] for row in run_folder.read_layer_statistics(tmp_path)] == [2]
    with pytest.warns(UserWarning, match="line 1: it is damaged"):
        third = recorder(3)
    for epoch in (1, 2, 3):
        third.record(epoch, other, {})
    third.record(3, other, {}, is_last=True)
    assert run_folder.read_layer_statistics(tmp_path) == [rows[1], later[2]]


def test_long_runs_write_fewer_rows():
    assert all(map(is_recorded, range(1, 65)))
    assert sum(map(is_recorded, range(1, 100_000))) < 450
