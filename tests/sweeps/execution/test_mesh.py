"""Sweeps on a mesh of devices: members are divided among devices, and nothing but rounding changes."""

import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.sweeps.execution.mesh import joined, taken_apart

SETUP = """
    import sys
    from pathlib import Path

    import jax, numpy as np, optax, functional_nn as fnn

    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 5)).astype(np.float32), random.integers(0, 3, 40).astype(np.int32)
    data = fnn.data.Split(x[:29], labels[:29], x[29:], labels[29:])  # three batches of 9, and one of 2
    net = fnn.chain(fnn.dense(7), fnn.tanh, fnn.dense(3))

    def optimizer(h):
        return optax.sgd(h["learning_rate"])

    def sweep(members, **options):
        return fnn.sweep(net, optimizer, members, data, epochs=2, batch_size=9, **options).members

    def numbers(member):
        return [np.asarray(leaf) for leaf in jax.tree.leaves((member.params, member.state, dict(member.curves)))]

    def check_same(first, second, **limits):
        for one, other in zip(first, second, strict=True):
            assert (one.status, one.bad_step) == (other.status, other.bad_step)
            if one.status == "non-finite":
                continue  # the last finite numbers are so large that rounding decides them
            for a, b in zip(numbers(one), numbers(other), strict=True):
                np.testing.assert_allclose(a, b, **limits)

    CLOSE, EQUAL = {"rtol": 1e-4, "atol": 1e-5}, {"rtol": 0, "atol": 0}
"""


def on_devices(count: int, code: str, *arguments: str) -> None:
    """Runs a script with several devices. JAX can hang if it has more devices than cores, so the time is limited."""
    script = textwrap.dedent(SETUP) + textwrap.dedent(code)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(count)}
    subprocess.run([sys.executable, "-c", script, *arguments], env=environment, check=True, timeout=300)


@pytest.mark.processes
def test_devices_share_the_members_and_exchange_nothing(tmp_path):
    """Five members on four devices: each device has two, since copies of the last member fill the empty places.

    The file of the last two members gets lost, and the sweep trains them again on two devices.
    """
    code = """
    from functional_nn.sweeps.execution import group_programs
    compiled = []
    compiled_programs = group_programs.compiled_programs
    group_programs.compiled_programs = lambda spec: compiled.append(compiled_programs(spec)) or compiled[-1]

    members = fnn.grid(learning_rate=[0.1], seed=range(7))
    alone = sweep(members, plan="sequential")
    on_four = sweep(members, mesh={"population": 4}, plan="vmap:5")
    check_same(alone, on_four, **CLOSE)
    check_same(on_four, sweep(members, mesh={"population": 4}, plan="vmap:5"), **EQUAL)
    programs, _ = compiled[1]
    for program in (programs.start, programs.draw_order, *programs.memory_users):
        assert "replica_groups" not in program.as_text()  # every exchange between devices has some
    text = programs.full_batches.as_text()
    assert "f32[2,9,7]" in text and "f32[8,9,7]" not in text

    sweep(members, mesh={"population": 4}, plan="vmap:5", out=sys.argv[1])
    (Path(sys.argv[1]) / "batches" / "0-5-end.safetensors").unlink()
    again = sweep(members, mesh={"population": 2}, plan="vmap:5", out=sys.argv[1])
    check_same(on_four[:5], again[:5], **EQUAL)
    check_same(alone, again, **CLOSE)
    """
    on_devices(4, code, str(tmp_path / "out"))


@pytest.mark.slow
def test_devices_share_members_and_batches(tmp_path):
    """A batch norm's statistics and dropout's masks go over the whole batch. One member of seven becomes non-finite."""
    code = """
    net = fnn.chain(fnn.dense(8), fnn.batch_norm(), fnn.relu, fnn.dropout(0.2), fnn.dense(3))
    mesh = {"population": 4, "data": 2}
    members = [*fnn.grid(learning_rate=[0.1, 0.03], seed=range(3)), {"learning_rate": 1e30, "seed": 0}]
    alone, shared = sweep(members, plan="sequential"), sweep(members, mesh=mesh)
    assert shared[6].status == "non-finite"
    check_same(alone, shared, **CLOSE)
    check_same(shared, sweep(members, mesh=mesh), **EQUAL)
    finite = members[:6]
    check_same(shared[:6], sweep(finite, mesh=mesh), **EQUAL)

    halving = fnn.sweeps.Halving((1,), keep=0.5)
    alone = sweep(finite, plan="sequential", halving=halving, order_seed=3)
    shared = sweep(finite, mesh=mesh, halving=halving, order_seed=3, out=sys.argv[1])
    assert [member.status for member in shared].count("halved") == 3
    check_same(alone, shared, **CLOSE)
    for file in Path(sys.argv[1]).glob("batches/*-end.safetensors"):
        file.unlink()
    again = sweep(finite, mesh={"population": 2}, halving=halving, order_seed=3, out=sys.argv[1])
    check_same(shared, again, **CLOSE)

    folders = [f"{sys.argv[1]}{part}" for part in (1, 2)]
    for part, folder in enumerate(folders):
        sweep(finite, mesh=mesh, part=(part + 1, 2), out=folder)
    merged = fnn.sweeps.merge(folders, f"{sys.argv[1]}3")
    whole = [member.curves["test_loss"] for member in sweep(finite, mesh=mesh)]
    np.testing.assert_allclose(merged.curves("test_loss"), whole, **CLOSE)
    """
    on_devices(8, code, str(tmp_path / "out"))


def test_members_are_taken_apart_and_joined():
    states = {"weight": np.arange(6.0).reshape(3, 2), "key": jax.random.split(jax.random.key(0), 3), "step": np.ones(3)}
    parts = taken_apart(states, [2, 0])
    assert parts[0]["weight"].tolist() == [4, 5]
    assert parts[0]["weight"].base is None
    again = joined([parts[1], parts[0]])
    assert again["weight"].tolist() == [[0, 1], [4, 5]]
    assert (jax.random.key_data(again["key"]) == jax.random.key_data(states["key"])[np.array([0, 2])]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mesh": {}}, "mesh: expected a dict such as"),
        ({"mesh": "data=2"}, "mesh: expected a dict such as"),
        ({"mesh": {"batch": 2}}, "mesh: expected a dict such as"),
        ({"mesh": {"data": 0}}, "mesh: expected a dict such as"),
        ({"mesh": {"data": 3, "population": 3}}, "at most 8 devices, the number that JAX has, got population=3,data=3"),
        ({"mesh": {"population": 2}, "exact": True}, "mesh: expected no mesh, because exact is True"),
        ({"mesh": {"population": 2}, "plan": "map"}, "plan: expected one worker with at least 2 members"),
        ({"mesh": {"population": 2}, "plan": fnn.sweeps.Plan(2, 4)}, "plan: expected one worker"),
    ],
)
def test_what_a_mesh_cannot_be(options, message, blobs, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    with pytest.raises(fnn.InputError) as error:
        fnn.sweep(fnn.dense(3), optax.sgd(0.1), fnn.grid(seed=range(4)), blobs, **options)
    assert message in str(error.value)


def test_a_mesh_needs_a_key_for_each_member(blobs, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    with jax.default_prng_impl("rbg"), pytest.raises(fnn.InputError, match="mesh: expected population=1, because"):
        fnn.sweep(fnn.dense(3), optax.sgd(0.1), fnn.grid(seed=range(4)), blobs, mesh={"population": 2})
