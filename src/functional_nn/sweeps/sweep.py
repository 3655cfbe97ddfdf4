"""Train a population: every member exactly the run it would have been alone, as many at a time as is fastest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from functional_nn.core.errors import InputError, suggest
from functional_nn.core.progress import progress_bar
from functional_nn.core.validation import check_flag, check_function, shown
from functional_nn.data.dataset import Dataset, Split
from functional_nn.losses.multiclass import cross_entropy
from functional_nn.storage.arrays import checksum
from functional_nn.storage.files import check_new_folder
from functional_nn.storage.identity import as_json
from functional_nn.sweeps.execution.halving import Halving
from functional_nn.sweeps.execution.plan import Plan, planned
from functional_nn.sweeps.execution.population import Population
from functional_nn.sweeps.execution.static_groups import static_groups
from functional_nn.sweeps.execution.store import Store
from functional_nn.sweeps.grid.grid import Hyperparameters, check_grid, crossed
from functional_nn.sweeps.results.member import check_names
from functional_nn.sweeps.results.results import SweepResult
from functional_nn.training.fit import as_arrays
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.programs.devices import check_single_process
from functional_nn.training.programs.recipe import LossOf, Model, Optimizer, PenaltyOf, RecipeOf
from functional_nn.training.resilience.interruption import Interruption


def sweep(
    model: Model,
    optimizer: Optimizer,
    grid: Sequence[Mapping[str, Any]],
    data: Dataset | Split | Mapping[str, Dataset | Split],
    *,
    loss: LossOf = cross_entropy,
    penalty: PenaltyOf = None,
    epochs: int = 10,
    batch_size: int = 64,
    precision: str | Precision = "float32",
    static: Sequence[str] = (),
    plan: str | Plan = "auto",
    exact: bool = False,
    order_seed: int | None = None,
    patience: int | None = None,
    halving: Halving | None = None,
    keep: bool = True,
    out: str | os.PathLike[str] | None = None,
    identity: str | Mapping[str, Any] | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Trains one model for each member of a grid, and evaluates each after every epoch.

    ``model``, ``optimizer``, ``loss`` and ``penalty`` are what ``fit`` takes, or functions of the hyper-parameters
    ``h`` that make it. Numbers with a decimal point are traced, so that members that differ in them share a program.
    Anything else (sizes, names, ``epochs``, ``batch_size``) makes a static group, which is compiled once. Besides the
    grid's names there are ``h["epochs"]``, ``h["batch_size"]`` and ``h["steps"]``, the updates of the whole run.

    A member's ``seed`` (0 where the grid has none) makes its initial values, noise and order of data, as in ``fit``. A
    member that meets a number that is not finite keeps its last finite state, with the status and the step; the others
    go on unchanged. Ctrl-C ends the sweep, and what was finished is returned.

    Args:
        model: a ``Layer``, or ``h -> Layer``.
        optimizer: an Optax transformation, or ``h ->`` one.
        grid: a dict of hyper-parameters for each member: ``grid(…)``, ``zipped(…)``, ``draws(…)``, ``crossed(…)``.
        data: as for ``fit``; or several by name (``folds(…)``), each for the members whose ``data`` says so, or all
            for every member where the grid has no ``data``.
        loss: a ``Loss``, any function of outputs and labels, or ``h ->`` one of these.
        penalty: a ``Penalty``, or ``h ->`` any function of the parameters.
        epochs, batch_size, precision: as for ``fit``.
        static: names of numbers that are not to be traced, for functions that look at them.
        plan: how to run it, see ``Plan``. ``"auto"`` measures in the first epochs whether several at a time are faster
            than one after another, and remembers that for the device.
        exact: that each member's bits are those of the member alone; refuses plans that do not promise it.
        order_seed: of one order of the data for all members; None for each its own.
        patience: a member whose test loss was better so many epochs ago is stopped early.
        halving: successive halving: at certain epochs only the best go on.
        keep: whether the result has the members' parameters and state.
        out: a folder for finished chunks. The same sweep with the same folder goes on where it was; a sweep that
            differs in anything that changes its results is refused.
        identity: what else makes this sweep another one than those before, as text or a dict of what JSON can hold.
            It is needed only for what cannot be compared: functions that the programs call in Python.
        on_epoch: called after each epoch of a chunk with how many members have ended, and how many there are.
        progress: whether to show a progress bar; by default on a terminal.

    Raises:
        InputError: for arguments that do not fit, with the member's number, before anything is computed.

    >>> import functional_nn as fnn, optax
    >>> members = fnn.grid(learning_rate=[1e-3, 1e-2], seed=range(2))
    >>> data = fnn.load_dataset("mnist5k")
    >>> result = sweep(fnn.dense(10), lambda h: optax.adam(h["learning_rate"]), members, data, epochs=1)
    >>> result.compilations, [member.status for member in result.members]
    (1, ['finished', 'finished', 'finished', 'finished'])
    """
    clock = time.perf_counter()
    policy = as_precision(precision)
    members, by_name = _with_data(check_grid(grid), data)
    check_names(members[0])
    _check_choices(members, order_seed, patience)
    recipe_of = RecipeOf(model, optimizer, loss, penalty)
    recipe_of.check()
    _check_options(static, halving, keep, exact, on_epoch, progress)
    out = None if out is None else check_new_folder("out", out)
    check_single_process("sweep")
    groups = static_groups(recipe_of, members, by_name, epochs=epochs, batch_size=batch_size, static=static)
    if halving is not None:
        halving.check(min(group.epochs for group in groups))
    chosen = planned(plan, max(len(group.members) for group in groups), len(groups), exact=exact)
    rules = {
        "measure": isinstance(plan, str) and plan == "auto",
        "keep": keep,
        "order_seed": order_seed,
        "patience": patience,
    }
    population = Population(groups, members, by_name, policy, chosen, **rules)

    store: Store | nullcontext[None] = nullcontext()
    if out is not None:
        own = {
            "grid": members,
            "data": {name: _digest(part) for name, part in by_name.items()},
            "epochs": epochs,
            "batch_size": batch_size,
            "precision": [str(part) for part in policy],
            "order_seed": order_seed,
            "patience": patience,
            "halving": halving and list(halving),
            "keep": keep,
            "members_a_chunk": population.plan.members,
            "static": list(static),
            "identity": as_json("identity", identity),
        }
        store = Store(out, own | population.identity())

    rungs = () if halving is None else halving.epochs
    message = ""
    bar = progress_bar("sweep", population.chunk_epochs, progress)
    with store as kept, Interruption() as interruption, bar as advance:
        try:
            for rung in (*rungs, None):
                for _ in population.train(rung, kept):
                    if on_epoch is not None:
                        on_epoch(population.ended, len(members))
                    interruption.check()
                    rate = population.ended / max(time.perf_counter() - clock, 1e-9)
                    advance(f"{population.ended} of {len(members)} models, {rate:.2f} a second")
                if halving is not None and rung is not None:
                    population.leave_out(halving)
        except KeyboardInterrupt:
            message = f"Interrupted after {population.ended} of {len(members)} members; what was finished is kept."
    train = time.perf_counter() - clock - population.compile_seconds
    given = [name for name in members[0] if name != "data" or isinstance(data, Mapping)]
    return SweepResult(
        members=tuple(population.member(number, given) for number in range(len(members))),
        model=model,
        precision=precision,
        in_shape=population.in_shape,
        plan=population.described(),
        compilations=population.compilations,
        seconds={"compile": population.compile_seconds, "train": train, "total": time.perf_counter() - clock},
        message=message,
        static=tuple(static),
    )


def _with_data(
    members: list[Hyperparameters], data: Any
) -> tuple[list[Hyperparameters], Mapping[str, Dataset | Split]]:
    """Members that each have a seed and the name of their data."""
    if "seed" not in members[0]:
        members = [member | {"seed": 0} for member in members]
    if not isinstance(data, Mapping):
        if "data" in members[0]:
            raise InputError("data", "a dict of data sets by name, since the grid has data", type(data).__name__)
        return [member | {"data": ""} for member in members], {"": as_arrays(data)}
    if not data:
        raise InputError("data", "at least one data set", "none")
    data = {name: as_arrays(part) for name, part in data.items()}
    if "data" not in members[0]:
        return crossed(members, [{"data": name} for name in data]), data
    for number, member in enumerate(members):
        if member["data"] not in data:
            remedy = suggest(str(member["data"]), data)
            raise InputError("grid", "the name of a data set", f"{member['data']!r} for member {number}", remedy)
    return members, data


def _check_options(static: Any, halving: Any, keep: Any, exact: Any, on_epoch: Any, progress: Any) -> None:
    if isinstance(static, str) or not isinstance(static, Sequence) or not all(isinstance(name, str) for name in static):
        raise InputError("static", "a list of names", shown(static))
    if halving is not None and not isinstance(halving, Halving):
        raise InputError("halving", "a Halving(epochs, keep, metric)", shown(halving))
    check_flag("keep", keep)
    check_flag("exact", exact)
    if on_epoch is not None:
        check_function("on_epoch", on_epoch, "a function of two numbers, of members that have ended and of all")
    if progress is not None:
        check_flag("progress", progress)


def _check_choices(members: list[Hyperparameters], order_seed: Any, patience: Any) -> None:
    for number, member in enumerate(members):
        if not _is_count(member["seed"], 0, 2**32 - 1):
            raise InputError("seed", "an integer from 0 to 2**32 - 1", f"{member['seed']!r} for member {number}")
    if order_seed is not None and not _is_count(order_seed, 0, 2**32 - 1):
        raise InputError("order_seed", "an integer from 0 to 2**32 - 1", repr(order_seed))
    if patience is not None and not _is_count(patience, 1, 2**31):
        raise InputError("patience", "a positive integer", repr(patience))


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _digest(data: Dataset | Split) -> str:
    return checksum({str(place): part for place, part in enumerate(data) if hasattr(part, "dtype")})
