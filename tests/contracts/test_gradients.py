"""Every hand-derived gradient agrees with JAX's automatic differentiation in float64, and a planted error does not."""

import inspect

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


def split(tree):
    """The leaves that a gradient exists for, and ``join(leaves)``, which puts others in their places."""
    leaves, structure = jax.tree.flatten(tree)
    smooth = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def join(chosen, others=leaves):
        chosen = iter(chosen)
        return jax.tree.unflatten(structure, [next(chosen) if s else o for s, o in zip(smooth, others, strict=True)])

    return [leaf for leaf, s in zip(leaves, smooth, strict=True) if s], join


def without_gradient(tree):
    """A pytree whose masks and integers have given place to None."""
    leaves, join = split(tree)
    return join(leaves, [None] * len(jax.tree.leaves(tree)))


def cotangent(y, make):
    """``make(leaf)`` for every floating-point part of an output, None for the others."""
    leaves, join = split(y)
    return join([make(leaf) for leaf in leaves], [None] * len(jax.tree.leaves(y)))


def automatic(layer, params, state, x, y_bar, *, train, key=None):
    """What ``jax.vjp`` of ``apply`` makes of a cotangent, in the structure that the formula gives."""
    leaves, join = split(x)
    _y, pullback = jax.vjp(
        lambda p, leaves: split(layer.apply(p, state, join(leaves), train=train, key=key)[0])[0], params, leaves
    )
    params_bar, leaves_bar = pullback(jax.tree.leaves(y_bar))
    return params_bar, join(leaves_bar, [None] * len(jax.tree.leaves(x)))


def pullbacks(layer, params, state, x, *, train, seed=0):
    """What the formula and what ``jax.vjp`` make of the same random cotangent."""
    key = jax.random.key(seed)
    random = np.random.default_rng(seed)
    y, _, pullback = layer.vjp(params, state, x, train=train, key=key)
    assert worst(*(without_gradient(y) for y in (y, layer.apply(params, state, x, train=train, key=key)[0]))) == 0
    y_bar = cotangent(y, lambda leaf: jnp.asarray(random.normal(size=leaf.shape)))
    return pullback(y_bar), automatic(layer, params, state, x, y_bar, train=train, key=key)


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
        return cotangent(y, jnp.ones_like), pullback

    ours = jax.jit(jax.vmap(lambda y_bar, pullback: pullback(y_bar)))(*forward(params, state, x, keys))
    for i, (p, s, x) in enumerate(members):
        y, _ = case.layer.apply(p, s, x, train=True, key=keys[i])
        theirs = automatic(case.layer, p, s, x, cotangent(y, jnp.ones_like), train=True, key=keys[i])
        assert worst(jax.tree.map(lambda leaf, i=i: leaf[i], ours), theirs) < TOLERANCE


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
    draws = (np.random.default_rng(seed) for seed in (1, 2))
    a, b = (cotangent(y, lambda leaf, draw=draw: jnp.asarray(draw.normal(size=leaf.shape))) for draw in draws)
    combine = lambda a, b: 2 * a - 3 * b  # noqa: E731
    combined = jax.tree.map(combine, pullback(a), pullback(b))
    assert worst(pullback(jax.tree.map(combine, a, b)), combined) < TOLERANCE


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


def makers(*areas):
    """The public functions of these parts of the package that make a layer or a loss."""
    for name in fnn.__all__:
        value = getattr(fnn, name)
        module = getattr(value, "__module__", "")
        if inspect.isfunction(value) and module.startswith(tuple(f"functional_nn.{area}" for area in areas)):
            yield name, inspect.get_annotations(value)["return"]


def test_every_layer_activation_and_loss_has_a_case():
    """A public function that makes a layer and has no case of its name fails here."""
    known = {word for case in LAYERS for word in (case.name, case.layer.name)}
    layers = [name for name, made in makers("layers", "models", "blocks") if made == "Layer" and name != "model"]
    missing = [name for name in layers if not any(word == name or word.startswith(f"{name}_") for word in known)]
    assert not missing
    assert {"neuron", "dense", "chain", "mlp"} <= set(layers)
    assert set(fnn.ACTIVATIONS) <= known
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
