"""Keys of the members of a static group."""

import jax
import numpy as np
import pytest

from functional_nn.sweeps.execution.static_groups import keys


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("x64", [False, True])
def test_keys_of_several_members_are_those_of_each_alone(generator, x64, monkeypatch):
    grid = [{"seed": seed} for seed in (0, 1, 2**31, 2**32 - 1)]
    with jax.default_prng_impl(generator), jax.enable_x64(x64):
        alone = [jax.random.key_data(keys(grid, number)) for number in range(4)]
        # Keys that are made one after another take seconds for some thousand members.
        made = []
        monkeypatch.setattr(jax.random, "key", lambda seed, key=jax.random.key: made.append(seed) or key(seed))
        together = keys(grid, [3, 0, 1, 2])
    assert len(made) == 1
    assert np.array_equal(jax.random.key_data(together), [alone[number] for number in (3, 0, 1, 2)])
