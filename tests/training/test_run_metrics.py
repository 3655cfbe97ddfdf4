"""The metrics of a run: what the loss reports, metrics by name, validation and test examples, and pytrees of data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn

RULE = optax.adam(1e-2)
RANDOM = np.random.default_rng(0)
X, LABELS = RANDOM.normal(size=(60, 5)).astype(np.float32), RANDOM.integers(0, 3, 60).astype(np.int32)
DATA = fnn.data.Split(X[:40], LABELS[:40], X[40:], LABELS[40:])
TARGETS = (X[:, :2] - X[:, 2:4]).astype(np.float32)
REGRESSION = fnn.data.Split(X[:40], TARGETS[:40], X[40:], TARGETS[40:])


def fit(net=None, loss=fnn.cross_entropy, data=DATA, **options):
    net = fnn.dense(3) if net is None else net
    return fnn.fit(net, loss, RULE, data, **{"epochs": 2, "batch_size": 16, **options})


def test_what_a_loss_reports_is_averaged_over_the_examples():
    def loss(y, labels):
        value = fnn.cross_entropy(y, labels)
        return value, {"twice": 2 * value, "one": jnp.ones(())}

    plain, run = fit(), fit(loss=loss)
    for expected, metrics in zip(plain.history, run.history, strict=True):
        assert metrics.metrics["train_twice"] == pytest.approx(2 * expected.train_loss, rel=1e-5)
        assert metrics.metrics["test_twice"] == pytest.approx(2 * expected.test_loss, rel=1e-5)
        assert metrics.metrics["train_one"] == metrics.metrics["test_one"] == 1
        assert metrics.test_accuracy == expected.test_accuracy
    np.testing.assert_allclose(run.params["weight"], plain.params["weight"], rtol=1e-5)
    trained = fnn.training.make_train(fnn.dense(3), RULE, loss=loss, epochs=2, batch_size=16)(
        {}, jax.random.key(0), DATA
    )
    np.testing.assert_allclose(trained.epochs.reports["twice"], 2 * trained.epochs.loss, rtol=1e-5)


def test_metrics_by_name_are_exact_over_all_examples():
    chosen = {
        "f1": fnn.metrics.f1_score,
        "hinge_loss": fnn.multiclass_hinge,
        "first_class": lambda y, labels: jnp.mean(labels == 0, dtype=float),
    }
    run = fit(metrics=chosen)
    y, _ = fnn.dense(3).apply(run.params, run.state, DATA.test_x, train=False)
    found = run.history[-1].metrics
    assert list(found)[:2] == ["train_loss", "test_loss"]
    assert "test_accuracy" not in found
    assert found["test_f1"] == pytest.approx(float(fnn.metrics.f1_score(y, DATA.test_labels)), rel=1e-5)
    assert found["test_hinge_loss"] == pytest.approx(float(fnn.multiclass_hinge(y, DATA.test_labels)), rel=1e-5)
    assert found["test_first_class"] == pytest.approx(np.mean(DATA.test_labels == 0))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([fnn.metrics.accuracy], "metrics: expected a dict by name"),
        ({"loss": fnn.metrics.accuracy}, "metrics: expected names of letters"),
        (
            {"matrix": fnn.metrics.confusion_matrix},
            "metrics/matrix: expected a metric that is one number, got one of s",
        ),
        ({"rows": lambda y, labels: jnp.ones(3)}, "rows: metric: expected a function that returns one floating-point"),
    ],
)
def test_metrics_that_cannot_be_used_are_refused(metrics, words):
    with pytest.raises(fnn.InputError, match=words):
        fit(metrics=metrics)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda y, labels: (jnp.mean(y), 3), "loss: expected a function that returns a number, or a pair"),
        (
            lambda y, labels: (jnp.mean(y), {"rows": y}),
            "loss/rows: expected a function that returns one floating-point",
        ),
        (lambda y, labels: (jnp.mean(y), {"loss": jnp.mean(y)}), "loss: expected names of letters, digits and _ other"),
    ],
)
def test_a_loss_that_returns_something_else_is_refused(loss, words):
    with pytest.raises(fnn.InputError, match=words):
        fit(loss=loss)


def test_regression_has_no_accuracy():
    run = fit(fnn.dense(2), fnn.mean_squared_error, REGRESSION)
    assert list(run.history[-1].metrics) == ["train_loss", "test_loss"]
    assert repr(run) == (
        f"Run(finished, 2 epochs, train loss {run.history[-1].train_loss:.4f}, "
        f"test loss {run.history[-1].test_loss:.4f})"
    )
    assert np.isnan(run.history[-1].test_accuracy)


def test_validation_examples_are_evaluated_in_training_and_test_examples_at_the_end():
    data = DATA.with_validation(0.25)
    run = fit(data=data)
    assert list(run.history[-1].metrics) == ["train_loss", "validation_loss", "validation_accuracy"]
    y, _ = fnn.dense(3).apply(run.params, run.state, DATA.test_x, train=False)
    assert run.test_metrics["test_loss"] == pytest.approx(float(fnn.cross_entropy(y, DATA.test_labels)), rel=1e-5)
    alone = fit(data=data._replace(test_x=None, test_labels=None))
    assert alone.test_metrics == {}
    assert alone.history[-1].metrics == run.history[-1].metrics


def test_learning_rates_of_inject_hyperparams_are_reported():
    rule = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.1, 0.0, 6))
    run = fnn.fit(fnn.dense(3), fnn.cross_entropy, rule, DATA, epochs=2, batch_size=16)
    np.testing.assert_allclose(
        [metrics.learning_rate for metrics in run.history], [0.1 * 4 / 6, 0.1 * 1 / 6], rtol=1e-5
    )
    assert fit().history[0].learning_rate is None


def test_pairs_and_masked_sequences_are_examples():
    net = fnn.chain(fnn.lstm(4), fnn.dense(3))
    x = RANDOM.normal(size=(60, 6, 2)).astype(np.float32)
    masked = fnn.Masked(x, np.arange(6) < RANDOM.integers(1, 7, 60)[:, None])
    data = fnn.data.Split(
        jax.tree.map(lambda a: a[:40], masked), LABELS[:40], jax.tree.map(lambda a: a[40:], masked), LABELS[40:]
    )
    run = fit(net, data=data, batch_size=20)
    assert run.in_shape == (6, 2)
    assert np.isfinite(run.history[-1].test_loss)
    cross = fnn.chain(fnn.attention(1), fnn.global_average_pool(), fnn.dense(3))
    pair = fnn.data.Split((x[:40], x[:40, :3]), LABELS[:40], (x[40:], x[40:, :3]), LABELS[40:])
    assert fit(cross, data=pair, batch_size=20).in_shape == ((6, 2), (3, 2))


FRAME = type("DataFrame", (), {"to_numpy": None, "__iter__": lambda self: iter(["a", "b"])})()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DATA._replace(test_labels=None), "data.test_x: expected examples together with labels"),
        (fnn.data.Split((X, X[:3]), LABELS), "train data: expected as many labels as examples"),
        (fnn.data.Split({"a": X}, LABELS, {"b": X}, LABELS), "test data: expected examples of shape"),
        ((X, LABELS, X), "data: expected a Dataset or a Split"),
        (FRAME, r"Write Split\(table\[columns\].to_numpy\(\), labels\)."),
        (
            DATA._replace(train_x=np.uint8(X[:40])),
            "test data: expected examples of the type of those for train",
        ),
        (fnn.data.Split(X[:4], np.zeros((4, 2, 2), np.uint8)), "train data: expected labels that are not images of"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, words):
    with pytest.raises(fnn.InputError, match=words):
        fit(data=data)
