"""Compiling as if JAX's cache on disk were not there, whether it was looked into before or not."""

import jax
import jax.numpy as jnp
import pytest

from functional_nn.training.compiler import compiling_anew


@pytest.fixture
def hits():
    """A list that grows by one for each program that JAX finds in its cache."""
    found = []

    def listen(event, **about):
        if event.endswith("/cache_hits"):
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.clear_event_listeners()


def test_compiling_anew_finds_nothing_and_writes_nothing(cache_of_jax, hits):
    def compile(factor):
        jax.jit(lambda x: jnp.sin(x) * factor).lower(jnp.ones(3)).compile()
        return len(hits), len(list(cache_of_jax.glob("*-cache")))

    jnp.ones(3)
    before, files = compile(2)
    assert compile(2) == (before + 1, files)
    with compiling_anew():
        assert compile(2) == (before + 1, files)
        assert compile(3) == (before + 1, files)
    assert compile(2) == (before + 2, files)
    assert compile(3) == (before + 2, files + 1)


def test_what_goes_wrong_meanwhile_leaves_the_cache_in_use(cache_of_jax, hits):
    with pytest.raises(ZeroDivisionError), compiling_anew():
        raise ZeroDivisionError
    assert jax.config.values["jax_enable_compilation_cache"]
    for _ in range(2):
        jax.jit(lambda x: jnp.cos(x) * 5).lower(jnp.ones(3)).compile()
    assert len(hits) >= 1
