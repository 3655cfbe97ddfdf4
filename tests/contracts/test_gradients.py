"""Every hand-derived gradient agrees with JAX's automatic differentiation in float64, and a planted error does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LAYERS, LOSSES, PENALTIES, of, started

import functional_nn as fnn

pytestmark = pytest.mark.usefixtures("float64")
TOLERANCE = 1e-12


def worst(ours, theirs):
    """The largest difference in a pytree, relative to the largest number of its leaf where that is above 1."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    return max(
        (
            float(jnp.max(jnp.abs(a - b)) / jnp.maximum(1.0, jnp.max(jnp.abs(b)))) if a.size else 0.0
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        ),
        default=0.0,
    )


def pullbacks(layer, params, state, x, *, train, seed=0):
    """What the formula and what ``jax.vjp`` make of the same random cotangent."""
    key = jax.random.key(seed)
    y, _, pullback = layer.vjp(params, state, x, train=train, key=key)
    y_bar = jnp.asarray(np.random.default_rng(seed).normal(size=y.shape))
    y_again, automatic, _ = jax.vjp(
        lambda p, x: layer.apply(p, state, x, train=train, key=key), params, x, has_aux=True
    )
    assert worst(y, y_again) == 0
    return pullback(y_bar), automatic(y_bar)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", **of(LAYERS))
def test_layer_agrees_with_jax_vjp(case, train):
    for seed in range(3):
        ours, theirs = pullbacks(case.layer, *started(case, seed), train=train, seed=seed)
        assert worst(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("case", **of(LAYERS))
def test_layer_agrees_under_jit_and_vmap(case):
    """The pullback is a pytree: it leaves one jitted, vmapped function and enters another."""
    members = [started(case, seed) for seed in range(2)]
    params, state, x = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    @jax.vmap
    def forward(params, state, x, key):
        y, _, pullback = case.layer.vjp(params, state, x, train=True, key=key)
        return jnp.ones_like(y), pullback

    ours = jax.jit(jax.vmap(lambda y_bar, pullback: pullback(y_bar)))(*forward(params, state, x, keys))
    for i, (p, s, x) in enumerate(members):
        y, automatic, _ = jax.vjp(
            lambda p, x, s=s, i=i: case.layer.apply(p, s, x, train=True, key=keys[i]), p, x, has_aux=True
        )
        member = jax.tree.map(lambda leaf, i=i: leaf[i], ours)
        assert worst(member, automatic(jnp.ones_like(y))) < TOLERANCE


@pytest.mark.parametrize("case", **of(LAYERS))
def test_a_wrong_sign_in_a_layer_is_caught(case):
    """Negating any one cotangent that the formula gives is seen, and so is one element times 1 + 1e-6."""
    params, state, x = started(case)
    ours, theirs = pullbacks(case.layer, params, state, x, train=True)
    leaves, structure = jax.tree.flatten(ours)
    assert leaves
    for i, leaf in enumerate(leaves):
        flat = leaf.ravel()
        largest = jnp.argmax(jnp.abs(flat))
        for mutant in (-leaf, 2 * leaf, flat.at[largest].multiply(1 + 1e-6).reshape(leaf.shape)):
            planted = jax.tree.unflatten(structure, [*leaves[:i], mutant, *leaves[i + 1 :]])
            assert worst(planted, theirs) > TOLERANCE


@pytest.mark.parametrize("case", **of(LAYERS))
def test_backward_is_linear_in_y_bar(case):
    params, state, x = started(case)
    y, _, pullback = case.layer.vjp(params, state, x, train=True, key=jax.random.key(0))
    a, b = (jnp.asarray(np.random.default_rng(seed).normal(size=y.shape)) for seed in (1, 2))
    combined = jax.tree.map(lambda a, b: 2 * a - 3 * b, pullback(a), pullback(b))
    assert worst(pullback(2 * a - 3 * b), combined) < TOLERANCE


@pytest.mark.parametrize("case", **of(LOSSES))
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_loss_agrees_with_jax_grad(case, weighted):
    y, labels = jnp.asarray(case.y), jnp.asarray(case.labels)
    shape = case.loss.per_example(y, labels).shape
    weights = np.random.default_rng(1).uniform(size=shape) if weighted else None
    ours = case.loss.gradient(y, labels, weights)
    theirs = jax.grad(case.loss)(y, labels, weights)
    assert worst(ours, theirs) < TOLERANCE
    assert worst(-ours, theirs) > 1e-3
    assert worst(jax.jit(case.loss.gradient)(y, labels, weights), theirs) < TOLERANCE


@pytest.mark.parametrize("case", **of(LOSSES))
def test_loss_is_the_weighted_mean_of_its_values(case):
    values = case.loss.per_example(case.y, case.labels)
    weights = np.random.default_rng(1).uniform(size=values.shape)
    counted = (
        np.ones(values.shape) if case.loss.counted is None else np.asarray(case.loss.counted(jnp.asarray(case.labels)))
    )
    assert np.isclose(case.loss(case.y, case.labels), np.average(values, weights=counted), rtol=1e-14)
    weighted = np.average(values, weights=weights * counted)
    assert np.isclose(case.loss(case.y, case.labels, weights), weighted, rtol=1e-14)


@pytest.mark.parametrize(("name", "penalty"), PENALTIES, ids=[name for name, _ in PENALTIES])
def test_penalty_agrees_with_jax_grad(name, penalty):
    params = {
        f"dense_{i}": {"weight": jax.random.normal(jax.random.key(i), (3, 2)), "bias": jnp.array([0.0, -1.0])}
        for i in (0, 1)
    }
    ours, theirs = penalty.gradient(params), jax.grad(penalty)(params)
    assert worst(ours, theirs) < TOLERANCE
    assert worst(jax.tree.map(jnp.negative, ours), theirs) > 1e-3


@pytest.mark.parametrize("kink", [-3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0])
@pytest.mark.parametrize(
    "activation", [f for f in fnn.ACTIVATIONS.values() if isinstance(f, fnn.Activation)], ids=lambda f: f.name
)
def test_derivatives_at_kinks_are_those_declared(activation, kink):
    """At a kink our value is JAX's choice too, so that both train alike there."""
    x = jnp.asarray(kink)
    assert np.isclose(activation.derivative(x), jax.grad(activation)(x), atol=TOLERANCE)


KINKS = {
    **{"relu": {0: 0.0}, "leaky_relu": {0: 1.0}, "elu": {0: 1.0}, "selu": {0: 1.7580993408473766}},
    **{"relu6": {0: 0.0, 6: 0.0}, "hard_tanh": {-1: 1.0, 1: 1.0}},
    **{"hard_sigmoid": {-3: 0.0, 3: 0.0}, "hard_silu": {-3: 0.0, 3: 1.0}},
}


@pytest.mark.parametrize("name", KINKS)
def test_derivatives_at_kinks_have_the_values_in_their_docstrings(name):
    for kink, value in KINKS[name].items():
        assert np.isclose(fnn.activation(name).derivative(jnp.asarray(float(kink))), value, rtol=1e-14)


def test_every_activation_and_loss_has_a_case():
    covered = {case.layer.name for case in LAYERS}
    assert set(fnn.ACTIVATIONS) <= covered
    assert {"neuron", "dense", "reshape", "flatten", "dropout", "batch_norm", "chain", "mlp"} <= covered
    assert set(fnn.LOSSES) <= {case.loss.name for case in LOSSES}


def test_the_composed_backward_pass_of_the_mnist_network():
    """784-128-64-10 with cross-entropy: the chain's composed formula against jax.grad of the whole."""
    net = fnn.mlp(10)
    params, state = net.init(jax.random.key(0), (28, 28, 1))
    random = np.random.default_rng(0)
    x, labels = jnp.asarray(random.uniform(size=(13, 28, 28, 1))), jnp.asarray(random.integers(0, 10, 13))
    y, _, pullback = net.vjp(params, state, x, train=True)
    params_bar, _ = pullback(fnn.cross_entropy.gradient(y, labels))
    automatic = jax.grad(lambda p: fnn.cross_entropy(net.apply(p, state, x, train=True)[0], labels))(params)
    assert worst(params_bar, automatic) < TOLERANCE


def test_a_plain_function_trains_but_has_no_formula():
    layer = fnn.chain(fnn.dense(2), jnp.sin)
    params, state = layer.init(jax.random.key(0), (3,))
    y, _, pullback = layer.vjp(params, state, jnp.ones((4, 3)), train=True)
    with pytest.raises(fnn.FormulaMissing, match="sin is a plain function"):
        pullback(y)
    assert jax.grad(lambda p: layer.apply(p, state, jnp.ones((4, 3)), train=True)[0].sum())(params)
