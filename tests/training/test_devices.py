"""Training over several devices: the batch is sharded, the mean is over all of it."""

import jax
import pytest
from tests.other_process import python
from tests.training import small_run

import functional_nn as fnn
from functional_nn.training.devices import chosen_devices


@pytest.mark.processes
def test_fit_on_two_devices_is_fit_on_one_with_half_a_batch_on_each():
    """A batch norm's statistics, dropout's masks and a loss of pairs go over the whole batch.

    Neither the batches of 9 nor the last one, of 2, are divided evenly: one device has 5 of 9.

    Adam would make noise of the bias whose gradient the batch norm makes 0. A compiled step has arrays of half a batch.
    """
    code = """
    import re, jax, jax.numpy as jnp, numpy as np, optax, functional_nn as fnn
    from functional_nn.training.precision import as_precision
    from functional_nn.training.programs import Programs
    from functional_nn.training.recipe import Recipe
    from functional_nn.training.programs import ProgramSpec, shapes_of

    random = np.random.default_rng(0)
    x, labels = random.normal(size=(47, 5)).astype(np.float32), random.integers(0, 3, 47).astype(np.int32)
    data = fnn.data.Split(x, labels, x[:9], labels[:9])
    net = fnn.chain(fnn.dense(8), fnn.batch_norm(), fnn.relu, fnn.dropout(0.2), fnn.dense(3))

    def pairs(y, labels):
        same = labels[:, None] == labels[None, :]
        apart = jnp.sum(jnp.square(y[:, None] - y[None, :]), axis=-1)
        return jnp.mean(jnp.where(same, apart, jnp.exp(-apart))) + fnn.cross_entropy(y, labels)

    runs = [fnn.fit(net, pairs, optax.sgd(0.1), data, epochs=3, batch_size=9, devices=d) for d in (1, 2, 2)]
    one, two, again = ([list(run.history[-1].metrics.values()), *jax.tree.leaves(run.train_state._replace(key=None))]
                       for run in runs)
    for a, b, c in zip(one, two, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(b, c)
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in two[1:])
    y, _ = jax.jit(net.apply, static_argnames="train")(runs[1].params, runs[1].state, x, train=False)
    assert y.shape == (47, 3)

    x, labels = np.zeros((32, 6), np.float32), np.zeros(32, np.int32)
    recipe = Recipe(fnn.chain(fnn.dense(7), fnn.tanh, fnn.dense(5)), fnn.cross_entropy, optax.sgd(0.1))
    def shapes(devices):
        data = fnn.data.Split(x, labels, x, labels)
        spec = ProgramSpec(recipe, 16, as_precision("float32"), shapes_of(data), devices=devices)
        programs = Programs(spec)
        return set(re.findall(r"f32\\[[0-9]+,7\\]", programs.compiled["full"].as_text()))
    assert "f32[16,7]" in shapes(1)
    assert "f32[8,7]" in shapes(2) and "f32[16,7]" not in shapes(2)
    """
    python(code, JAX_NUM_CPU_DEVICES="2")


def test_what_devices_cannot_be():
    def refused(**options):
        with pytest.raises(fnn.InputError) as error:
            small_run.fit(**options)
        return str(error.value)

    assert "devices: expected at most 1" in refused(devices=2)
    assert "jax_num_cpu_devices" in refused(devices=2)
    assert "devices" in refused(devices=0)


def test_several_processes_use_all_of_their_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    assert chosen_devices(None) == chosen_devices(6) == 6
    for devices in (1, 7, "all"):
        with pytest.raises(fnn.InputError, match="devices: expected 6, all devices of the 2 processes"):
            chosen_devices(devices)
