"""The host's loop: what it returns, when it stops, and what it refuses."""

import dataclasses
import gc
import re
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.training.small_run import ADAM, DATA, DEEP, LABELS, NET, RULE, TRAIN, VALIDATED, bits, fit

import functional_nn as fnn
from functional_nn.data import make_dataset
from functional_nn.training import programs

KEY = jax.random.key(0)


def test_it_learns_and_reports():
    seen = []
    run = fit(DEEP, optimizer=ADAM, epochs=30, on_epoch=lambda metrics, state: seen.append(metrics))
    assert run.status == "finished"
    assert run.message == ""
    assert run.history == tuple(seen)
    assert [metrics.epoch for metrics in run.history] == list(range(1, 31))
    assert run.history[-1].test_accuracy in {right / 20 for right in (19, 20)}
    assert run.history[-1].train_loss < run.history[0].train_loss
    assert run.train_state.step == 30 * 2
    assert run.seconds["train"] > 0


def test_progress_ends_with_a_closing_line(capfd):
    run = fit(epochs=1, progress=True)
    assert capfd.readouterr().err.strip().endswith(repr(run))
    assert re.fullmatch(r"Run\(finished, 1 epoch, train loss .*, test loss .*, test accuracy 0\.\d{4}\)", repr(run))


def test_same_seed_same_bits_and_another_seed_others():
    run, again, other = (fit(DEEP, optimizer=ADAM, seed=seed) for seed in (1, 1, 2))
    assert bits(run) == bits(again) != bits(other)
    assert again in [run, again]
    assert run != again


def test_programs_are_compiled_once_and_used_again(tmp_path):
    """Also those that are compiled when they are needed: the last evaluation, and the traces for a run's folder."""
    traces = []

    def counted(x):
        traces.append(x.shape)
        return x

    net = fnn.chain(counted, fnn.dense(3))
    first = fit(net, data=VALIDATED, checkpoints=tmp_path / "first", epochs=1)
    after_first = len(traces)
    second = fit(net, data=VALIDATED, checkpoints=tmp_path / "second", epochs=2, seed=3)
    assert first.seconds["compile"] > 0
    assert second.seconds["compile"] == 0
    assert len(traces) == after_first


def test_programs_of_an_optimizer_that_is_gone_are_let_go():
    def number_of_programs():
        gc.collect()
        return sum(isinstance(kept, programs.Made) for kept in gc.get_objects())

    optimizer = optax.sgd(0.1)
    fit(optimizer=optimizer, data=TRAIN, epochs=1)
    kept = number_of_programs()
    optimizer = optax.sgd(0.2)
    fit(optimizer=optimizer, data=TRAIN, epochs=1)
    assert number_of_programs() <= kept  # those of other tests may go, too
    assert fit(optimizer=optimizer, data=TRAIN, epochs=1).seconds["compile"] == 0


def test_a_penalty_pulls_on_the_weights_and_not_on_the_reported_loss():
    free, held = (fit(data=TRAIN, penalty=penalty) for penalty in (None, fnn.l2(1.0)))
    norm = lambda run: float(np.linalg.norm(run.params["weight"]))  # noqa: E731
    assert norm(held) < 0.7 * norm(free)
    assert held.history[0].train_loss < 1.5 * free.history[0].train_loss


def test_images_enter_flat_where_the_network_wants_vectors_and_sequences_as_they_are():
    images = np.zeros((20, 4, 3, 2), np.uint8)
    labels = LABELS[:20]
    data = make_dataset("mine", images, labels, images, labels, source="a test")
    assert fit(data=data, epochs=1).in_shape == (24,)
    assert fit(fnn.chain(fnn.flatten(), NET), data=fnn.data.Split(images, labels), epochs=1).in_shape == (4, 3, 2)
    pooled = lambda y, labels: fnn.cross_entropy(y.mean(axis=1), labels)  # noqa: E731
    run = fit(loss=pooled, data=fnn.data.Split(np.ones((20, 6, 5), np.float32), labels), epochs=1)
    assert run.params["weight"].shape == (5, 3)
    assert run.in_shape == (6, 5)


@pytest.mark.usefixtures("no_search")
def test_statistics_that_overflow_are_refused():
    """Loss and parameters are finite all along."""

    def forward(params, state, x, *, train, key=None):
        return x, {"growing": state["growing"] * 1e20}, ()

    layer = fnn.Layer("growing", lambda key, in_shape: ({}, {"growing": jnp.ones(())}), forward, None)
    run = fit(fnn.chain(layer, NET), data=TRAIN, epochs=2)
    assert run.status == "non-finite"
    np.testing.assert_allclose(run.state["growing_0"]["growing"], 1e20, rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "status", "steps", "skipped"),
    [
        (RULE, "non-finite", 0, 1),
        (optax.chain(optax.zero_nans(), optax.clip(1.0), RULE), "finished", 1, 0),
        (fnn.training.with_clipping(ADAM, 1.0), "finished", 1, 1),
    ],
)
@pytest.mark.usefixtures("no_search")
def test_an_infinite_gradient_under_a_finite_loss_is_refused_if_the_optimizer_does_not_mend_it(
    rule, status, steps, skipped
):
    """The square root of 0 has the gradient infinity. What counts is what the optimizer makes of it."""
    x, labels = np.zeros((8, 2), np.float32), np.ones((8, 1), np.float32)
    net = fnn.chain(fnn.dense(1, initializer=jax.nn.initializers.zeros), lambda z: jnp.sqrt(jnp.abs(z)))
    run = fit(net, fnn.mean_squared_error, rule, fnn.data.Split(x, labels), epochs=1)
    assert (run.status, run.train_state.step, run.history[0].skipped_steps) == (status, steps, skipped)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))


def test_random_bits_follow_jax_threefry_partitionable(tmp_path):
    """It changes every random number, and no text of a program."""
    first = fit(data=TRAIN, epochs=1, checkpoints=tmp_path)
    with jax.threefry_partitionable(False):
        assert bits(fit(data=TRAIN, epochs=1)) != bits(first)
        with pytest.raises(fnn.InputError, match="whose run has jax_threefry_partitionable true instead of false"):
            fit(data=TRAIN, epochs=1, checkpoints=tmp_path)


@dataclasses.dataclass
class Unhashable:
    function: Callable

    def __call__(self, *arguments, **options):
        return self.function(*arguments, **options)


def test_any_function_works_as_loss_optimizer_layer_and_penalty():
    """Also objects that cannot be hashed."""
    times = Unhashable(lambda params, state, x, *, train, key=None: (x @ params["weight"], state, ()))
    layer = fnn.Layer("times", lambda key, in_shape: ({"weight": jnp.ones((in_shape[0], 3))}, {}), times)
    net, descent = fnn.chain(layer, jnp.sin), SimpleNamespace(init=RULE.init, update=RULE.update)
    penalty = Unhashable(lambda params: 1e-3 * jnp.sum(jnp.square(params["times_0"]["weight"])))
    run = fit(net, Unhashable(fnn.cross_entropy), descent, TRAIN, epochs=1, penalty=penalty)
    assert run.status == "finished"
    assert fnn.training.predict(net, run.params, run.state, DATA.test_x).shape == (20, 3)


def test_interrupted_after_the_last_epoch_is_finished():
    def interrupt(metrics, train_state):
        if metrics.epoch == 2:
            raise KeyboardInterrupt

    run, whole = (fit(data=VALIDATED, epochs=2, on_epoch=on_epoch) for on_epoch in (interrupt, None))
    assert (run.status, run.message) == ("finished", "")
    assert run.test_metrics == whole.test_metrics != {}
    assert bits(run) == bits(whole)


@pytest.mark.parametrize("part", ["train_x", "train_labels", "test_labels"])
def test_integers_beyond_32_bits_in_the_data(part):
    wide = np.array(getattr(DATA, part), np.int64)
    wide.flat[7] += 2**32
    with pytest.raises(fnn.InputError, match=rf"data\.{part}: expected integers that int32 holds, got 42949672\d\d at"):
        fit(data=DATA._replace(**{part: wide}))


def test_integers_beyond_32_bits_in_a_loss_and_a_prediction():
    wide = np.array([[0, 2**32]])
    with pytest.raises(fnn.InputError, match="labels: expected integers that int32 holds, got 4294967296 at"):
        fnn.cross_entropy(np.zeros((2, 3), np.float32), wide[0])
    with pytest.raises(fnn.InputError, match="x: expected integers that uint32 holds, got 4294967296 at index"):
        fnn.training.predict(fnn.tanh, {}, {}, wide.astype(np.uint64))


def test_float64_where_they_are_on_and_float32_that_stays(float64):
    assert fnn.mean_absolute_error(np.zeros((1, 1)), np.array([[2**32]])) == 2**32
    for precision, dtype in (("float64", jnp.float64), ("float32", jnp.float32)):
        assert fit(data=TRAIN, epochs=1, precision=precision).params["weight"].dtype == dtype


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        start = fnn.training.create_train_state(DEEP, RULE, KEY, (5,))
        step = fnn.training.make_train_step(DEEP, fnn.cross_entropy, RULE)
        after, _ = jax.jit(fnn.training.make_epoch(step, 20))(start, TRAIN.train_x, TRAIN.train_labels, np.int32(0))
    assert after.step == 2


def test_noise_differs_from_step_to_step():
    net, frozen = fnn.chain(fnn.dropout(0.5), NET), optax.sgd(0.0)
    step = jax.jit(fnn.training.make_train_step(net, fnn.cross_entropy, frozen))
    state = fnn.training.create_train_state(net, frozen, KEY, (50,))
    losses = []
    for _ in range(3):
        state, loss = step(state, np.ones((4, 50), np.float32), np.zeros(4, np.int32))
        losses.append(float(loss))
    assert len(set(losses)) == 3


@pytest.mark.parametrize(("label", "part"), [(3, "train"), (-1, "test")])
def test_labels_out_of_range_are_found_before_training(label, part):
    labels = LABELS[: 40 if part == "train" else 20].copy()
    labels[5] = label
    with pytest.raises(
        fnn.InputError, match=rf"{part} data: labels: expected labels from 0 to 2.*got {label} at index \(5,\)"
    ):
        fit(data=DATA._replace(**{f"{part}_labels": labels}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": jax.tree.map(lambda part: part[:0], DATA)}, "at least one example"),
        ({"optimizer": optax.adam}, r"optimizer: expected an Optax transformation.*Write optax.adam\(1e-3\)"),
        ({"loss": lambda y: y.sum()}, r"loss: .*got one with the arguments \(y\)\. It is called with 2 arguments"),
        ({"loss": optax.softmax_cross_entropy}, r"got optax\.softmax_cross_entropy, .*Write fnn\.cross_entropy\."),
        ({"loss": lambda y, labels: y.sum(axis=1)}, r"loss: .*shape \(20,\)\. Return the mean over the examples"),
        ({"penalty": lambda: 0.0}, r"penalty: .*called with 1 argument: \(params\)"),
        ({"on_epoch": lambda metrics: None}, r"on_epoch: .*called with 2 arguments: \(metrics, train_state\)"),
        ({"optimizer": optax.adam("x")}, "optimizer: .*got one that raises .TypeError: .*Look at its arguments"),
        ({"data": DATA._replace(train_x=np.zeros((40, 5), int), test_x=np.zeros((20, 5), int))}, "floating-point"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, words):
    with pytest.raises(fnn.InputError, match=words):
        fit(**options)


def test_auto_is_the_formula_where_a_layer_is_faster_by_it():
    def program(net, gradient="auto"):
        """The text of the train step."""
        step = fnn.training.make_train_step(net, fnn.cross_entropy, RULE, gradient=gradient)
        state = jax.eval_shape(lambda key: fnn.training.create_train_state(net, RULE, key, (6, 6, 1)), KEY)
        return str(jax.make_jaxpr(step)(state, np.ones((4, 6, 6, 1), np.float32), LABELS[:4]))

    images = fnn.chain(fnn.residual(fnn.remat(fnn.conv(1, 3))), fnn.flatten(), NET)
    auto = program(images)
    assert auto == program(images, "formula") == program(fnn.with_hand_vjp(images), "jax")
    assert auto != program(images, "jax") == program(images, jax.value_and_grad)
    # Without a formula for each layer, it is automatic differentiation.
    plain = fnn.chain(fnn.conv(1, 3), lambda x: x**2, fnn.flatten(), NET)
    assert program(plain) == program(plain, "jax")
    with pytest.raises(fnn.FormulaMissing, match="this layer has no hand-derived backward pass"):
        program(plain, "formula")
    dense = fnn.chain(fnn.flatten(), NET)
    assert program(dense) == program(dense, "jax")
    with pytest.raises(fnn.InputError, match=r"gradient: expected .*auto"):
        program(dense, "hand")


def test_a_network_that_is_trained_by_its_formula_is_compiled_once():
    layer = fnn.lstm(3)
    assert fnn.with_hand_vjp(layer) == fnn.with_hand_vjp(layer)
    assert fnn.with_hand_vjp(fnn.with_hand_vjp(layer)) == fnn.with_hand_vjp(layer)
