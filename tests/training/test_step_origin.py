"""The message of a run that was stopped says where the number comes from that is not finite."""

import jax
import numpy as np
import optax
import pytest
from tests.training import small_run

import functional_nn as fnn
from functional_nn.jaxprs import non_finite
from functional_nn.training import non_finite as search

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(38, 5)).astype(np.float32)
LABELS = np.argmax(X[:, :3], axis=1).astype(np.int32)
SLOW, FAST = optax.sgd(0.1), optax.sgd(1e12)
MLP = fnn.chain(fnn.dense(8), fnn.relu, fnn.dense(3))


def fit(net=MLP, optimizer=SLOW, x=X[:36], **options):
    options = {"epochs": 2, "batch_size": 4, "progress": False, **options}
    data = fnn.data.Split(x, LABELS[: len(x)])
    with pytest.warns(RuntimeWarning, match="Loss or update were not finite at step") as warned:
        run = fnn.fit(net, fnn.cross_entropy, optimizer, data, **options)
    assert run.status == "non-finite"
    assert str(warned[0].message) == run.message
    return run


@pytest.mark.usefixtures("no_search")
def test_the_learning_rate_of_the_step_is_named():
    rate = optax.inject_hyperparams(optax.sgd)(optax.piecewise_constant_schedule(0.125, {12: 8e12, 13: 2}))
    run = fit(optimizer=rate)  # the step before it has half the rate
    assert "of epoch 2, with the learning rate 2e+12. Such" in run.message


@pytest.mark.parametrize("row", [17, 37])
def test_the_example_in_the_data_is_named(row):
    """38 examples are nine batches of four and one of two, whichever of them an example is in."""
    x = X.copy()
    x[row, 2] = np.nan
    run = fit(x=x)
    assert (run.origin.argument, run.origin.index[1]) == ("x", 2)
    assert ") of the argument x of this batch is nan. x is not finite before anything is computed." in run.message
    assert f"In the training data this is example {row}." in run.message


@pytest.mark.slow
def test_noise_is_that_of_the_step():
    """A network that divides by what dropout left: the numbers are those of this step's key."""
    net = fnn.chain(fnn.dropout(0.5), lambda x: x / x, fnn.dense(3))
    run = fit(net)
    assert (run.origin.operation, run.origin.layer) == ("div", "lambda_0")
    assert run.origin.operands[1].largest == 0
    assert str(fnn.find_non_finite(net, fnn.cross_entropy, **run.at_bad_step)) == str(run.origin)


def test_a_finite_run_searches_nothing(monkeypatch):
    monkeypatch.setattr(search, "_search", lambda *arguments: pytest.fail("searched"))
    run = small_run.fit()
    assert (run.status, run.origin, run.at_bad_step) == ("finished", None, None)


@pytest.mark.usefixtures("no_search")
def test_a_resumed_run_has_no_advice_about_its_bad_step(tmp_path):
    first, resumed = (fit(optimizer=FAST, checkpoints=tmp_path) for _ in range(2))
    assert first.at_bad_step is not None
    assert (resumed.restored_epochs, resumed.at_bad_step) == (1, None)
    assert "run.at_bad_step" not in resumed.message
    assert first.message.startswith(resumed.message)


def test_the_arguments_of_the_bad_step_have_the_precision_of_the_run():
    run = fit(fnn.dense(3), optax.sgd(1e5), precision="float16")
    found = fnn.find_non_finite(fnn.dense(3), fnn.cross_entropy, **run.at_bad_step)
    assert str(found) == str(run.origin)
    assert found


@pytest.mark.parametrize("reason", ["too large", "an error"])
def test_the_message_names_the_function_if_nothing_was_found(monkeypatch, reason):
    if reason == "too large":
        monkeypatch.setattr(non_finite, "QUICK_OPERATIONS", 5)
    else:
        monkeypatch.setattr(jax, "make_jaxpr", lambda *arguments, **options: 1 / 0)
    run = fit(optimizer=FAST)
    assert run.origin is None
    assert "Try a smaller learning rate; look for NaN in the data." in run.message
    assert "fnn.find_non_finite(net, loss, **run.at_bad_step) names the operation" in run.message
    monkeypatch.undo()
    found = fnn.find_non_finite(MLP, fnn.cross_entropy, **run.at_bad_step)
    assert (found.operation, found.layer) == ("dot_general", "dense_1")
