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
OPTIONS = [
    {},
    {"positions": "learned", "depth": 1},
    {"positions": "sinusoidal", "tied": False, "depth": 1},
    {"key_value_heads": 2, "window": 3, "score_cap": 2.0},
    {"key_value_heads": 1, "positions": "learned", "window": 1, "activation": fnn.relu, "hidden_size": 5}
    | {"depth": 1},
]


@cache
def made(**options):
    """A model with parameters other than those that it starts from."""
    model = fnn.models.language_model(COUNT, MAX_TIME, **{"features": 8, "depth": 2, "heads": 4, **options})
    params, state = jax.jit(model.layer.init, static_argnums=1)(KEY, (MAX_TIME,))
    assert state == {}
    random = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray((np.asarray(leaf) + random.normal(size=leaf.shape) / 3).astype(leaf.dtype)), params
    )


@jax.jit
def best(logits):
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@pytest.mark.parametrize("options", **others_are_slow(OPTIONS, OPTIONS[::4]), ids=str)
def test_prefill_and_steps_give_the_logits_of_the_whole_pass(options):
    model, params = made(**options)
    whole, _ = jax.jit(lambda params: model.layer.apply(params, {}, TOKENS, train=False))(params)
    logits, cache = jax.jit(model.prefill)(params, TOKENS[:, :5])
    np.testing.assert_allclose(logits, whole[:, 4], rtol=1e-5, atol=1e-5)
    step = jax.jit(model.step)
    for i in range(5, MAX_TIME):
        logits, cache = step(params, cache, TOKENS[:, i])
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS[-2:], ids=str)
def test_greedy_generation_takes_the_most_likely_token_of_the_whole_pass(options):
    model, params = made(**options)
    written = model.generate(params, TOKENS[:, :4], new_tokens=8, temperature=0)
    whole = jax.jit(lambda tokens: model.layer.apply(params, {}, tokens, train=False)[0])
    expected = best(whole(jnp.concatenate([TOKENS[:, :4], written], axis=1)))[:, 3:-1]
    np.testing.assert_array_equal(written, expected)
    assert written.shape == (BATCH, 8)


def test_the_cache_has_places_for_grouped_heads_and_a_length():
    model, params = made(key_value_heads=2)
    _, cache = jax.eval_shape(lambda params: model.prefill(params, TOKENS[:, :3], length=5), params)
    leaves = fnn.trees.flatten(cache)
    place = "transformer_block_1/attention/attention_0"
    assert leaves[f"{place}/key"].shape == leaves[f"{place}/value"].shape == (BATCH, 5, 2, 2)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    _, cache = jax.eval_shape(lambda params: model.prefill(params, TOKENS[:, :3]), low)
    assert fnn.trees.flatten(cache)[f"{place}/key"].dtype == jnp.bfloat16


@pytest.mark.slow
def test_drawn_tokens_depend_on_the_key_and_follow_the_probabilities():
    model, params = made(depth=1)
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


@cache
def of_a_traced_temperature():
    """Generation inside another program."""
    model, params = made(depth=1)
    return jax.jit(lambda t: model.generate(params, TOKENS[:, :3], KEY, new_tokens=4, temperature=t))


def test_a_traced_or_tiny_temperature_takes_the_most_likely_token():
    """Down to 0, and where logits divided by it would be infinite."""
    model, params = made(depth=1)
    best = model.generate(params, TOKENS[:, :3], new_tokens=4, temperature=0)
    for temperature in (0.0, 1e-40, 1e-37):
        np.testing.assert_array_equal(of_a_traced_temperature()(temperature), best)


def test_generation_is_one_program():
    """Also inside another one, with a traced temperature, and one for each example of a population."""
    model, params = made(depth=1)
    alone = model.generate(params, TOKENS[:, :3], KEY, new_tokens=4, temperature=0.5)
    np.testing.assert_array_equal(alone, of_a_traced_temperature()(0.5))
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    both = jax.vmap(lambda params: model.generate(params, TOKENS[:, :3], KEY, new_tokens=4, temperature=0.5))(twice)
    np.testing.assert_array_equal(both[0], alone)


@pytest.mark.usefixtures("float64")
def test_it_trains_by_its_formula():
    # Not from the cache, whose arrays are float32.
    model, params = made.__wrapped__(key_value_heads=2, window=3, positions="learned", depth=1)
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    inputs, labels = TOKENS[:, :-1], TOKENS[:, 1:]

    @jax.jit
    def both(params):
        logits, _, pullback = model.layer.vjp(params, {}, inputs, train=True)

        def loss(params):
            return fnn.cross_entropy(model.layer.apply(params, {}, inputs, train=True)[0], labels)

        return pullback(fnn.cross_entropy.gradient(logits, labels))[0], jax.grad(loss)(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), *both(params))


def test_a_full_cache():
    model, params = made(depth=1)
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
    model, params = made()
    with pytest.raises(fnn.InputError, match=words):
        call(model, params)
