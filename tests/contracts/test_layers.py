"""What every layer keeps to, whatever it computes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.contracts.composed import named_cases, variants_are_slow

import functional_nn as fnn
from functional_nn.gradients.cases import BATCH, LAYERS, LayerCase, draw_inputs, masked
from functional_nn.gradients.compare.problem import differentiable_leaves
from functional_nn.jaxprs.xla_options import quick_jit

DRAWING = [case for case in LAYERS if case.draws]
QUIET = [case for case in LAYERS if not case.draws]
MASKED = [
    *(case for case in LAYERS if "masked" in case.name),
    LayerCase("conv_over_masked", fnn.chain(fnn.conv(3, 3)), (7, 5), make_x=masked),
]
OF_EXAMPLES = {"conv_over_masked", "parallel_over_masked", "residual_over_masked", "repeat_over_masked"}
"""Layers without masks take the padding for examples: its cotangents reach their gradients."""


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("case", **named_cases(LAYERS))
def test_init_gives_nested_dicts_of_float32_arrays(case):
    params, state = jax.eval_shape(lambda key: case.layer.init(key, case.in_shape), jax.random.key(0))
    for path, leaf in (fnn.trees.flatten(params) | fnn.trees.flatten(state)).items():
        assert leaf.dtype == jnp.float32, path
    assert fnn.trees.unflatten(fnn.trees.flatten(params)) == params


def is_floating(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


@pytest.mark.parametrize("case", **variants_are_slow(LAYERS))
def test_apply_keeps_batch_type_and_state(case):
    """In both modes, with numbers of bfloat16."""
    params, state, x = draw_inputs(case)
    params, x = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16) if is_floating(leaf) else leaf, (params, x)
    )
    for train in (False, True):
        apply = partial(case.layer.apply, train=train, key=jax.random.key(1))
        y, new_state = jax.eval_shape(apply, params, state, x)
        for leaf in jax.tree.leaves(y):
            assert leaf.shape[0] == BATCH
            assert leaf.dtype in (jnp.bfloat16, bool)
        assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)
        assert jax.tree.map(jnp.result_type, new_state) == jax.tree.map(jnp.result_type, state)


@pytest.mark.parametrize("case", **variants_are_slow(LAYERS))
def test_eval_is_deterministic_needs_no_key_keeps_state_and_treats_examples_alone(case):
    params, state, x = draw_inputs(case)

    @quick_jit
    def apply(params, state, x):
        third = jax.tree.map(lambda leaf: leaf[2:3], x)
        return [case.layer.apply(params, state, examples, train=False) for examples in (x, third)]

    (y, new_state), (alone, _) = found = apply(params, state, x)
    assert same(found, apply(params, state, x))
    assert same(new_state, state)
    for many, one in zip(jax.tree.leaves(y), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(np.asarray(many)[2:3], one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", **named_cases(DRAWING))
def test_training_without_a_key_names_the_layer_that_draws(case):
    params, state, x = draw_inputs(case)
    with pytest.raises(fnn.InputError, match="key: expected a key") as caught:
        jax.eval_shape(lambda p, s, x: case.layer.apply(p, s, x, train=True), params, state, x)
    if case.layer.name == "mlp":
        assert caught.value.path == ("dropout_0",)


@pytest.mark.parametrize("case", **variants_are_slow(QUIET))
def test_training_needs_no_key_where_nothing_is_drawn(case):
    program = jax.make_jaxpr(lambda p, s, x: case.layer.apply(p, s, x, train=True))(*draw_inputs(case))
    assert not any("random_bits" in str(equation.primitive) for equation in program.eqns)


@pytest.mark.parametrize("case", **variants_are_slow(LAYERS, kinds_alone=True))
def test_vmap_scan_and_checkpoint_compute_the_same(case):
    params, state, x = draw_inputs(case)
    key = jax.random.key(1)

    def apply(params, state, x):
        return case.layer.apply(params, state, x, train=True, key=key)

    @quick_jit
    def in_four_ways(params, state, x):
        twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, state, x))
        last = lambda tree: jax.tree.map(lambda leaf: leaf[1], tree)  # noqa: E731
        _, scanned = jax.lax.scan(
            lambda carry, x: (apply(params, carry, x)[1], apply(params, state, x)), state, twice[2]
        )
        ways = jax.checkpoint(apply)(params, state, x), last(jax.vmap(apply)(*twice)), last(scanned)
        return apply(params, state, x), ways

    expected, ways = in_four_ways(params, state, x)
    for way in ways:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), way, expected)


def with_padding(tree, value):
    def put(part):
        if not isinstance(part, fnn.Masked):
            return part
        return part._replace(values=jnp.where(part.mask[..., None], part.values, value))

    return jax.tree.map(put, tree, is_leaf=lambda part: isinstance(part, fnn.Masked))


@pytest.mark.parametrize("case", **variants_are_slow(MASKED))
def test_padding_changes_nothing(case):
    """NaN there, in x and y_bar, reaches no output and no gradient; the last sequence is padding alone."""
    params, state, x = draw_inputs(case)
    x = jax.tree.map(lambda leaf: leaf if is_floating(leaf) else leaf.at[-1].set(False), x)

    def results(x, y_bar_there, train):
        def real_output(params):
            y, new_state = case.layer.apply(params, state, x, train=train)
            leaves = differentiable_leaves(with_padding(y, 0.0)).leaves
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves), (leaves, new_state)

        y, _, pullback = case.layer.vjp(params, state, x, train=train)
        y_bar = jax.tree.map(lambda leaf: jnp.cos(leaf) if is_floating(leaf) else leaf, y)
        y_bar = differentiable_leaves(with_padding(y_bar, y_bar_there))
        by_hand = pullback(y_bar.join_cotangents(y_bar.leaves))
        return jax.grad(real_output, has_aux=True)(params), by_hand

    in_both_modes = quick_jit(lambda *given: [results(*given, train) for train in (False, True)])
    expected = in_both_modes(with_padding(x, 0.0), 0.0)
    found = in_both_modes(with_padding(x, np.nan), 0.0 if case.name in OF_EXAMPLES else np.nan)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    for (automatic, _), (by_hand, _) in found:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), by_hand, automatic)
