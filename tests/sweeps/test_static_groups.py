"""Keys and train states of members that share a program."""

import jax
import numpy as np
import pytest

from functional_nn.sweeps.member_batch import joined, taken_apart
from functional_nn.sweeps.static_groups import keys


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


def test_members_are_taken_apart_and_joined():
    states = {"weight": np.arange(6.0).reshape(3, 2), "key": jax.random.split(jax.random.key(0), 3), "step": np.ones(3)}
    parts = taken_apart(states, [2, 0])
    assert parts[0]["weight"].tolist() == [4, 5]
    assert parts[0]["weight"].base is None
    again = joined([parts[1], parts[0]])
    assert again["weight"].tolist() == [[0, 1], [4, 5]]
    assert (jax.random.key_data(again["key"]) == jax.random.key_data(states["key"])[np.array([0, 2])]).all()
