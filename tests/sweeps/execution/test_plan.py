"""Plans that are remembered from sweep to sweep."""

import json

import pytest

from functional_nn.sweeps.execution import plan


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plan, "most_workers", lambda: 8)


def test_what_was_remembered_is_recalled(cache):
    assert plan.recall("here") is None
    plan.remember("here", 3)
    plan.remember("there", 5)
    assert (plan.recall("here"), plan.recall("there")) == (3, 5)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"here": "3"}', '{"here": 9}', '{"here": [3]}'])
def test_fault_29_a_damaged_file_of_plans_is_written_anew(cache, text):
    plan.remember("here", 3)
    plan.remembered_file().write_text(text)
    assert plan.recall("here") is None
    plan.remember("here", 2)
    assert json.loads(plan.remembered_file().read_text()) == {"here": 2}


def test_fault_29_without_a_safe_cache_folder_no_plan_is_remembered(monkeypatch):
    monkeypatch.setattr(plan, "cache_folder", lambda: None)
    assert plan.remembered_file() is None
    plan.remember("here", 1)
    assert plan.recall("here") is None
