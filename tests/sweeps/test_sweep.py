"""A member is the run it would have been alone, whatever the others do; and what a sweep refuses."""

import os
import threading
import time
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.other_process import python

import functional_nn as fnn
from functional_nn.storage.files import one_writer
from functional_nn.sweeps import plan as plans
from functional_nn.sweeps import population
from functional_nn.sweeps.member_batch import MemberBatch
from functional_nn.sweeps.parts import read_sweep
from functional_nn.training.programs import Programs
from functional_nn.training.recipe import RecipeFunctions


def model(h):
    return fnn.chain(fnn.dense(h["hidden"]), fnn.relu, fnn.dropout(h["dropout"]), fnn.batch_norm(), fnn.dense(3))


def optimizer(h):
    rate = optax.cosine_decay_schedule(h["learning_rate"], h["steps"])
    return optax.adamw(rate, b1=h["momentum"], weight_decay=h["weight_decay"])


SETTINGS = fnn.sweeps.crossed(
    fnn.sweeps.draws(
        3,
        seed=1,
        learning_rate=fnn.sweeps.log_uniform(1e-3, 1e-1),
        momentum=fnn.sweeps.uniform(0.5, 0.95),
        weight_decay=fnn.sweeps.log_uniform(1e-4, 1e-1),
        dropout=fnn.sweeps.uniform(0, 0.5),
        smoothing=fnn.sweeps.uniform(0, 0.2),
        l2=fnn.sweeps.log_uniform(1e-5, 1e-2),
    ),
    fnn.sweeps.zipped(hidden=[4, 4, 7, 7], batch_size=[10, 10, 25, 25], seed=[0, 3, 0, 3]),
)
FUNCTIONS = {
    "loss": lambda h: fnn.losses.cross_entropy_with(label_smoothing=h["smoothing"]),
    "penalty": lambda h: fnn.l2(h["l2"]),
}


def sweep(members, data, net=model, rule=optimizer, **options):
    options = {"epochs": 2, "batch_size": 25, **({} if net is not model else FUNCTIONS), **options}
    return fnn.sweep(net, rule, members, data, **options)


NET = fnn.dense(3)


def gradient_descent(h):
    return optax.sgd(h["learning_rate"])


def plain(members, data, rule=gradient_descent, **options):
    """A sweep over learning rates. Programs of an earlier test with the same rule are used again."""
    return sweep(members, data, NET, rule, **options)


def bits(member):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((member.params, member.state))]


def same(first, second):
    assert bits(first) == bits(second)
    for name in ("train_loss", "test_loss", "test_accuracy"):
        np.testing.assert_array_equal(first.curves[name], second.curves[name])
    assert (first.status, first.bad_step) == (second.status, second.bad_step)


@pytest.fixture(scope="module")
def mixed(blobs):
    """Twelve members in two static groups."""
    return sweep(SETTINGS, blobs)


# A member and its solo run


def test_members_of_a_mixed_grid_are_bitwise_their_solo_runs(mixed, blobs):
    assert mixed.plan["groups"] == 2
    for number in (1, 10):
        (alone,) = sweep([SETTINGS[number]], blobs).members
        same(alone, mixed.members[number])


def test_mapped_members_stay_within_a_bound_of_their_solo_runs(mixed, blobs):
    first_group = mixed.where(hidden=4).members
    mapped = sweep([dict(member.hyperparameters) for member in first_group], blobs, plan="vmap:4")
    assert mapped.plan["members_at_once"] == 4
    for a, b in zip(first_group, mapped.members, strict=True):
        assert a.hyperparameters == b.hyperparameters
        np.testing.assert_allclose(a.curves["test_loss"], b.curves["test_loss"], rtol=1e-4)
        for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_a_member_is_bitwise_what_fit_gives(blobs):
    """Where no constant is rounded before it is traced: a rate of gradient descent is not."""
    members, rule = fnn.grid(learning_rate=[0.1, 0.02], seed=[0, 5]), optax.sgd(0.1)
    for member in plain(members, blobs, epochs=3).where(learning_rate=0.1).members:
        seed = member.hyperparameters["seed"]
        run = fnn.fit(NET, fnn.cross_entropy, rule, blobs, epochs=3, batch_size=25, seed=seed)
        assert bits(member) == bits(run)
        assert member.curves["test_loss"].tolist() == [metrics.test_loss for metrics in run.history]


def test_many_small_members_are_trained_together_on_a_cpu(blobs, monkeypatch):
    monkeypatch.setattr(plans, "most_workers", lambda: 2)
    members = fnn.grid(learning_rate=[0.1], seed=range(20))
    assert plain(members, blobs, epochs=1).plan["members_at_once"] == 20
    # Members that leave early would keep their places in the program.
    assert plain(members, blobs, epochs=1, patience=5).plan["members_at_once"] == 1


# Static groups


def test_one_compilation_a_static_group_and_none_the_second_time(blobs):
    traced = []

    def counted(h):
        if not isinstance(h["learning_rate"], float):
            traced.append(h["hidden"])
        return fnn.chain(fnn.dense(h["hidden"]), fnn.dense(3))

    rule = lambda h: optax.sgd(h["learning_rate"])  # noqa: E731
    members = fnn.grid(learning_rate=[0.1, 0.2, 0.3], hidden=[4, 5], seed=range(2))
    result = sweep(members, blobs, counted, rule, batch_size=20)
    assert result.compilations == 2
    once = len(traced)
    assert traced.count(4) == traced.count(5) == 4, "start, full batches, what is left over, evaluation"
    assert sweep(members, blobs, counted, rule, batch_size=20).compilations == 0
    assert len(traced) == once


def test_integers_are_static_and_a_number_with_a_point_anywhere_is_traced(blobs):
    kinds = {}

    def net(h):
        kinds.update({name: isinstance(h[name], jax.Array) for name in ("hidden", "rate", "name", "flag")})
        return fnn.chain(fnn.dropout(h["rate"]), fnn.dense(h["hidden"]))

    members = [
        {"hidden": 3, "rate": 0, "name": "a", "flag": True},
        {"hidden": 3, "rate": 0.5, "name": "a", "flag": True},
    ]
    assert sweep(members, blobs, net, optax.sgd(0.1), epochs=1).compilations == 1
    assert kinds == {"hidden": False, "rate": True, "name": False, "flag": False}


def test_a_function_that_needs_the_value_of_a_traced_number_is_told_of_static(blobs):
    def net(h):
        return fnn.dense(3) if h["a"] > 0 else fnn.chain(fnn.dense(4), fnn.dense(3))

    def rate(h):
        return optax.sgd(0.1 if h["a"] > 0 else 0.2)

    members = fnn.grid(a=[0.0, 1.0])
    for arguments in ((net, optax.sgd(0.1)), (lambda h: fnn.dense(3), rate)):
        with pytest.raises(fnn.InputError, match=r"grid: .*needs the value of a, .*jax\.numpy\.where.*static=\['a'\]"):
            sweep(members, blobs, *arguments, epochs=1)
    assert sweep(members, blobs, net, rate, epochs=1, static=["a"]).compilations == 2


def test_epochs_and_batch_size_of_each_member(blobs):
    members = fnn.sweeps.zipped(learning_rate=[0.1, 0.1], epochs=[1, 3], batch_size=[10, 25])
    rule = lambda h: gradient_descent(h)  # noqa: E731
    result = plain(members, blobs, rule)
    assert [member.epochs for member in result.members] == [1, 3]
    assert result.compilations == 2
    (alone,) = plain([{"learning_rate": 0.1}], blobs, rule, epochs=3).members
    assert bits(alone) == bits(result.members[1])


# Members that end before the others


def test_a_member_that_is_not_finite_leaves_the_others_bitwise(blobs):
    rates, options = [0.1, 1e6, 0.05, 0.2], {"penalty": fnn.l2(1.0), "batch_size": 5}
    wild, tame = (
        plain([{"learning_rate": min(rate, limit)} for rate in rates], blobs, plan="vmap:2", **options)
        for limit in (1e6, 0.3)
    )
    for number in (0, 2, 3):
        same(wild.members[number], tame.members[number])
    bad = wild.members[1]
    assert bad.status == "non-finite"
    assert bad.bad_step == 4  # each step multiplies the parameters by some 10⁶
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bad.params))


def test_a_member_goes_on_from_the_epoch_that_was_run_again(blobs, monkeypatch):
    """The first run of its first epoch overflows. The second run checks each step, and finds nothing."""
    members = [{"learning_rate": 0.1}, {"learning_rate": 0.2}]
    expected = plain(members, blobs, plan="vmap:2")
    right, calls = Programs.epoch, []

    def overflows(programs, *arguments):
        after, result = right(programs, *arguments)
        calls.append(arguments)
        if len(calls) > 1:
            return after, result
        params = jax.tree.map(lambda leaf: leaf.at[-1].set(jnp.nan), after.params)
        return after._replace(params=params), result._replace(bad_step=result.bad_step.at[-1].set(0))

    monkeypatch.setattr(Programs, "epoch", overflows)
    result = plain(members, blobs, plan="vmap:2")
    for ours, theirs in zip(result.members, expected.members, strict=True):
        assert ours.status == "finished"
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours.params, theirs.params)


@pytest.mark.parametrize("plan", ["map", "vmap:2"])
def test_patience_ends_a_member_and_keeps_the_others(plan, blobs):
    members = [{"learning_rate": rate} for rate in (-0.05, 0.05)]  # the loss of the first grows
    ends = [(member.status, member.epochs) for member in plain(members, blobs, epochs=8, patience=2, plan=plan).members]
    assert ends == [("stopped early", 3), ("finished", 8)]


def test_halving_keeps_the_best_without_compiling_again(blobs):
    members = fnn.grid(learning_rate=[1e-4, 1e-3, 1e-2, 1e-1], seed=range(2))
    halving = fnn.sweeps.Halving((1, 3), keep=0.5)
    rule = lambda h: gradient_descent(h)  # noqa: E731
    result = plain(members, blobs, rule, epochs=5, halving=halving, plan="vmap:2")
    assert result.compilations == 1
    whole = plain(members, blobs, rule, epochs=5, plan="vmap:2")
    after_first = sorted(range(8), key=lambda i: -whole.members[i].curves["test_accuracy"][0])[:4]
    after_second = sorted(after_first, key=lambda i: -whole.members[i].curves["test_accuracy"][2])[:2]
    for number, member in enumerate(result.members):
        epochs = 5 if number in after_second else 3 if number in after_first else 1
        assert member.epochs == epochs
        assert member.status == ("finished" if epochs == 5 else "halved")
        np.testing.assert_allclose(
            member.curves["test_loss"], whole.members[number].curves["test_loss"][:epochs], rtol=1e-5
        )
        assert member.params is not None


# Data as an axis


def test_folds_are_a_population(blobs):
    parts = fnn.sweeps.folds(blobs, 5)
    assert {len(part.train_x) for part in parts.values()} == {40}
    tested = np.concatenate([part.test_x for part in parts.values()])
    assert sorted(map(bytes, tested)) == sorted(map(bytes, blobs.train_x))
    rule = lambda h: gradient_descent(h)  # noqa: E731
    result = plain(fnn.grid(learning_rate=[0.1, 0.2]), parts, rule, batch_size=20)
    assert result.compilations == 1
    assert [member.hyperparameters["data"] for member in result.members[:5]] == list(parts)
    (alone,) = plain([{"learning_rate": 0.2}], parts["fold_3"], rule, batch_size=20).members
    assert bits(alone) == bits(result.where(learning_rate=0.2, data="fold_3").members[0])


def test_folds_of_examples_with_several_arrays():
    """Each part of an example stays with the other parts and with its label."""
    rows = np.arange(6, dtype=np.float32)
    steps = fnn.Masked(rows[:, None] + np.zeros((6, 3), np.float32), np.arange(3) <= rows[:, None])
    data = fnn.data.Split({"a": rows[:, None], "b": (steps,)}, {"label": rows})
    parts = fnn.sweeps.folds(data, 3).values()
    for part in parts:
        for x, labels, count in ((part.train_x, part.train_labels, 4), (part.test_x, part.test_labels, 2)):
            (given,) = x["b"]
            chosen = labels["label"].astype(int)
            assert len(chosen) == count
            np.testing.assert_array_equal(x["a"], rows[chosen, None])
            np.testing.assert_array_equal(given.values, steps.values[chosen])
            np.testing.assert_array_equal(given.mask, steps.mask[chosen])
    assert sorted(np.concatenate([part.test_labels["label"] for part in parts])) == sorted(rows)


def test_folds_leave_out_no_validation_examples(blobs):
    with pytest.raises(fnn.InputError, match=r"data: expected data without validation examples.*Make folds of all"):
        fnn.sweeps.folds(blobs.with_validation(0.2), 5)


@pytest.mark.parametrize("halving", [None, fnn.sweeps.Halving((1,))])
def test_data_sets_that_are_evaluated_on_different_parts_are_refused(halving, blobs):
    """The members have no metric in common by which they could be compared."""
    data = {"a": blobs, "b": blobs.with_validation(0.2)}
    given = r"got a with test examples, b with validation examples.*Use with_validation for all data sets"
    with pytest.raises(fnn.InputError, match=given):
        plain([{"learning_rate": 0.1}], data, halving=halving)
    members = [{"learning_rate": 0.1, "data": "a"}]
    assert plain(members, data, halving=halving).members[0].status == "finished"


# Interruptions and resumption


def test_an_interrupted_sweep_gives_what_was_finished(blobs, tmp_path):
    def stop(ended, count):
        if ended == 2:
            raise KeyboardInterrupt

    members = fnn.grid(learning_rate=[0.1], seed=range(6))
    epochs = 200  # with fewer, all may end while a member is written to a slow disk
    with pytest.warns(RuntimeWarning, match="Interrupted after . of 6"):  # as a script goes on with the best of them
        result = plain(members, blobs, on_epoch=stop, plan="sequential", epochs=epochs, out=tmp_path)
    statuses = [member.status for member in result.members]
    finished = statuses.count("finished")  # a member may end while the worker comes to a stop
    assert 2 <= finished < 6
    assert statuses == ["finished"] * finished + ["not run"] * (6 - finished)
    assert f"Interrupted after {finished} of 6" in result.message
    assert [member.status for member in read_sweep(tmp_path)[0].members] == statuses
    assert all(member.params is None for member in result.members[finished:])
    for a, b in zip(result.members[:finished], plain(members, blobs, epochs=epochs).members, strict=False):
        same(a, b)


def test_members_that_end_after_an_error_are_in_the_folder(blobs, tmp_path, monkeypatch):
    """Member 0 raises an error while another worker trains member 1."""
    run_epoch, other_has_begun = MemberBatch.run_epoch, threading.Event()

    def epoch_or_error(self):
        if self.histories[0].number == 0:
            other_has_begun.wait(10)
            raise RuntimeError("out of memory")
        other_has_begun.set()
        time.sleep(0.1)
        return run_epoch(self)

    monkeypatch.setattr(MemberBatch, "run_epoch", epoch_or_error)
    members = fnn.grid(learning_rate=[0.1], seed=range(2))
    with pytest.raises(RuntimeError, match="out of memory"):
        plain(members, blobs, plan=fnn.sweeps.Plan(2, 1), epochs=1, out=tmp_path)
    assert [member.status for member in read_sweep(tmp_path)[0].members] == ["not run", "finished"]


@pytest.mark.parametrize("halving", [None, fnn.sweeps.Halving((1, 2), keep=0.5)])
def test_finished_batches_are_not_run_again(halving, blobs, tmp_path, monkeypatch):
    members = fnn.grid(learning_rate=[0.1, 0.01, 0.2, 0.05])
    options = {"epochs": 3, "halving": halving, "out": tmp_path / "sweep"}
    first = plain(members, blobs, **options)
    batches = sorted((tmp_path / "sweep" / "batches").iterdir())
    for batch in batches[::2]:
        batch.unlink()
    ran, said = [], []
    monkeypatch.setattr("functional_nn.sweeps.sweep.progress_bar", lambda *about: nullcontext(said.append))
    again = plain(members, blobs, on_epoch=lambda ended, count: ran.append(ended), **options)
    assert first.restored == ()
    if halving is None:  # with halving, members have several files, and some of each are missing
        assert 0 < len(again.restored) < 4
        # They count from the first epoch on.
        assert ran[0] >= len(again.restored)
        assert ran[-1] == 4
        # The rate is that of the members that this call trained.
        trained = float(said[-1].split()[-3]) * again.seconds["total"]
        assert trained == pytest.approx(4 - len(again.restored), rel=0.5)
    assert 0 < len(ran) < sum(member.epochs for member in first.members)
    for a, b in zip(first.members, again.members, strict=True):
        same(a, b)
    ran.clear()
    whole = plain(members, blobs, on_epoch=lambda ended, count: ran.append(ended), **options)
    assert not ran
    assert whole.restored == (0, 1, 2, 3)


def test_a_sweep_goes_on_from_a_rung_of_halving(blobs, tmp_path):
    """Also with an optimizer whose state has random keys."""
    rule = lambda h: optax.chain(optax.add_noise(0.01, 0.55, 0), optax.sgd(h["learning_rate"]))  # noqa: E731
    members = fnn.grid(learning_rate=[0.1, 0.01, 0.2, 0.05])
    options = {"plan": "vmap:2", "halving": fnn.sweeps.Halving((1,), keep=0.5), "out": tmp_path}
    first = plain(members, blobs, rule, **options)
    for batch in (tmp_path / "batches").glob("*-end.safetensors"):
        batch.unlink()
    again = plain(members, blobs, rule, **options)
    assert again.restored == tuple(member.number for member in first.members if member.status == "halved")
    for a, b in zip(first.members, again.members, strict=True):
        same(a, b)


def test_a_folder_has_one_writer_who_removes_what_a_killed_one_left(blobs, tmp_path):
    (tmp_path / "batches").mkdir()
    for left in (".sweep.json.1", ".members.csv.1", "batches/.0-0-end.safetensors.1"):
        (tmp_path / f"{left}.functional_nn.tmp").write_text("half")
    plain([{"learning_rate": 0.1}], blobs, epochs=1, out=tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0-0-end.safetensors", "batches", "sweep.json"]
    with one_writer("it", tmp_path), pytest.raises(fnn.InputError, match=rf"out: .*process {os.getpid()} writes to"):
        plain([{"learning_rate": 0.1}], blobs, epochs=1, out=tmp_path)


def test_rbg_is_never_mapped(blobs, monkeypatch):
    """Under vmap it draws for all members from the first key, so a member's seed would not be its own."""
    members, rule = fnn.grid(seed=[3, 5]), optax.sgd(0.1)
    with jax.default_prng_impl("rbg"):
        with pytest.raises(
            fnn.InputError, match="plan: expected one that runs each member alone, because the generator"
        ):
            sweep(members, blobs, fnn.dense(3), rule, epochs=1, plan="vmap")
        monkeypatch.setattr(plans, "on_cpu", lambda: False)
        assert plans.planned("auto", [2]).members == 1
        both = sweep(members, blobs, fnn.dense(3), rule, epochs=1, plan="map")
        alone = sweep(members[1:], blobs, fnn.dense(3), rule, epochs=1, plan="map")
    np.testing.assert_array_equal(both.members[1].params["weight"], alone.members[0].params["weight"])
    assert plans.planned("auto", [2]).members > 1


# Devices


@pytest.mark.processes
def test_members_on_two_devices_are_the_same():
    python(
        """
        import jax, numpy as np, optax, functional_nn as fnn
        x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
        labels = (x.sum(1) > 0).astype(np.int32)
        data = fnn.data.Split(x, labels, x, labels)
        members = fnn.grid(learning_rate=[0.1, 0.2], seed=range(2))
        results = [fnn.sweep(fnn.dense(2), lambda h: optax.sgd(h["learning_rate"]), members, data, epochs=2,
                             plan=fnn.sweeps.Plan(*plan)) for plan in ((1, 1), (2, 1), (2, 2))]
        assert len(jax.devices()) == 2
        assert results[1].compilations <= 2
        losses = [result.curves("test_loss") for result in results]
        assert np.array_equal(losses[0], losses[1])
        np.testing.assert_allclose(losses[0], losses[2], rtol=1e-5)
        leaves = [jax.tree.leaves(member.params) for member in results[1].members]
        assert all(isinstance(leaf, np.ndarray) for member in leaves for leaf in member)
        with jax.default_device(jax.devices()[1]):  # members are on the devices of their workers all the same
            again = fnn.sweep(fnn.dense(2), lambda h: optax.sgd(h["learning_rate"]), members, data, epochs=2,
                              plan="sequential")
        assert np.array_equal(again.curves("test_loss"), losses[0])
        """,
        JAX_NUM_CPU_DEVICES="2",
    )


# What is refused

STATE = fnn.training.TrainState(0, {}, {}, (), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": []}, "grid: expected at least one member"),
        ({"grid": [{"learning_rate": 0.1}, {"rate": 0.1}]}, "member 1 that differs from the first in"),
        ({"grid": [{"learning_rate": float("nan")}]}, "learning_rate: expected finite numbers"),
        ({"grid": [{"learning_rate": 0.1, "seed": -1}]}, "seed: expected an integer from 0 to"),
        ({"grid": [{"learning_rate": 0.1, "batch_size": 1.5}]}, "member 0: batch_size: expected a positive integer"),
        ({"grid": [{"learning_rate": 0.1, "width": 3}]}, "a name that the model, the optimizer, the loss"),
        ({"grid": [{"rate": 0.1}]}, "hyper-parameter: expected a name in the grid, got 'learning_rate'"),
        ({"grid": [{"learning_rate": 0.1, "data": "x"}]}, "data: expected a dict of data sets by name"),
        ({"grid": [{"learning_rate": 0.1, "status": 1}]}, "grid: expected"),
        ({"grid": [{"learning_rate": 0.1, "steps": 5}]}, "that the sweep does not give a value itself, got steps"),
        ({"static": ["rates"]}, "static: expected names in the grid"),
        ({"halving": fnn.sweeps.Halving((2,))}, "halving: expected epochs before the last one, 2"),
        ({"halving": fnn.sweeps.Halving((1, 1))}, "halving: expected rising epochs"),
        ({"halving": fnn.sweeps.Halving(tuple(range(1, 66))), "epochs": 99}, "halving: expected at most 64 epochs"),
        ({"start": lambda h: STATE}, "member 0: start: expected a pair (params, state), got a TrainState"),
        ({"model": lambda h: 3}, "layers: expected layers"),
    ],
)
def test_bad_input_is_answered_before_anything_is_computed(changes, message, blobs):
    arguments = {"model": fnn.dense(3), "optimizer": lambda h: optax.sgd(h["learning_rate"])}
    arguments |= {"grid": [{"learning_rate": 0.1}], "data": blobs, "epochs": 2}
    with pytest.raises(fnn.InputError) as error:
        fnn.sweep(**(arguments | changes))
    assert message in str(error.value)


def test_a_bad_value_names_its_member(blobs):
    members = [{"dropout": 0.1}, {"dropout": 1.5}]
    with pytest.raises(fnn.InputError, match=r"member 1: rate: expected a number in \[0, 1\)"):
        sweep(members, blobs, lambda h: fnn.chain(fnn.dropout(h["dropout"]), fnn.dense(3)), optax.sgd(0.1))


LOSSES = (
    lambda y, labels, **options: 0,
    lambda y, labels, *, weight=1: 0,
    lambda y, labels, epsilon=0: 0,
    lambda y, *others: 0,
    lambda *arguments: 0,
)
MAKERS = lambda h, **options: fnn.cross_entropy, lambda h, scale=1: fnn.cross_entropy


@pytest.mark.parametrize("loss", [*LOSSES, *MAKERS])
def test_a_loss_is_told_from_a_function_that_makes_one(loss):
    made = RecipeFunctions(fnn.dense(3), optax.sgd(0.1), loss, None)({}).loss
    assert made is (loss if loss in LOSSES else fnn.cross_entropy)


# The plan


def test_memory_and_the_file_of_a_batch_bound_the_plan(blobs, monkeypatch):
    monkeypatch.setattr(plans, "cores", lambda: 4)
    members = fnn.grid(learning_rate=[0.1], seed=range(4))
    free = plain(members, blobs, plan="vmap:2")
    assert free.plan["members_at_once"] == 2
    monkeypatch.setattr(population, "memory_limit", lambda: 3_000)
    tight = plain(members, blobs, plan="vmap:2")
    assert tight.plan["members_at_once"] < 2 or tight.plan["workers"] < 2
    np.testing.assert_allclose(tight.curves("test_loss"), free.curves("test_loss"), rtol=1e-5)
    monkeypatch.undo()
    monkeypatch.setattr(population, "MOST_ARRAYS", 20)  # two members have no more, three have
    assert plain(members, blobs, plan="vmap:4").plan["members_at_once"] == 2
