"""Every optimizer of Optax, and wrappers that a run may contain, in the train step and in ``fit``."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from tests.contracts.composed import others_are_slow

import functional_nn as fnn

NET = fnn.chain(fnn.dense(4), fnn.relu, fnn.dense(3))
RANDOM = np.random.default_rng(0)
LABELS = (np.arange(48) % 3).astype(np.int32)
X = (RANDOM.normal(size=(3, 5))[LABELS] * 2 + RANDOM.normal(size=(48, 5))).astype(np.float32)
DATA = fnn.data.Split(X, LABELS, X, LABELS)


def per_example(objective, has_aux):
    """The gradient of each example, as differentially private optimizers take it."""

    def differentiate(params, state, x, labels, key):
        def one(x, label):
            return jax.value_and_grad(objective, has_aux=True)(params, state, x[None], label[None], key)

        (values, auxiliary), gradients = jax.vmap(one)(x, labels)
        mean = lambda leaf: jnp.mean(leaf, axis=0)  # noqa: E731
        return (jnp.mean(values), jax.tree.map(mean, auxiliary)), gradients

    return differentiate


ADAM = optax.adam(0.05)

NOT_CALLED = {"optimistic_adam", "dpsgd"}
"""Optax warns that the first is deprecated, and dpsgd calls what is deprecated; it is made of two that are below."""
GIVEN = {"noisy_sgd": {"key": 0}, "galore": {"rank": 2}}


def transformations(module):
    """Every optimizer of a module: its public functions whose first argument is a learning rate, called with one."""
    made = {}
    for name, value in vars(module).items():
        if not inspect.isfunction(value) or name.startswith(("_", "scale_by")) or name in NOT_CALLED:
            continue
        if next(iter(inspect.signature(value).parameters), "") == "learning_rate":
            made[name] = value(0.05, **GIVEN.get(name, {}))
    return made


OPTIMIZERS = {
    **transformations(optax),
    **transformations(optax.contrib),
    "polyak_sgd": optax.polyak_sgd(0.05),
    "mechanize": optax.contrib.mechanize(ADAM),
    "normalize": optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
    "reduce_on_plateau": optax.chain(ADAM, optax.contrib.reduce_on_plateau()),
    "sam": optax.contrib.sam(
        optax.sgd(0.05), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    ),
    "schedule_free": optax.contrib.schedule_free(optax.sgd(0.05), 0.05),
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary(ADAM),
    "differentially_private_aggregate": optax.chain(
        optax.contrib.differentially_private_aggregate(1.0, 0.1, 0), optax.sgd(0.05)
    ),
}
WRAPPERS = {
    "MultiSteps": optax.MultiSteps(ADAM, 2).gradient_transformation(),
    "add_noise": optax.chain(optax.add_noise(0.01, 0.55, key=0), ADAM),
    "apply_if_finite": optax.apply_if_finite(ADAM, 3),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(0.05),
    "masked": optax.chain(
        optax.masked(ADAM, {"dense_0": True, "dense_1": False}),
        optax.masked(optax.set_to_zero(), {"dense_0": False, "dense_1": True}),
    ),
    "partition": optax.partition({"a": ADAM, "b": optax.set_to_zero()}, {"dense_0": "a", "dense_1": "b"}),
    "scale_by_backtracking_linesearch": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "with_clipping of lbfgs": fnn.training.with_clipping(optax.lbfgs(0.05), 1.0),
}
ALL = OPTIMIZERS | WRAPPERS
OPTIONS = {"differentially_private_aggregate": {"gradient": per_example}}


@pytest.mark.parametrize("name", **others_are_slow(ALL, list(ALL)[::6]))
def test_a_train_step_keeps_the_form_of_the_train_state(name):
    """So that steps can be run in a loop. Nothing is compiled."""
    step = fnn.training.make_train_step(NET, fnn.cross_entropy, ALL[name], **OPTIONS.get(name, {}))
    first = fnn.training.create_train_state(NET, ALL[name], jax.random.key(0), (5,))
    form = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert form(jax.eval_shape(step, first, X, LABELS)[0]) == form(first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_fit_learns_with_every_optimizer(name):
    run = fnn.fit(NET, fnn.cross_entropy, ALL[name], DATA, epochs=8, batch_size=16, **OPTIONS.get(name, {}))
    assert run.status == "finished"
    assert run.history[-1].test_loss < run.history[0].test_loss


def test_sharpness_aware_minimization_takes_the_gradient_at_the_worst_point_nearby():
    rule, radius = OPTIMIZERS["sam"], 0.05
    step = fnn.training.make_train_step(NET, fnn.cross_entropy, rule)
    first = fnn.training.create_train_state(NET, rule, jax.random.key(0), (5,))

    def loss(params):
        return fnn.cross_entropy(NET.apply(params, {}, X, train=True)[0], LABELS)

    gradient_of = jax.jit(jax.grad(loss))
    gradient = gradient_of(first.params)
    norm = optax.tree.norm(gradient)
    worst = jax.tree.map(lambda p, g: p + radius * g / norm, first.params, gradient)
    expected = jax.tree.map(lambda p, g: p - 0.05 * g, first.params, gradient_of(worst))
    after, _ = jax.jit(step)(first, X, LABELS)
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_gradient_of_one_s_own_takes_the_place_of_the_derivative():
    def doubled(objective, has_aux):
        def gradient(*arguments):
            outcome, gradients = per_example(objective, has_aux)(*arguments)
            return outcome, jax.tree.map(lambda g: 2 * jnp.mean(g, axis=0), gradients)

        return gradient

    first = fnn.training.create_train_state(NET, optax.sgd(1.0), jax.random.key(0), (5,))
    step = fnn.training.make_train_step(NET, fnn.cross_entropy, optax.sgd(1.0), gradient=doubled)
    expected = fnn.training.make_train_step(NET, fnn.cross_entropy, optax.sgd(2.0))
    (after, loss), (of_grad, loss_of_grad) = (jax.jit(one)(first, X, LABELS) for one in (step, expected))
    for a, b in zip(*map(jax.tree.leaves, ((after.params, loss), (of_grad.params, loss_of_grad))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (lambda f, has_aux: lambda *about: 3, "a function that returns"),
        (lambda f, has_aux: lambda *about: (f(*about), {}), "the structure of the parameters"),
        (lambda f, has_aux: None, "a function"),
    ],
)
def test_functions_of_one_s_own_that_return_something_else_are_refused(gradient, words):
    with pytest.raises(fnn.InputError, match=f"gradient: expected .*{words}"):
        fnn.fit(NET, fnn.cross_entropy, ADAM, DATA, epochs=1, gradient=gradient)
