"""Language models: the cache gives what the whole pass gives, and generation is what it says."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.contracts.composed import others_are_slow

import functional_nn as fnn

KEY = jax.random.key(0)
COUNT, MAX_TIME, BATCH = 7, 12, 3
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, COUNT, (BATCH, MAX_TIME)), jnp.int32)
GROUPED, LEARNED = {"key_value_heads": 2, "window": 3, "score_cap": 2.0}, {"positions": "learned", "depth": 1}
OPTIONS = [
    *(GROUPED, LEARNED, {}, {"positions": "sinusoidal", "tied": False, "depth": 1}),
    LEARNED | {"key_value_heads": 1, "window": 1, "activation": fnn.relu, "hidden_size": 5},
]


@cache
def made(**options):
    """A model with random parameters, and a program of its whole pass."""
    model = fnn.models.language_model(COUNT, MAX_TIME, **{"features": 8, "depth": 2, "heads": 4, **options})
    params, state = jax.eval_shape(lambda key: model.layer.init(key, (MAX_TIME,)), KEY)
    assert state == {}
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(np.float32(random.normal(size=leaf.shape) / 2)), params)
    return model, params, jax.jit(lambda tokens: model.layer.apply(params, {}, tokens, train=False)[0])


@pytest.mark.parametrize("options", **others_are_slow(OPTIONS, [GROUPED]), ids=str)
def test_prefill_and_steps_give_the_logits_of_the_whole_pass(options):
    model, params, whole_pass = made(**options)
    whole = whole_pass(TOKENS)
    logits, cache = jax.jit(model.prefill)(params, TOKENS[:, :5])
    np.testing.assert_allclose(logits, whole[:, 4], rtol=1e-5, atol=1e-5)
    step = jax.jit(model.step)
    for i in range(5, MAX_TIME):
        logits, cache = step(params, cache, TOKENS[:, i])
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-5, atol=1e-5)


def test_the_cache_has_places_for_grouped_heads_and_a_length():
    model, params, _ = made(**GROUPED)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    _, cache = jax.eval_shape(lambda params: model.prefill(params, TOKENS[:, :3], length=5), low)
    for part in ("key", "value"):
        leaf = fnn.trees.flatten(cache)[f"transformer_block_1/attention/attention_0/{part}"]
        assert (leaf.shape, leaf.dtype) == ((BATCH, 5, 2, 2), jnp.bfloat16)


@pytest.mark.slow
def test_drawn_tokens_depend_on_the_key_and_follow_the_probabilities():
    model, params, _ = made(**LEARNED)
    prompt = jnp.broadcast_to(TOKENS[:1, :3], (4000, 3))
    draws = model.generate(params, prompt, jax.random.key(2), new_tokens=1, temperature=0.7)
    again = model.generate(params, prompt, jax.random.key(2), new_tokens=1, temperature=0.7)
    other = model.generate(params, prompt, jax.random.key(3), new_tokens=1, temperature=0.7)
    np.testing.assert_array_equal(draws, again)
    assert (draws != other).any()
    logits, _ = jax.jit(model.prefill)(params, prompt[:1])
    shares = np.bincount(draws.ravel(), minlength=COUNT) / len(draws)
    np.testing.assert_allclose(shares, jax.nn.softmax(logits[0] / 0.7), atol=0.03)
    # With top_k=2 only the two most likely tokens are drawn, and with top_k=1 only the most likely one.
    two = model.generate(params, prompt, jax.random.key(2), new_tokens=1, temperature=5.0, top_k=2)
    assert set(np.unique(two)) == set(np.argsort(logits[0])[-2:].tolist())
    one = model.generate(params, TOKENS[:, :3], jax.random.key(2), new_tokens=4, top_k=1)
    np.testing.assert_array_equal(one, model.generate(params, TOKENS[:, :3], new_tokens=4, temperature=0))


def test_generation_alone_and_inside_another_program():
    """Greedy generation takes the most likely token of the whole pass.

    So does a population with traced temperatures, down to 0 and where logits divided by it would be infinite.
    """
    model, params, whole_pass = made(**LEARNED)

    def generated(params, temperature):
        return model.generate(params, TOKENS[:, :3], KEY, new_tokens=4, temperature=temperature)

    temperatures = jnp.array([0.5, 0.0, 1e-40, 1e-37])
    population = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), params)
    drawn, *most_likely = jax.jit(jax.vmap(generated))(population, temperatures)
    np.testing.assert_array_equal(drawn, generated(params, 0.5))
    best = generated(params, 0)
    logits = whole_pass(np.concatenate([TOKENS[:, :3], best, TOKENS[:, 7:]], axis=1))
    np.testing.assert_array_equal(best, np.argmax(logits, axis=-1)[:, 2:6])
    for written in most_likely:
        np.testing.assert_array_equal(written, best)


def test_a_full_cache():
    model, params, _ = made(**LEARNED)
    _, cache = jax.jit(partial(model.prefill, length=4))(params, TOKENS[:, :4])
    with pytest.raises(fnn.InputError, match=r"cache: expected at most 3 steps in it, .* got 4"):
        model.step(params, cache, TOKENS[:, 4])
    logits, _ = jax.jit(model.step)(params, cache, TOKENS[:, 4])
    assert np.isnan(logits).all()


PROMPT = TOKENS[:, :5]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, p: m.generate(p, PROMPT, KEY, new_tokens=8), "new_tokens: expected at most 7 after a prompt of 5"),
        (lambda m, p: fnn.chain(m), "Write model.layer"),
        (lambda m, p: m.generate(p, PROMPT, new_tokens=2), "key: expected a key"),
        (lambda m, p: m.generate(p, PROMPT, KEY, new_tokens=2, temperature=-1), "temperature: expected a number not"),
        (lambda m, p: m.generate(p, PROMPT, KEY, new_tokens=2, top_k=8), "top_k: expected a positive integer up to 7"),
        (lambda m, p: m.generate(p, PROMPT + 5, KEY, new_tokens=2), "prompt: expected tokens from 0 to 6, got 10"),
        (lambda m, p: m.prefill(p, PROMPT[:, :0]), "tokens: expected at least one token for each"),
        (lambda m, p: m.prefill(p, PROMPT, length=4), "tokens: expected at most 4 steps"),
        (lambda m, p: m.prefill(p, PROMPT, length=13), "length: expected a positive integer up to 12"),
        (lambda m, p: m.step(p, {}, PROMPT[:, 0]), "cache: expected the cache that prefill or step gave"),
        (lambda m, p: fnn.models.language_model(3, 3, heads=4, key_value_heads=3), "key_value_heads: expected a div"),
    ],
)
def test_calls_that_do_not_fit(call, words):
    model, params, _ = made(**LEARNED)
    with pytest.raises(fnn.InputError, match=words):
        call(model, params)
