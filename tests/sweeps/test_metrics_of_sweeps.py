"""What members are compared by: the loss of a regression, metrics by name, and validation examples."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.sweeps.parts import read_sweep

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 4)).astype(np.float32)
TARGETS = (X @ np.float32([[1.0], [2.0], [-1.0], [0.5]])).astype(np.float32)
REGRESSION = fnn.data.Split(X[:40], TARGETS[:40], X[40:], TARGETS[40:])
LABELS = (X[:, 0] > 0).astype(np.int32)
CLASSES = fnn.data.Split(X[:40], LABELS[:40], X[40:], LABELS[40:])
NET = fnn.dense(2)
RATES = fnn.grid(rate=[0.001, 0.1], seed=range(2))


def gradient_descent(h):
    return optax.sgd(h["rate"])


def sweep(net, data, members=RATES, **options):
    return fnn.sweep(net, gradient_descent, members, data, **{"epochs": 2, "batch_size": 20, **options})


def check_test_metrics(result, data):
    for member in result.members:
        y = fnn.training.predict(result.network(member), member.params, member.state, data.test_x)
        expected = float(fnn.cross_entropy(jnp.asarray(y), data.test_labels))
        assert member.test_metrics["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_regression_is_compared_by_its_loss():
    regression = sweep(fnn.dense(1), REGRESSION, loss=fnn.mean_squared_error)
    assert regression.metric == "test_loss"
    best = regression.best()
    assert best.hyperparameters["rate"] == 0.1
    assert best.last("test_loss") == min(member.last("test_loss") for member in regression.members)
    assert np.isnan(best.last("test_accuracy"))


def test_metrics_by_name_are_curves_of_the_members():
    chosen = {"f1": fnn.metrics.f1_score, "hinge_loss": fnn.multiclass_hinge}
    result = sweep(NET, CLASSES, metrics=chosen)
    assert set(result.members[0].curves) == {"train_loss", "test_loss", "test_f1", "test_hinge_loss"}
    assert result.metric == "test_loss"
    assert result.best("test_f1").last("test_f1") == max(member.last("test_f1") for member in result.members)
    smallest = min(member.last("test_hinge_loss") for member in result.members)
    assert result.best("test_hinge_loss").last("test_hinge_loss") == smallest
    with pytest.raises(fnn.InputError, match="metric: expected a known name, got 'test_accuracy'"):
        result.best("test_accuracy")


def test_a_hyperparameter_that_is_read_too_late_is_said():
    members = fnn.grid(rate=[0.1], weight=[1.0, 2.0])
    with pytest.raises(fnn.InputError, match=r"got weight.*An inner function reads too late"):
        sweep(NET, CLASSES, members, loss=lambda h: lambda y, t: h["weight"] * fnn.cross_entropy(y, t))


def test_a_hyperparameter_may_be_read_by_some_static_groups_only():
    members = fnn.grid(rule=["sgd", "adam"], momentum=[0.5, 0.9])
    rule = lambda h: optax.sgd(0.1, h["momentum"]) if h["rule"] == "sgd" else optax.adam(0.1)  # noqa: E731
    result = fnn.sweep(NET, rule, members, CLASSES, epochs=1, batch_size=10)
    first, second, third, fourth = (member.last("train_loss") for member in result.members)
    assert first != second
    assert third == fourth
    with pytest.raises(fnn.InputError, match=r"got momentum.*They read: rule\."):
        fnn.sweep(NET, lambda h: getattr(optax, h["rule"])(0.1), members, CLASSES, epochs=1)


def test_a_hyperparameter_with_the_name_of_a_metric_is_refused():
    """The metric would take its column in the table."""
    members = fnn.grid(rate=[0.1], test_f1=[0.5])
    net = lambda h: fnn.chain(fnn.dropout(h["test_f1"]), fnn.dense(2))  # noqa: E731
    with pytest.raises(fnn.InputError, match="names that the columns of the result do not have, got test_f1"):
        sweep(net, CLASSES, members, metrics={"f1": fnn.metrics.f1_score})


def test_a_loss_among_the_metrics_must_say_in_its_name_that_less_is_better():
    with pytest.raises(fnn.InputError, match=r"expected a name that ends in loss, error, .*Name it hinge_loss"):
        sweep(NET, CLASSES, metrics={"hinge": fnn.multiclass_hinge})


def test_members_are_chosen_on_validation_examples_and_tested_once():
    data = CLASSES.with_validation(0.5)
    result = sweep(NET, data, plan="map")
    assert result.metric == "validation_accuracy"
    assert set(result.members[0].curves) == {"train_loss", "validation_loss", "validation_accuracy"}
    check_test_metrics(result, data)
    with pytest.raises(fnn.InputError, match="The test examples are not used for choices"):
        result.best("test_loss")
    assert "test_loss" not in result.rows()[0]


def test_halved_members_have_test_metrics(tmp_path):
    """``best`` may choose one of them."""
    data = CLASSES.with_validation(0.5)
    options = {"halving": fnn.sweeps.Halving((1,), keep=0.5), "plan": "vmap:2"}
    whole = sweep(NET, data, out=tmp_path, **options)
    for result in (whole, sweep(NET, data, out=tmp_path, **options), read_sweep(tmp_path)[0]):
        assert [member.status for member in result.members].count("halved") == 2
        for member, same in zip(result.members, whole.members, strict=True):
            assert member.test_metrics == same.test_metrics
    check_test_metrics(whole, data)


def test_an_interrupted_member_has_no_test_metrics_of_an_earlier_epoch():
    def stop(ended, count):
        if ended:  # some members are halved, and one has run an epoch more
            raise KeyboardInterrupt

    data, halving = CLASSES.with_validation(0.5), fnn.sweeps.Halving((1,), keep=0.5)
    result = sweep(NET, data, epochs=1000, halving=halving, plan="sequential", on_epoch=stop)
    interrupted = [member for member in result.members if member.status == "not run" and member.epochs > 1]
    assert [member.test_metrics for member in interrupted] == [{}]
