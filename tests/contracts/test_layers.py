"""What every layer keeps to, whatever it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, LAYERS, of, started

import functional_nn as fnn

DRAWING = [case for case in LAYERS if case.draws]
QUIET = [case for case in LAYERS if not case.draws]


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("case", **of(LAYERS))
def test_init_gives_nested_dicts_of_float32_arrays(case):
    params, state = case.layer.init(jax.random.key(0), case.in_shape)
    for path, leaf in (fnn.trees.flatten(params) | fnn.trees.flatten(state)).items():
        assert leaf.dtype == jnp.float32, path
    assert same(fnn.trees.unflatten(fnn.trees.flatten(params)), params)
    assert same(case.layer.init(jax.random.key(0), case.in_shape), (params, state))


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", **of(LAYERS))
def test_apply_keeps_batch_type_and_state_structure(case, train):
    params, state, x = started(case)
    y, new_state = case.layer.apply(params, state, x, train=train, key=jax.random.key(1))
    first = next(leaf for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating) or case.make_x)
    for leaf in jax.tree.leaves(y):
        assert leaf.shape[0] == BATCH
        assert leaf.dtype == (first.dtype if jnp.issubdtype(first.dtype, jnp.floating) else jnp.float32) or (
            leaf.dtype == bool
        )
    assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)
    assert jax.tree.map(jnp.result_type, new_state) == jax.tree.map(jnp.result_type, state)


@pytest.mark.parametrize("case", **of(LAYERS))
def test_eval_is_deterministic_needs_no_key_and_keeps_state(case):
    params, state, x = started(case)
    first = case.layer.apply(params, state, x, train=False)
    again = case.layer.apply(params, state, x, train=False, key=jax.random.key(3))
    assert same(first, again)
    assert same(first[1], state)


@pytest.mark.parametrize("case", **of(LAYERS))
def test_eval_treats_examples_alone(case):
    params, state, x = started(case)
    together, _ = case.layer.apply(params, state, x, train=False)
    alone, _ = case.layer.apply(params, state, jax.tree.map(lambda leaf: leaf[2:3], x), train=False)
    for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(many[2:3], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", **of(DRAWING))
def test_training_without_a_key_names_the_layer_that_draws(case):
    params, state, x = started(case)
    with pytest.raises(fnn.InputError, match="key: expected a key") as caught:
        case.layer.apply(params, state, x, train=True)
    if case.layer.name == "mlp":
        assert caught.value.path == ("dropout_0",)


@pytest.mark.parametrize("case", **of(QUIET))
def test_training_needs_no_key_where_nothing_is_drawn(case):
    params, state, x = started(case)
    without = case.layer.apply(params, state, x, train=True)
    assert same(without, case.layer.apply(params, state, x, train=True, key=jax.random.key(0)))


@pytest.mark.parametrize("case", **of(LAYERS))
def test_jit_vmap_scan_and_checkpoint_compute_the_same(case):
    params, state, x = started(case)
    key = jax.random.key(1)

    def apply(params, state, x):
        return case.layer.apply(params, state, x, train=True, key=key)

    expected = apply(params, state, x)
    close = lambda got: jax.tree.map(  # noqa: E731
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, expected
    )
    close(jax.jit(apply)(params, state, x))
    close(jax.checkpoint(apply)(params, state, x))
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, state, x))
    close(jax.tree.map(lambda leaf: leaf[1], jax.vmap(apply)(*twice)))
    _, ys = jax.lax.scan(lambda carry, x: (apply(params, carry, x)[1], apply(params, state, x)), state, twice[2])
    close(jax.tree.map(lambda leaf: leaf[1], ys))


@pytest.mark.parametrize("case", **of(LAYERS))
def test_unused_residuals_cost_nothing_under_jit(case):
    """``apply`` drops the residuals, and the compiled program does not keep them: no larger than the bare output."""
    params, state, x = started(case)

    def apply(params, state, x):
        return case.layer.apply(params, state, x, train=False)

    memory = jax.jit(apply).lower(params, state, x).compile().memory_analysis()
    y, _ = apply(params, state, x)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    y_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(y))
    arrays = len(jax.tree.leaves((state, y)))
    assert memory.output_size_in_bytes <= y_bytes + state_bytes + 8 * arrays + 8


@pytest.mark.parametrize("case", **of(LAYERS))
def test_bfloat16_stays_bfloat16(case):
    params, state, x = started(case)
    low = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, (params, x)
    )
    y, new_state = case.layer.apply(low[0], state, low[1], train=True, key=jax.random.key(0))
    for leaf in jax.tree.leaves(y):
        assert leaf.dtype in (jnp.bfloat16, bool)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new_state))
