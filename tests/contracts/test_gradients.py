"""Every hand-derived gradient agrees with JAX's automatic differentiation in float64, and a planted error does not."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.contracts.composed import variants_are_slow
from tests.contracts.public_names import public_names

import functional_nn as fnn
from functional_nn.gradients.cases import LAYERS, LOSSES, PENALTIES, draw_inputs
from functional_nn.gradients.compare.problem import differentiable_leaves
from functional_nn.jaxprs.xla_options import quick_jit

pytestmark = pytest.mark.usefixtures("float64")
TOLERANCE = 1e-12


def worst(ours, theirs):
    """The largest difference in a pytree, relative to the largest number of its leaf where that is above 1."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    pairs = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (ours, theirs)), strict=True)
    return max((np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b))) for a, b in pairs if a.size), default=0.0)


def without_gradient(tree):
    """A pytree whose masks and integers have given place to None."""
    return cotangent(tree, lambda leaf: leaf)


def cotangent(y, make):
    """``make(leaf)`` for every floating-point part of an output, None for the others."""
    parts = differentiable_leaves(y)
    return parts.join_cotangents([make(leaf) for leaf in parts.leaves])


def automatic(layer, params, state, x, y_bar, *, train, key=None):
    """The output of ``apply``, and what ``jax.vjp`` makes of a cotangent, in the structure that the formula gives."""
    parts = differentiable_leaves(x)

    def apply(params, leaves):
        return without_gradient(layer.apply(params, state, parts.join(leaves), train=train, key=key)[0])

    y, pullback = jax.vjp(apply, params, parts.leaves)
    params_bar, leaves_bar = pullback(y_bar)
    return y, (params_bar, parts.join_cotangents(leaves_bar))


def drawn_cotangent(case, inputs, *, train, seed):
    random = np.random.default_rng(seed)
    key = jax.random.key(0)
    y = jax.eval_shape(lambda p, s, x: case.layer.apply(p, s, x, train=train, key=key)[0], *inputs)
    return cotangent(y, lambda leaf: jnp.asarray(random.normal(size=leaf.shape)))


@pytest.mark.parametrize("case", **variants_are_slow(LAYERS))
def test_layer_agrees_with_jax_vjp_and_no_mutant_does(case):
    """The formula is that of ``apply``, is linear in ``y_bar``, and differs from any of its mutants.

    It is so in training and, where that differs, in evaluation.
    """
    with_state = bool(jax.tree.leaves(draw_inputs(case)[1]))
    for train in (True, False) if case.draws or with_state else (True,):
        check_formula(case, both_ways(case, train), train=train)


def both_ways(case, train):
    """The program of the formula and of automatic differentiation: y, y again, our bars, theirs."""

    @quick_jit
    def both(params, state, x, y_bar, key):
        y, _, pullback = case.layer.vjp(params, state, x, train=train, key=key)
        again, theirs = automatic(case.layer, params, state, x, y_bar, train=train, key=key)
        return without_gradient(y), again, pullback(y_bar), theirs

    return both


def check_formula(case, both, *, train):
    for seed in range(3):
        inputs, key = draw_inputs(case, seed), jax.random.key(seed)
        y_bar = drawn_cotangent(case, inputs, train=train, seed=seed)
        y, again, ours, theirs = both(*inputs, y_bar, key)
        assert worst(y, again) < TOLERANCE
        assert worst(ours, theirs) < TOLERANCE
        assert jax.tree.leaves(ours)
        assert all(worst(mutant, theirs) > TOLERANCE for mutant in mutants(ours))

    other = drawn_cotangent(case, inputs, train=train, seed=7)
    combine = lambda a, b: 2 * np.asarray(a) - 3 * np.asarray(b)  # noqa: E731
    combined = jax.tree.map(combine, ours, both(*inputs, other, key)[2])
    assert worst(both(*inputs, jax.tree.map(combine, y_bar, other), key)[2], combined) < TOLERANCE


def mutants(bars):
    """Each cotangent in turn with the wrong sign, doubled, and with its largest element off by a millionth."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, bars))
    for i, leaf in enumerate(leaves):
        off = leaf.copy()
        off.flat[np.argmax(np.abs(leaf))] *= 1 + 1e-6
        for mutant in (-leaf, 2 * leaf, off):
            yield jax.tree.unflatten(structure, [*leaves[:i], mutant, *leaves[i + 1 :]])


@pytest.mark.parametrize("case", **variants_are_slow(LAYERS, kinds_alone=True))
def test_pullbacks_pass_through_jit_and_vmap(case):
    """The pullback is a pytree: it leaves one jitted, vmapped function and enters another."""
    members = [draw_inputs(case, seed) for seed in range(2)]
    given = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    keys = jax.random.split(jax.random.key(0), 2)

    def forward(params, state, x, key):
        y, _, pullback = case.layer.vjp(params, state, x, train=True, key=key)
        return cotangent(y, jnp.ones_like), pullback

    def alone(arguments):
        (params, state, x), y_bar, key = arguments
        return automatic(case.layer, params, state, x, y_bar, train=True, key=key)[1]

    @quick_jit
    def program(given, keys):
        y_bars, pullback = jax.vmap(forward)(*given, keys)
        return y_bars, pullback, jax.lax.map(alone, (given, y_bars, keys))  # one member after the other, not vmapped

    y_bars, pullback, theirs = program(given, keys)
    ours = quick_jit(jax.vmap(lambda y_bar, pullback: pullback(y_bar)))(y_bars, pullback)
    for i in range(len(members)):
        own = lambda leaf, i=i: leaf[i]  # noqa: E731
        assert worst(*jax.tree.map(own, jax.device_get((ours, theirs)))) < TOLERANCE


def test_losses_agree_with_jax_grad_and_are_the_weighted_means_of_their_values():
    """With weights and without. All losses are one program, which is sooner compiled than one for each."""
    random = np.random.default_rng(1)
    given = {case.name: (jnp.asarray(case.y), jnp.asarray(case.labels)) for case in LOSSES}
    shapes = {case.name: jax.eval_shape(case.loss.per_example, *given[case.name]).shape for case in LOSSES}
    weights = {name: random.uniform(size=shape) for name, shape in shapes.items()}

    def of_loss(case, y, labels, weights):
        own_weights = 1 if case.loss.label_weights is None else case.loss.label_weights(labels)
        both = [
            (case.loss.gradient(y, labels, w), *jax.value_and_grad(case.loss)(y, labels, w)) for w in (None, weights)
        ]
        return case.loss.per_example(y, labels), own_weights, both

    of_losses = quick_jit(lambda given: {case.name: of_loss(case, *given[case.name]) for case in LOSSES})
    results = of_losses({name: (*arrays, weights[name]) for name, arrays in given.items()})
    for name, (values, own_weights, both) in jax.device_get(results).items():
        for (ours, mean, theirs), w in zip(both, (np.ones(shapes[name]), weights[name]), strict=True):
            assert worst(ours, theirs) < TOLERANCE, name
            assert worst(jax.tree.map(np.negative, ours), theirs) > 1e-3, name
            assert np.isclose(mean, (w * values).sum() / (w * own_weights).sum(), rtol=1e-14), name


@pytest.mark.parametrize(("name", "penalty"), PENALTIES, ids=[name for name, _ in PENALTIES])
def test_penalty_agrees_with_jax_grad(name, penalty):
    params = {
        f"dense_{i}": {"weight": jax.random.normal(jax.random.key(i), (3, 2)), "bias": jnp.array([0.0, -1.0])}
        for i in (0, 1)
    }
    ours, theirs = quick_jit(lambda params: (penalty.gradient(params), jax.grad(penalty)(params)))(params)
    assert worst(ours, theirs) < TOLERANCE
    assert worst(jax.tree.map(np.negative, ours), theirs) > 1e-3


def test_derivatives_are_those_of_jax():
    """At a kink our value is JAX's choice too, so that both train alike there."""
    activations = {name: f for name, f in fnn.activations.ACTIVATIONS.items() if isinstance(f, fnn.Activation)}
    points = jnp.asarray([-3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0, *np.random.default_rng(0).normal(size=7)])
    both = quick_jit(lambda x: {name: (f.derivative(x), jax.vmap(jax.grad(f))(x)) for name, f in activations.items()})
    for name, (ours, theirs) in both(points).items():
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=False, err_msg=name)


KINKS = {
    **{"relu": {0: 0.0}, "leaky_relu": {0: 1.0}, "elu": {0: 1.0}, "selu": {0: 1.7580993408473766}},
    **{"relu6": {0: 0.0, 6: 0.0}, "hard_tanh": {-1: 1.0, 1: 1.0}},
    **{"hard_sigmoid": {-3: 0.0, 3: 0.0}, "hard_silu": {-3: 0.0, 3: 1.0}},
}


@pytest.mark.parametrize("name", KINKS)
def test_derivatives_at_kinks_have_the_values_in_their_docstrings(name):
    for kink, value in KINKS[name].items():
        assert np.isclose(fnn.activations.activation(name).derivative(jnp.asarray(float(kink))), value, rtol=1e-14)


def makers(*areas):
    """The public functions of these parts of the package that make a layer or a loss."""
    for full_name, value in public_names().items():
        name = full_name.rpartition(".")[2]
        module = getattr(value, "__module__", "")
        if inspect.isfunction(value) and module.startswith(tuple(f"functional_nn.{area}" for area in areas)):
            yield name, inspect.get_annotations(value)["return"]


def test_every_layer_activation_and_loss_has_a_case():
    """A public function that makes a layer, a loss or a penalty, and has no case of its name, fails here."""
    known = {word for case in LAYERS for word in (case.name, case.layer.name)}
    known |= {case.name for case in LOSSES} | {name for name, _ in PENALTIES}
    made = [name for name, kind in makers("layers", "models", "losses") if kind in ("Layer", "Loss", "Penalty")]
    beginnings = {name: f"{name.removesuffix('_with')}_" for name in made if name != "model"}
    assert [name for name, of in beginnings.items() if not any(f"{word}_".startswith(of) for word in known)] == []
    assert {"neuron", "dense", "chain", "mlp", "huber_with", "l1"} <= set(made)
    assert set(fnn.activations.ACTIVATIONS) <= known
    assert set(fnn.losses.LOSSES) <= {case.loss.name for case in LOSSES}
