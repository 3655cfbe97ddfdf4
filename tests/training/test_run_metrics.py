"""The metrics of a run: what the loss reports, metrics by name, validation and test examples, and pytrees of data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.training import small_run
from tests.training.small_run import DATA, LABELS, NET, VALIDATED, X

import functional_nn as fnn


def fit(net=NET, loss=fnn.cross_entropy, data=DATA, **options):
    return small_run.fit(net, loss, data=data, **{"epochs": 2, **options})


def outputs(run):
    """Those of the network for the test examples."""
    return DATA.test_x @ run.params["weight"] + run.params["bias"]


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
    train = fnn.training.make_train(NET, small_run.RULE, loss=loss, epochs=2, batch_size=20)
    trained = train({}, jax.random.key(0), DATA)
    np.testing.assert_allclose(trained.epochs.reports["twice"], 2 * trained.epochs.loss, rtol=1e-5)


def test_metrics_by_name_are_exact_over_all_examples():
    chosen = {
        "f1": fnn.metrics.f1_score,
        "hinge_loss": fnn.multiclass_hinge,
        "first_class": lambda y, labels: jnp.mean(labels == 0, dtype=float),
    }
    run = fit(metrics=chosen)
    y = outputs(run)
    found = run.history[-1].metrics
    assert list(found)[:2] == ["train_loss", "test_loss"]
    assert "test_accuracy" not in found
    assert found["test_f1"] == pytest.approx(float(jax.jit(fnn.metrics.f1_score)(y, DATA.test_labels)), rel=1e-5)
    assert found["test_hinge_loss"] == pytest.approx(
        float(jax.jit(fnn.multiclass_hinge)(y, DATA.test_labels)), rel=1e-5
    )
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


def test_validation_examples_are_evaluated_in_training_and_test_examples_at_the_end():
    run = fit(data=VALIDATED)
    assert list(run.history[-1].metrics) == ["train_loss", "validation_loss", "validation_accuracy"]
    expected = float(fnn.cross_entropy(outputs(run), DATA.test_labels))
    assert run.test_metrics["test_loss"] == pytest.approx(expected, rel=1e-5)
    alone = fit(data=VALIDATED._replace(test_x=None, test_labels=None))
    assert alone.test_metrics == {}
    assert alone.history[-1].metrics == run.history[-1].metrics


def test_pairs_and_masked_sequences_are_examples():
    x = np.random.default_rng(0).normal(size=(40, 6, 2)).astype(np.float32)
    masked = fnn.Masked(x, np.ones((40, 6), bool))
    run = fit(fnn.chain(fnn.global_average_pool(), NET), data=fnn.data.Split(masked, LABELS[:40]))
    assert run.in_shape == (6, 2)
    both = fnn.chain(lambda pair: pair[0].mean(axis=1) + pair[1].mean(axis=1), NET)
    run = fit(both, data=fnn.data.Split((x, x[:, :3]), LABELS[:40]))
    assert run.in_shape == ((6, 2), (3, 2))


FRAME = type("DataFrame", (), {"to_numpy": None, "__iter__": lambda self: iter(["a", "b"])})()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DATA._replace(test_labels=None), "data.test_x: expected examples together with labels"),
        (fnn.data.Split((X, X[:3]), LABELS), "train data: expected as many labels as examples"),
        (fnn.data.Split({"a": X}, LABELS, {"b": X}, LABELS), "test data: expected examples of shape"),
        ((X, LABELS, X), "data: expected a Dataset or a Split"),
        (FRAME, r"Write Split\(table\[columns\].to_numpy\(\), labels\)."),
        (DATA._replace(train_x=np.uint8(X[:40])), "test data: expected examples of the type of those for train"),
        (fnn.data.Split(X[:4], np.zeros((4, 2, 2), np.uint8)), "train data: expected labels that are not images of"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, words):
    with pytest.raises(fnn.InputError, match=words):
        fit(data=data)
