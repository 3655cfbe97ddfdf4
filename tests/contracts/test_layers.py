"""What every layer keeps to, whatever it computes."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.contracts.composed import named_cases, variants_are_slow

import functional_nn as fnn
from functional_nn.gradients.cases import BATCH, LAYERS, draw_inputs
from functional_nn.jaxprs.xla_options import quick_jit

DRAWING = [case for case in LAYERS if case.draws]
QUIET = [case for case in LAYERS if not case.draws]


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
    """In both modes, with numbers of float32 and bfloat16."""
    params, state, x = draw_inputs(case)
    for train, dtype in itertools.product((False, True), (jnp.float32, jnp.bfloat16)):
        low = jax.tree.map(
            lambda leaf, dtype=dtype: jax.ShapeDtypeStruct(leaf.shape, dtype) if is_floating(leaf) else leaf,
            (params, x),
        )
        apply = partial(case.layer.apply, train=train)
        y, new_state = jax.eval_shape(
            lambda p, s, x, key, apply=apply: apply(p, s, x, key=key), low[0], state, low[1], jax.random.key(1)
        )
        for leaf in jax.tree.leaves(y):
            assert leaf.shape[0] == BATCH
            assert leaf.dtype in (dtype, bool)
        assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)
        assert jax.tree.map(jnp.result_type, new_state) == jax.tree.map(jnp.result_type, state)


@pytest.mark.parametrize("case", **variants_are_slow(LAYERS))
def test_eval_is_deterministic_needs_no_key_keeps_state_and_treats_examples_alone(case):
    params, state, x = draw_inputs(case)
    apply = quick_jit(lambda params, state, x: case.layer.apply(params, state, x, train=False))
    program = apply.lower(params, state, x).compile()
    y, new_state = program(params, state, x)
    assert same((y, new_state), program(params, state, x))
    assert same(new_state, state)
    alone, _ = apply(params, state, jax.tree.map(lambda leaf: np.asarray(leaf)[2:3], x))
    for many, one in zip(jax.tree.leaves(y), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(np.asarray(many)[2:3], one, rtol=1e-5, atol=1e-5)

    # ``apply`` drops the residuals, and the compiled program does not keep them: no larger than the bare output.
    memory = program.memory_analysis()
    kept = jax.tree.leaves((y, state))
    assert memory.output_size_in_bytes <= sum(leaf.nbytes for leaf in kept) + 8 * len(kept) + 8


@pytest.mark.parametrize("case", **named_cases(DRAWING))
def test_training_without_a_key_names_the_layer_that_draws(case):
    params, state, x = draw_inputs(case)
    with pytest.raises(fnn.InputError, match="key: expected a key") as caught:
        jax.eval_shape(lambda p, s, x: case.layer.apply(p, s, x, train=True), params, state, x)
    if case.layer.name == "mlp":
        assert caught.value.path == ("dropout_0",)


@pytest.mark.parametrize("case", **named_cases(QUIET))
def test_training_needs_no_key_where_nothing_is_drawn(case):
    params, state, x = draw_inputs(case)
    jaxpr = jax.make_jaxpr(lambda p, s, x, key: case.layer.apply(p, s, x, train=True, key=key))
    without = jax.make_jaxpr(lambda p, s, x: case.layer.apply(p, s, x, train=True))(params, state, x)
    assert without.out_avals == jaxpr(params, state, x, jax.random.key(0)).out_avals
    assert not any("random_bits" in str(equation.primitive) for equation in without.eqns)


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
