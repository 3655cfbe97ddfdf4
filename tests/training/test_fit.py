"""The host's loop: what it returns, when it stops, and what it refuses."""

import dataclasses
import gc
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import functional_nn as fnn
from functional_nn.data import make_dataset
from functional_nn.training import programs
from functional_nn.training.epoch import shuffled
from functional_nn.training.state import derived_key

NET = fnn.chain(fnn.dense(8), fnn.relu, fnn.dropout(0.1), fnn.dense(3))
OPTIMIZER = optax.adam(1e-2)


def make_data(examples=60, features=5, seed=0):
    """Three classes that a small network can tell apart."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(3, features)) * 3
    labels = random.integers(0, 3, examples).astype(np.int32)
    x = (centers[labels] + random.normal(size=(examples, features))).astype(np.float32)
    return fnn.data.Split(x[:40], labels[:40], x[40:], labels[40:])


def fit(net=NET, loss=fnn.cross_entropy, optimizer=OPTIMIZER, data=None, **options):
    options = {"epochs": 3, "batch_size": 20, **options}
    return fnn.fit(net, loss, optimizer, data or make_data(), **options)


def bits(run):
    return [
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((run.params, run.state, run.train_state.optimizer_state))
    ]


def test_it_learns_and_reports():
    seen = []
    run = fit(epochs=30, on_epoch=lambda metrics, train_state: seen.append(metrics))
    assert run.status == "finished"
    assert run.message == ""
    assert run.history == tuple(seen)
    assert [metrics.epoch for metrics in run.history] == list(range(1, 31))
    assert run.history[-1].test_accuracy in {right / 20 for right in (19, 20)}
    assert run.history[-1].train_loss < run.history[0].train_loss
    assert run.train_state.step == 30 * 2
    assert run.seconds["train"] > 0


def test_same_seed_same_bits_and_another_seed_others():
    assert bits(fit(seed=1)) == bits(fit(seed=1))
    assert bits(fit(seed=1)) != bits(fit(seed=2))


def network_that_counts_its_traces():
    traces = []

    def counted(x):
        traces.append(x.shape)
        return x

    return fnn.chain(fnn.dense(4), counted, fnn.dense(3)), traces


def test_runs_can_be_compared_and_found_in_a_list():
    run, other = fit(epochs=1), fit(epochs=1)
    assert other in [run, other]
    assert run != other


def test_programs_are_compiled_once_and_used_again():
    net, traces = network_that_counts_its_traces()
    first = fit(net, epochs=5)
    after_first = len(traces)
    second = fit(net, epochs=7, seed=3)
    assert first.seconds["compile"] > 0
    assert second.seconds["compile"] == 0
    assert len(traces) == after_first


def test_programs_that_are_compiled_when_they_are_needed_are_used_again(tmp_path):
    """The evaluation of the test examples, and the traces for a run's folder."""
    net, traces = network_that_counts_its_traces()
    data = make_data().with_validation(0.2)
    fit(net, data=data, checkpoints=tmp_path / "first")
    after_first = len(traces)
    fit(net, data=data, checkpoints=tmp_path / "second", seed=3)
    assert len(traces) == after_first


def test_programs_of_an_optimizer_that_is_gone_are_let_go():
    def number_of_programs():
        gc.collect()
        return sum(isinstance(kept, programs.Made) for kept in gc.get_objects())

    optimizer = optax.sgd(0.1)
    fit(optimizer=optimizer, epochs=1)
    kept = number_of_programs()
    for rate in (0.2, 0.3):
        optimizer = optax.sgd(rate)
        fit(optimizer=optimizer, epochs=1)
    assert number_of_programs() <= kept  # those of other tests may go, too
    assert fit(optimizer=optimizer, epochs=1).seconds["compile"] == 0


@pytest.mark.parametrize("batch_size", [16, 64])
def test_programs_agree_with_the_pure_functions(batch_size):
    """40 examples: 2 batches and 8 left over, or 1 smaller batch."""
    run, data = fit(epochs=2, batch_size=batch_size), make_data()
    epoch = jax.jit(
        fnn.training.make_epoch(fnn.training.make_train_step(NET, fnn.cross_entropy, OPTIMIZER), batch_size)
    )
    expected = fnn.training.create_train_state(NET, OPTIMIZER, jax.random.key(0), (5,))
    for number in range(2):
        expected, result = epoch(expected, data.train_x, data.train_labels, jnp.int32(number))
        np.testing.assert_allclose(run.history[number].train_loss, result.loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run.params, expected.params)
    assert run.train_state.step == expected.step


def test_an_option_that_xla_lacks_is_left_out(monkeypatch):
    monkeypatch.setattr(programs, "QUICK", {"xla_no_such_option": True})
    assert fit(fnn.chain(fnn.dense(2), fnn.dense(3)), epochs=1).status == "finished"


def test_any_function_works_as_loss_activation_penalty():
    net = fnn.chain(fnn.dense(8), jnp.sin, fnn.dense(3))
    run = fit(
        net,
        lambda y, labels: fnn.cross_entropy(y, labels) * 2,
        penalty=lambda params: 1e-3 * jnp.sum(jnp.square(params["dense_0"]["weight"])),
    )
    assert run.status == "finished"


def test_a_penalty_pulls_on_the_weights_and_not_on_the_reported_loss():
    free, held = fit(epochs=10), fit(epochs=10, penalty=fnn.l2(1.0))
    norm = lambda run: float(jnp.linalg.norm(run.params["dense_0"]["weight"]))  # noqa: E731
    assert norm(held) < 0.7 * norm(free)
    assert fit(fnn.dense(3), optimizer=optax.sgd(0.0), penalty=fnn.l2(100.0)).history[-1].train_loss < 10


def test_images_enter_flat_where_the_network_wants_vectors():
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 3, 2), dtype=np.uint8)
    data = make_dataset("mine", images, np.arange(20) % 3, images, np.arange(20) % 3, source="a test")
    assert fit(fnn.dense(3), data=data, epochs=1).in_shape == (24,)
    assert fit(fnn.chain(fnn.flatten(), fnn.dense(3)), data=data, epochs=1).in_shape == (4, 3, 2)


def test_non_finite_keeps_the_last_finite_state():
    """The state that comes back is the one that all good steps of the epoch lead to, found by a loop of our own."""
    data = make_data()
    data.train_x[17] = np.inf
    run = fit(fnn.dense(3), data=data, epochs=4, batch_size=4)
    assert run.status == "non-finite"
    assert "In the training data this is example 17." in run.message
    assert len(run.history) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))
    order = np.asarray(shuffled(derived_key(jax.random.key(0), "shuffle", 0), 40)).reshape(10, 4)
    (bad,) = (number for number, rows in enumerate(order) if 17 in rows)
    assert f"at step {bad} of epoch 1" in run.message
    step = jax.jit(fnn.training.make_train_step(fnn.dense(3), fnn.cross_entropy, OPTIMIZER))
    expected = fnn.training.create_train_state(fnn.dense(3), OPTIMIZER, jax.random.key(0), (5,))
    for number, rows in enumerate(order):
        if number != bad:
            expected, _ = step(expected, data.train_x[rows], data.train_labels[rows])
    np.testing.assert_allclose(run.params["weight"], expected.params["weight"], rtol=1e-5)
    assert run.train_state.step == 9


def test_progress_ends_with_a_closing_line(capfd):
    run = fit(epochs=1, progress=True)
    assert capfd.readouterr().err.strip().endswith(repr(run))
    assert re.fullmatch(r"Run\(finished, 1 epoch, train loss .*, test loss .*, test accuracy 0\.\d{4}\)", repr(run))


def test_an_infinite_gradient_under_a_finite_loss_is_seen_too():
    """The square root of 0 has loss 0 and gradient infinity: the step is refused, not just the next one."""
    x = np.zeros((8, 2), np.float32)
    net = fnn.chain(fnn.dense(1, initializer=jax.nn.initializers.zeros), lambda z: jnp.sqrt(jnp.abs(z)))
    labels = np.zeros((8, 1), np.float32)
    run = fit(
        net, fnn.mean_absolute_error, optax.sgd(0.1), fnn.data.Split(x, labels, x, labels), epochs=2, batch_size=8
    )
    assert run.status == "non-finite"
    assert run.train_state.step == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))


def test_statistics_that_overflow_are_refused():
    """Loss and parameters are finite all along."""

    def forward(params, state, x, *, train, key=None):
        return x, {"growing": state["growing"] * 1e20}, ()

    layer = fnn.Layer("growing", lambda key, in_shape: ({}, {"growing": jnp.ones(())}), forward, None)
    run = fit(fnn.chain(layer, fnn.dense(3)), epochs=2)
    assert run.status == "non-finite"
    np.testing.assert_allclose(run.state["growing_0"]["growing"], 1e20, rtol=1e-6)


@pytest.mark.parametrize(
    "rule", [optax.chain(optax.zero_nans(), optax.sgd(0.1)), optax.chain(optax.clip(1.0), optax.sgd(0.1))]
)
def test_an_optimizer_that_mends_gradients_may(rule):
    """What is finite after the optimizer counts, in the fast epoch and in the careful step alike."""
    x = np.zeros((8, 2), np.float32)
    net = fnn.chain(fnn.dense(1, initializer=jax.nn.initializers.zeros), lambda z: jnp.sqrt(jnp.abs(z)))
    labels = np.ones((8, 1), np.float32)
    run = fit(net, fnn.mean_squared_error, rule, fnn.data.Split(x, labels, x, labels), epochs=2, batch_size=8)
    step = jax.jit(fnn.training.make_train_step(net, fnn.mean_squared_error, rule))
    after, _ = step(fnn.training.create_train_state(net, rule, jax.random.key(0), (2,)), x, labels)
    assert (run.status == "finished") == (int(after.step) == 1)


def test_sequences_of_a_split_are_never_flattened():
    x, labels = np.ones((12, 6, 5), np.float32), np.arange(12) % 3
    pooled = lambda y, labels: fnn.cross_entropy(y.mean(axis=1), labels)  # noqa: E731
    run = fit(fnn.dense(3), pooled, data=fnn.data.Split(x, labels, x, labels), epochs=1)
    assert run.params["weight"].shape == (5, 3)
    assert run.in_shape == (6, 5)


def test_random_bits_follow_jax_threefry_partitionable(tmp_path):
    """It changes every random number, and no text of a program."""
    net = fnn.dense(3)
    first = fit(net, epochs=1, checkpoints=tmp_path)
    with jax.threefry_partitionable(False):
        second = fit(net, epochs=1)
        assert not np.array_equal(first.params["weight"], second.params["weight"])
        with pytest.raises(fnn.InputError, match="whose run has jax_threefry_partitionable true instead of false"):
            fit(net, epochs=1, checkpoints=tmp_path)


def test_an_unhashable_loss_optimizer_and_layer_work():
    @dataclasses.dataclass
    class Twice:
        factor: float = 2.0

        def __call__(self, y, labels):
            return self.factor * fnn.cross_entropy(y, labels)

    @dataclasses.dataclass
    class Descent:
        rate: float = 0.1

        def init(self, params):
            return ()

        def update(self, gradient, state, params=None):
            return jax.tree.map(lambda leaf: -self.rate * leaf, gradient), state

    @dataclasses.dataclass
    class Scaled:
        factor: float = 2.0

        def __call__(self, params, state, x, *, train, key=None):
            return self.factor * x @ params["weight"], state, ()

    net = fnn.Layer("scaled", lambda key, in_shape: ({"weight": jnp.ones((in_shape[0], 3))}, {}), Scaled())
    run = fit(net, Twice(), Descent(), epochs=1)
    assert run.status == "finished"
    assert fnn.training.predict(net, run.params, run.state, make_data().test_x).shape == (20, 3)


def test_interrupted_after_the_last_epoch_is_finished():
    def interrupt(metrics, train_state):
        if metrics.epoch == 2:
            raise KeyboardInterrupt

    data = make_data().with_validation(0.25)
    run, whole = (fit(data=data, epochs=2, on_epoch=on_epoch) for on_epoch in (interrupt, None))
    assert (run.status, run.message) == ("finished", "")
    assert run.test_metrics == whole.test_metrics != {}
    assert bits(run) == bits(whole)


def test_float64_while_64_bit_numbers_are_off():
    with pytest.raises(fnn.InputError, match="precision: expected 64-bit numbers switched on"):
        fit(precision="float64")


@pytest.mark.parametrize("part", ["train_x", "train_labels", "test_labels"])
def test_integers_beyond_32_bits_in_the_data(part):
    data = make_data()
    wide = np.array(getattr(data, part), np.int64)
    wide.flat[7] += 2**32
    with pytest.raises(fnn.InputError, match=rf"data\.{part}: expected integers that int32 holds, got 42949672\d\d at"):
        fit(data=data._replace(**{part: wide}))


def test_integers_beyond_32_bits_in_a_loss_and_a_prediction():
    wide = np.array([[0, 2**32]])
    with pytest.raises(fnn.InputError, match="labels: expected integers that int32 holds, got 4294967296 at"):
        fnn.cross_entropy(np.zeros((2, 3), np.float32), wide[0])
    with pytest.raises(fnn.InputError, match="x: expected integers that uint32 holds, got 4294967296 at index"):
        fnn.training.predict(fnn.tanh, {}, {}, wide.astype(np.uint64))


def test_integers_beyond_32_bits_where_64_bit_numbers_are_on(float64):
    loss = fnn.mean_absolute_error(np.zeros((1, 1)), np.array([[2**32]]))
    assert loss == 2**32


def test_float64_where_they_are_on_and_float32_that_stays(float64):
    for precision, dtype in (("float64", jnp.float64), ("float32", jnp.float32)):
        assert fit(fnn.dense(3), precision=precision).params["weight"].dtype == dtype


def test_bfloat16_computes_low_and_keeps_parameters_high():
    low, high = fit(precision="bfloat16", epochs=25), fit(epochs=25)
    assert low.params["dense_0"]["weight"].dtype == jnp.float32
    assert bits(low) != bits(high)
    assert low.history[-1].test_accuracy >= 0.9


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        start = fnn.training.create_train_state(NET, OPTIMIZER, jax.random.key(0), (5,))
        step = fnn.training.make_train_step(NET, fnn.cross_entropy, OPTIMIZER)
        epoch = jax.jit(fnn.training.make_epoch(step, 16))
        data = make_data()
        after, _ = epoch(start, data.train_x, data.train_labels, jnp.int32(0))
    assert after.step == 3


def test_noise_differs_from_step_to_step():
    net = fnn.chain(fnn.dropout(0.5), fnn.dense(3))
    step = jax.jit(fnn.training.make_train_step(net, fnn.cross_entropy, optax.sgd(0.0)))
    state = fnn.training.create_train_state(net, optax.sgd(0.0), jax.random.key(0), (50,))
    losses = []
    for _ in range(3):
        state, loss = step(state, jnp.ones((4, 50)), jnp.zeros(4, jnp.int32))
        losses.append(float(loss))
    assert len(set(losses)) == 3


@pytest.mark.parametrize(("label", "part"), [(3, "train"), (-1, "test")])
def test_labels_out_of_range_are_found_before_training(label, part):
    data = make_data()
    getattr(data, f"{part}_labels")[5] = label
    with pytest.raises(
        fnn.InputError, match=rf"{part} data: labels: expected labels from 0 to 2.*got {label} at index \(5,\)"
    ):
        fit(data=data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": make_data()._replace(train_labels=np.zeros(3, np.int32))}, "as many labels as examples"),
        ({"data": jax.tree.map(lambda part: part[:0], make_data())}, "at least one example"),
        ({"optimizer": optax.adam}, r"optimizer: expected an Optax transformation.*Write optax.adam\(1e-3\)"),
        ({"loss": lambda y: y.sum()}, r"loss: .*got one with the arguments \(y\)\. It is called with 2 arguments"),
        ({"loss": optax.softmax_cross_entropy}, r"got optax\.softmax_cross_entropy, .*Write fnn\.cross_entropy\."),
        ({"loss": lambda y, labels: y.sum(axis=1)}, r"loss: .*shape \(20,\)\. Return the mean over the examples"),
        ({"penalty": lambda: 0.0}, r"penalty: .*called with 1 argument: \(params\)"),
        ({"on_epoch": lambda metrics: None}, r"on_epoch: .*called with 2 arguments: \(metrics, train_state\)"),
        ({"optimizer": optax.adam("x")}, "optimizer: .*got one that raises TypeError: .*Look at its arguments"),
        ({"loss": fnn.mean_squared_error}, "train data: labels: expected the shape of y"),
        (
            {"data": make_data()._replace(train_x=np.zeros((40, 5), int), test_x=np.zeros((20, 5), int))},
            "floating-point",
        ),
    ],
)
def test_bad_arguments_are_refused_in_words(options, words):
    with pytest.raises(fnn.InputError, match=words):
        fit(**options)


def test_auto_is_the_formula_where_a_layer_is_faster_by_it():
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 6, 6, 1)).astype(np.float32), random.integers(0, 3, 40).astype(np.int32)
    data = fnn.data.Split(x, labels, x[:20], labels[:20])
    images = fnn.chain(fnn.residual(fnn.remat(fnn.conv(1, 3))), fnn.flatten(), fnn.dense(3))

    def trained(net, **options):
        return bits(fit(net, data=data, epochs=1, **options))

    auto = trained(images)
    assert auto == trained(images, gradient="formula") == trained(fnn.with_hand_vjp(images), gradient="jax")
    assert auto != trained(images, gradient="jax") == trained(images, gradient=jax.value_and_grad)
    # Without a formula for each layer, it is automatic differentiation.
    plain = fnn.chain(fnn.conv(1, 3), lambda x: x**2, fnn.flatten(), fnn.dense(3))
    assert trained(plain) == trained(plain, gradient="jax")
    with pytest.raises(fnn.FormulaMissing, match="is a plain function"):
        trained(plain, gradient="formula")
    dense = fnn.chain(fnn.flatten(), fnn.dense(3))
    assert trained(dense) == trained(dense, gradient="jax")
    with pytest.raises(fnn.InputError, match=r"gradient: expected .*auto"):
        trained(dense, gradient="hand")


def test_a_network_that_is_trained_by_its_formula_is_compiled_once():
    layer = fnn.lstm(3)
    assert fnn.with_hand_vjp(layer) == fnn.with_hand_vjp(layer)
    assert fnn.with_hand_vjp(fnn.with_hand_vjp(layer)) == fnn.with_hand_vjp(layer)
