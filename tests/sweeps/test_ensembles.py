"""Several members as one classifier: what they say together, and who may speak."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.sweeps.made_up_results import member, result

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.core.functions import cached_if_hashable
from functional_nn.training import prediction as predict


def constant(number, probabilities, **more):
    """A member that gives every example the same probabilities."""
    params = {"weight": np.zeros((4, len(probabilities)), np.float32), "bias": np.log(np.float32(probabilities))}
    return member(number, {"seed": number}, 0.5, params=params, state={}, **more)


def linear(*members, classes=3):
    return result(*members, model=fnn.dense(classes))


X = np.zeros((5, 4), np.float32)


@pytest.fixture(scope="module")
def swept(blobs):
    def model(h):
        return fnn.chain(
            fnn.dense(h["hidden"]), fnn.activations.leaky_relu_with(h["slope"]), fnn.dropout(h["rate"]), fnn.dense(3)
        )

    members = fnn.grid(slope=[0.01, 0.4], rate=[0.0, 0.2], hidden=[4, 6], seed=range(2))
    return fnn.sweep(model, optax.adam(1e-2), members, blobs, epochs=2, batch_size=10)


def test_the_average_and_the_vote_by_hand():
    made = linear(constant(0, [0.9, 0.05, 0.05]), constant(1, [0.3, 0.4, 0.3]), constant(2, [0.3, 0.4, 0.3]))
    np.testing.assert_allclose(fnn.sweeps.ensemble_probabilities(made, X), [[0.5, 0.85 / 3, 0.65 / 3]] * 5, rtol=1e-6)
    np.testing.assert_allclose(fnn.sweeps.ensemble_probabilities(made, X, combine="vote"), [[1 / 3, 2 / 3, 0]] * 5)
    labels = np.array([0, 0, 0, 1, 2])
    averaged, voted = (fnn.sweeps.ensemble_gain(made, X, labels, combine=name) for name in ("average", "vote"))
    assert averaged == (0.6, pytest.approx((0.6 + 0.2 + 0.2) / 3), 0.6, 3)
    assert voted == (0.2, averaged.mean, 0.6, 3)
    assert averaged.gain == pytest.approx(0.6 - 1 / 3)
    assert str(averaged) == (
        "3 members together 0.6000: +26.67 points over their mean 0.3333, +0.00 over the best, 0.6000"
    )


def test_a_vote_between_equals_goes_to_the_smaller_number():
    made = linear(constant(0, [0.1, 0.1, 0.8]), constant(1, [0.1, 0.8, 0.1]))
    votes = fnn.sweeps.ensemble_probabilities(made, X, combine="vote")
    np.testing.assert_array_equal(votes, [[0, 0.5, 0.5]] * 5)
    assert fnn.sweeps.ensemble_gain(made, X, np.ones(5, int), combine="vote").accuracy == 1.0


def test_the_average_is_that_of_the_members_own_networks(swept, blobs):
    """Each with its own slope, which counts in evaluation too."""
    each = [
        fnn.training.predict_probabilities(swept.network(m), m.params, m.state, blobs.test_x) for m in swept.members
    ]
    np.testing.assert_allclose(fnn.sweeps.ensemble_probabilities(swept, blobs.test_x), np.mean(each, axis=0), rtol=2e-6)
    gain = fnn.sweeps.ensemble_gain(swept, blobs.test_x, blobs.test_labels)
    accuracies = [m.last("test_accuracy") for m in swept.members]
    assert gain.members == 16
    assert gain.mean == pytest.approx(np.mean(accuracies))
    assert gain.best == max(accuracies)


def counted_programs(monkeypatch) -> list:
    """A list to which each function is added that ``predict_probabilities`` compiles from now on."""
    compiled, jit = [], jax.jit
    monkeypatch.setattr(predict.jax, "jit", lambda function: compiled.append(function) or jit(function))
    nothing_kept = cached_if_hashable(8)(predict._probabilities.__wrapped__)
    monkeypatch.setattr(predict, "_probabilities", nothing_kept)
    return compiled


def test_members_that_differ_in_traced_numbers_share_a_program(swept, blobs, monkeypatch):
    compiled = counted_programs(monkeypatch)
    fnn.sweeps.ensemble_probabilities(swept, blobs.test_x)
    assert len(compiled) == 2  # one for each hidden size
    fnn.sweeps.ensemble_probabilities(swept, blobs.test_x, members=swept.ranked()[:3], combine="vote")
    assert len(compiled) == 2


def test_what_only_the_optimizer_reads_makes_no_other_program(monkeypatch):
    compiled = counted_programs(monkeypatch)
    members = [
        member(i, {"optimizer": name, "seed": 0}, 0.5, params=constant(0, [0.5, 0.5]).params, state={})
        for i, name in enumerate(("adam", "sgd"))
    ]
    fnn.sweeps.ensemble_probabilities(result(*members, model=lambda h: fnn.dense(2)), X)
    assert len(compiled) == 1


def test_a_number_that_is_looked_at_is_not_traced(blobs):
    def model(h):
        return fnn.chain(*([fnn.dropout(h["rate"])] if h["rate"] > 0 else []), fnn.dense(3))

    swept = fnn.sweep(model, optax.sgd(0.1), fnn.grid(rate=[0.0, 0.5]), blobs, epochs=1, static=["rate"])
    each = [
        fnn.training.predict_probabilities(swept.network(m), m.params, m.state, blobs.test_x) for m in swept.members
    ]
    np.testing.assert_allclose(fnn.sweeps.ensemble_probabilities(swept, blobs.test_x), np.mean(each, axis=0), rtol=1e-6)


def test_traced_numbers_keep_their_digits_where_the_network_computes_in_16_bits(blobs):
    """256 and a half is no number in bfloat16, so that a rounded scale would be another one."""

    def model(h):
        scale = jnp.asarray(h["scale"], jnp.float32)
        return fnn.chain(fnn.dense(3), lambda y: y * (scale - 256).astype(y.dtype))

    swept = fnn.sweep(model, optax.sgd(0.1), fnn.grid(scale=[256.5]), blobs, epochs=1, precision="bfloat16")
    (chosen,) = swept.members
    own = {"precision": "bfloat16"}
    alone = fnn.training.predict_probabilities(swept.network(chosen), chosen.params, chosen.state, blobs.test_x, **own)
    assert np.ptp(alone) > 0.01
    np.testing.assert_array_equal(fnn.sweeps.ensemble_probabilities(swept, blobs.test_x), alone)


def test_who_is_left_out_and_who_is_refused():
    made = result(
        constant(0, [0.9, 0.1]),
        constant(1, [0.2, 0.8], status="non-finite"),
        constant(2, [0.7, 0.3], status="stopped early"),
        constant(3, [0.2, 0.8], status="halved"),
        member(4, {"seed": 4}, 0.5),
        member(5, {"seed": 5}, 0.5, status="not run", epochs=0),
        model=fnn.dense(2),
    )
    np.testing.assert_allclose(fnn.sweeps.ensemble_probabilities(made, X), [[0.8, 0.2]] * 5, rtol=1e-6)
    one = fnn.sweeps.ensemble_probabilities(made, X, members=[made.members[3]])
    np.testing.assert_allclose(one, [[0.2, 0.8]] * 5, rtol=1e-6)
    for number, why in ((1, "non-finite"), (4, "without parameters"), (5, "not run")):
        with pytest.raises(InputError, match=f"got member {number}, {why}"):
            fnn.sweeps.ensemble_probabilities(made, X, members=[made.members[0], made.members[number]])


@pytest.mark.parametrize("members", [None, ()])
def test_nobody_is_no_ensemble(members):
    with pytest.raises(InputError, match="at least one trained member with parameters"):
        fnn.sweeps.ensemble_probabilities(linear(member(0, {"seed": 0}, 0.5)), X, members=members)


def test_images_are_reshaped_as_training_did_and_others_refused():
    made = linear(constant(0, [0.2, 0.5, 0.3]))
    assert fnn.sweeps.ensemble_probabilities(made, X.reshape(5, 2, 2, 1)).shape == (5, 3)
    for wrong in (X[:, :3], X[0]):
        with pytest.raises(InputError, match=r"x: expected \(examples, …\) with examples of shape \(4,\)"):
            fnn.sweeps.ensemble_probabilities(made, wrong)


@pytest.mark.parametrize("labels", [np.zeros(4, int), np.zeros((5, 1), int), np.zeros(5)])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(InputError, match="labels: expected one integer for each example"):
        fnn.sweeps.ensemble_gain(linear(constant(0, [0.2, 0.5, 0.3])), X, labels)


@pytest.mark.parametrize("first", ["dense", "conv"])
def test_networks_that_are_given_images_in_different_shapes(first):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (30, 3, 3, 1), np.uint8), random.integers(0, 2, 30, np.int32)
    data = fnn.data.Dataset("made", images[:20], labels[:20], images[20:], labels[20:], 2, "a test")
    networks = {"dense": fnn.dense(2), "conv": fnn.chain(fnn.conv(2, (2, 2)), fnn.flatten(), fnn.dense(2))}
    grid = fnn.grid(net=sorted(networks, key=lambda name: name != first), seed=range(2))
    made = fnn.sweep(lambda h: networks[h["net"]], optax.sgd(0.1), grid, data, epochs=1)
    shapes = {"dense": (10, 9), "conv": (10, 3, 3, 1)}
    expected = [
        fnn.training.predict_probabilities(
            made.network(one), one.params, one.state, data.test_images.reshape(shapes[one.hyperparameters["net"]])
        )
        for one in made.members
    ]
    for x in (data.test_images, data.test_images.reshape(10, 9)) if first == "conv" else (data.test_images,):
        np.testing.assert_allclose(fnn.sweeps.ensemble_probabilities(made, x), np.mean(expected, axis=0), rtol=1e-5)


def test_numbers_are_no_members():
    with pytest.raises(InputError, match=r"members: expected members of the result, got 0. Write result.ranked"):
        fnn.sweeps.ensemble_probabilities(linear(constant(0, [0.5, 0.5])), X, members=[0])


def test_another_way_to_combine_is_answered():
    with pytest.raises(InputError, match=r"got 'avrage'\. Did you mean average\?"):
        fnn.sweeps.ensemble_probabilities(linear(constant(0, [0.2, 0.5, 0.3])), X, combine="avrage")
