"""Which types a run uses, and how float16 gets along with its few numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.training import small_run
from tests.training.small_run import bits

import functional_nn as fnn
from functional_nn.training.precision import FINITE_STEPS_TO_DOUBLE, FIRST_SCALE, LARGEST_SCALE, LossScale, as_precision
from functional_nn.training.step import forward

NET = fnn.chain(fnn.dense(8), fnn.batch_norm(), fnn.tanh, fnn.dense(3))


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return jnp.asarray(random.normal(size=(16, 5)), jnp.float32), jnp.asarray(random.integers(0, 3, 16), jnp.int32)


def stepped(batch, net=NET, loss=fnn.cross_entropy, optimizer=None, precision="float16", loss_scale=None):
    """The states before and after one step, and its loss."""
    optimizer = optimizer or optax.sgd(1.0)
    before = fnn.training.create_train_state(net, optimizer, jax.random.key(0), batch[0].shape[1:], precision)
    if loss_scale is not None:
        before = before._replace(loss_scale=loss_scale)
    after, value = jax.jit(fnn.training.make_train_step(net, loss, optimizer, precision=precision, keep_finite=False))(
        before, *batch
    )
    return before, after, value


def scale_of(scale, finite_steps=0):
    return LossScale(jnp.float32(scale), jnp.int32(finite_steps), jnp.int32(0))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def regression(factor, examples=64):
    """Labels far away: gradients near 2 ``factor`` / batch size."""
    x = np.random.default_rng(0).normal(size=(examples, 4)).astype(np.float32)
    return fnn.data.Split(x, np.float32(factor) * x[:, :1])


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_16_bits_learn_as_well_as_32_and_keep_the_parameters_in_32(precision):
    low, high = (small_run.fit(epochs=10, precision=chosen) for chosen in (precision, "float32"))
    assert low.status == "finished"
    assert low.params["weight"].dtype == jnp.float32
    assert bits(low) != bits(high)
    assert low.history[-1].test_accuracy >= 0.9
    assert high.history[-1].test_accuracy >= 0.9
    assert high.train_state.loss_scale is None


def test_gradients_below_float16_survive(batch):
    """All of them are under 6e-8, float16's smallest number: without a scale they would be 0."""
    tiny = lambda y, labels: 1e-7 * fnn.cross_entropy(y, labels)  # noqa: E731
    low, high = (
        stepped(batch, loss=tiny, optimizer=optax.sgd(1e7), precision=precision) for precision in ("float16", "float32")
    )
    change = lambda run: np.asarray(run[1].params["dense_1"]["weight"] - run[0].params["dense_1"]["weight"])  # noqa: E731
    assert np.abs(change(high)).max() < 0.6
    np.testing.assert_allclose(change(low), change(high), atol=0.05 * np.abs(change(high)).max())


def test_an_overflow_changes_nothing_but_the_scale(batch):
    before, after, value = stepped(batch, loss_scale=scale_of(2.0**24, finite_steps=7))
    assert_same(after._replace(key=None, loss_scale=None), before._replace(key=None, loss_scale=None))
    assert after.loss_scale == (2.0**23, 0, 1)
    assert np.isfinite(value)


@pytest.mark.parametrize(("scale", "expected"), [(8.0, 16.0), (LARGEST_SCALE, LARGEST_SCALE)])
def test_the_scale_grows_back_to_its_largest(scale, expected):
    assert scale_of(scale, FINITE_STEPS_TO_DOUBLE - 2).after(jnp.bool_(True)) == (scale, FINITE_STEPS_TO_DOUBLE - 1, 0)
    assert scale_of(scale, FINITE_STEPS_TO_DOUBLE - 1).after(jnp.bool_(True)) == (expected, 0, 0)


@pytest.mark.usefixtures("no_search")
def test_a_scale_that_cannot_be_lowered_ends_the_run():
    """15 halvings lead from 2¹⁵ to 1, so step 15 is the first bad one; every epoch has 16 steps."""
    steep = lambda y, labels: 1e9 * fnn.mean_squared_error(y, labels)  # noqa: E731
    run = fnn.fit(fnn.dense(1), steep, optax.sgd(1e-12), regression(10.0), epochs=3, batch_size=4, precision="float16")
    assert run.status == "non-finite"
    assert "at step 15 of epoch 1" in run.message
    assert "Float16 ends at 65,504" in run.message
    assert run.train_state.step == 0
    assert_same(
        run.params, fnn.training.create_train_state(fnn.dense(1), optax.sgd(1.0), jax.random.key(0), (4,)).params
    )


@pytest.mark.usefixtures("no_search")
def test_what_overflows_forward_is_no_matter_of_the_scale():
    data = regression(1.0)
    data.train_x[:] = 1e5
    run = fnn.fit(fnn.dense(1), fnn.mean_squared_error, optax.sgd(0.1), data, batch_size=64, precision="float16")
    assert run.status == "non-finite"
    assert "at step 0" in run.message
    assert run.train_state.loss_scale == (FIRST_SCALE, 0, 0)


def test_masks_and_tuples_pass_through():
    """Floating-point parts are cast, bytes scaled, and masks stay what they are, on the way in and out."""
    net = fnn.Layer("swap", lambda key, in_shape: ({}, {}), lambda p, s, x, *, train, key=None: (x[::-1], s, ()), None)
    mask = jnp.ones((2, 3), bool)
    x = (fnn.Masked(jnp.ones((2, 3, 1)), mask), jnp.full((2, 1), 255, jnp.uint8), jnp.zeros((2,), jnp.int32))
    numbers, ones, masked = forward(net, as_precision("float16"), {}, {}, x, train=False)[0]
    assert numbers.dtype == jnp.int32
    assert (ones.dtype, float(ones[0, 0])) == (jnp.float32, 1.0)
    assert masked.values.dtype == jnp.float32
    assert masked.mask.dtype == bool


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("float15", "Did you mean float16"),
        (16, "a known name, got 16"),
        ("float64", "64-bit numbers switched on for float64"),
    ],
)
def test_what_is_no_precision_is_refused(precision, words):
    with pytest.raises(fnn.InputError, match=f"precision: expected .*{words}"):
        as_precision(precision)


@pytest.mark.parametrize("precisions", [("float16", "float32"), ("float32", "float16")])
def test_a_state_made_for_another_precision_is_refused(batch, precisions):
    state = fnn.training.create_train_state(NET, optax.sgd(1.0), jax.random.key(0), (5,), precisions[0])
    step = fnn.training.make_train_step(NET, fnn.cross_entropy, optax.sgd(1.0), precision=precisions[1])
    with pytest.raises(fnn.InputError, match="train_state: expected"):
        step(state, *batch)
