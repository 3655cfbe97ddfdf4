"""``sweep``: training of many models, one for each member of a grid."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import jax

from functional_nn.core.display import progress_bar
from functional_nn.core.errors import InputError, check, inside, shown
from functional_nn.core.shapes import shape_of
from functional_nn.core.texts import suggest
from functional_nn.core.validation import check_count, check_flag, check_function, check_part
from functional_nn.data.dataset import Dataset, Split, as_split
from functional_nn.losses.classification import cross_entropy
from functional_nn.losses.loss import Loss
from functional_nn.storage.arrays import checksum_of
from functional_nn.storage.files import as_json, check_new_folder
from functional_nn.storage.identity import IDENTITY
from functional_nn.sweeps.grid import Hyperparameters, check_grid, crossed
from functional_nn.sweeps.member_batch import Halving
from functional_nn.sweeps.plan import Plan, planned
from functional_nn.sweeps.population import Population
from functional_nn.sweeps.results import SweepResult, check_names
from functional_nn.sweeps.static_groups import static_groups
from functional_nn.sweeps.store import AT_ONCE, Store, opened_store
from functional_nn.training import recipe
from functional_nn.training.argument_checks import check_metrics, check_patience, check_seed
from functional_nn.training.evaluate import SMALLER_IS_BETTER, larger_is_better
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.processes import Interruption, Processes
from functional_nn.training.state import SETTING_OF_BITS


def sweep(
    model: recipe.ModelFunction,
    optimizer: recipe.OptimizerFunction,
    grid: Sequence[Mapping[str, object]],
    data: Dataset | Split | Mapping[str, Dataset | Split],
    *,
    loss: recipe.LossMaker = cross_entropy,
    penalty: recipe.PenaltyMaker = None,
    metrics: Mapping[str, recipe.MetricFunction] | None = None,
    gradient: recipe.Gradient = "auto",
    start: recipe.StartMaker = None,
    epochs: int = 10,
    batch_size: int = 64,
    precision: str | Precision = "float32",
    static: Sequence[str] = (),
    plan: str | Plan = "auto",
    patience: int | None = None,
    halving: Halving | None = None,
    keep: bool = True,
    part: tuple[int, int] | None = None,
    out: str | os.PathLike[str] | None = None,
    identity: str | Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Trains one model for each member of a grid, and evaluates each model after every epoch.

    ``model``, ``optimizer``, ``loss`` and ``penalty`` are what ``fit`` takes, or functions that make it from the
    hyper-parameters ``h`` of a member. Besides the names of the grid, ``h`` has ``epochs``, ``batch_size`` and
    ``steps``, the number of updates of the whole run.

    Numbers with a decimal point are traced: members that differ only in them share a compiled program. Everything else
    (sizes, names, ``epochs``, ``batch_size``) makes a static group, which is compiled once.

    The ``seed`` of a member (0 if the grid has none) determines its initial values, its noise and the order of its
    data, as in ``fit``. If a value of a member is not finite, the member keeps its last finite state, with a status and
    the step at which it happened. The other members continue unchanged.

    Ctrl-C ends the sweep with a warning, and the finished members are returned: ``result.message`` then says how many
    they are. With ``out``, the same call continues.

    Args:
        model: a ``Layer``, or a function ``h -> Layer``.
        optimizer: an Optax transformation, or a function that makes one.
        grid: a dict of hyper-parameters for each member: ``grid(…)``, ``zipped(…)``, ``draws(…)``, ``crossed(…)``.
        data: as for ``fit``; or several data sets by name (``folds(…)``). Each is used for the members whose ``data``
            names it. If the grid has no ``data``, every member is trained on each of them. All of them have validation
            examples, or none has.
        loss: a ``Loss``, any function of outputs and labels, or a function ``h ->`` one of these.
        penalty: a ``Penalty``, or a function ``h ->`` any function of the parameters.
        metrics: as for ``fit``. If the name of a metric ends in ``loss``, ``error``, ``mae``, ``mse``, ``rmse``,
            ``brier_score`` or ``perplexity``, smaller numbers are better, otherwise larger ones; so a ``Loss`` must
            have such a name.
        gradient, epochs, batch_size, precision: as for ``fit``.
        start: ``(params, state)`` to start from in place of initial values, or a function ``h -> (params, state)``.
        static: names of numbers that are not traced, because a function needs their values.
        plan: how many members are trained at a time: ``"auto"``, ``"sequential"``, ``"map"``, ``"vmap"``, ``"vmap:16"``
            or a ``Plan``. Without ``vmap``, each member has the same bits as if it were trained alone.
        patience: stops a member early if its loss on the evaluated examples has not improved for this many epochs.
        halving: successive halving: after certain epochs only the best members go on.
        keep: whether the result has the parameters and state of the members.
        part: ``(k, n)`` trains one of n parts of the sweep: the members with the numbers k - 1, k - 1 + n, k - 1 + 2 n
            and so on. Each part can run on a computer of its own. ``merge`` puts their folders together.
        out: a folder for finished members. The same sweep with the same folder continues. A sweep that would have other
            results is an error.
        identity: text, or a dict that JSON can hold, that makes this sweep different from others. It is needed only
            for what cannot be compared: Python functions that the programs call.
        defaults: the values of ``identity`` that a folder from before these were added does not have.
        on_epoch: called after each epoch of a batch of members with two numbers: of members that have ended, and of
            all members.
        progress: whether to show a progress bar; by default on a terminal and in a notebook.

    Returns:
        A ``SweepResult``: ``result.members`` has the history and status of each member, in the order of the grid, and
        ``result.best()`` is the best of them. The result of a part has the members of this part only.

    Raises:
        InputError: for arguments that do not fit, with the number of the member, before anything is computed.

    >>> import functional_nn as fnn, optax
    >>> members = fnn.grid(learning_rate=[1e-3, 1e-2], seed=range(2))
    >>> data = fnn.load_dataset("mnist5k")
    >>> result = fnn.sweep(fnn.dense(10), lambda h: optax.adam(h["learning_rate"]), members, data, epochs=1)
    >>> result.compilations, [member.status for member in result.members]
    (1, ['finished', 'finished', 'finished', 'finished'])
    """
    clock = time.perf_counter()
    named = check_metrics(metrics)
    check_names_of_losses(named or ())
    make_recipe = recipe.RecipeFunctions(model, optimizer, loss, penalty, named, gradient, start)
    policy = as_precision(precision)
    members, by_name = _with_data(check_grid(grid), data)
    check_names(members[0])
    epochs, batch_size = check_count("epochs", epochs), check_count("batch_size", batch_size)
    patience = check_choices(members, by_name, patience)
    check_options(static, halving, keep, on_epoch, progress)
    if part is not None:
        check_part_of_sweep(part, len(members), halving)
    numbers = range(len(members)) if part is None else range(part[0] - 1, len(members), part[1])
    out = None if out is None else check_new_folder("out", out)
    if (processes := jax.process_count()) > 1:  # each would do the same work
        remedy = "Start each process without jax.distributed, and give each a part of the sweep: part=(k, n)."
        raise InputError("sweep", "one process", f"{processes} processes of jax.distributed", remedy)

    # Members with equal static values share compiled programs. The population compiles them for the plan.
    groups = static_groups(make_recipe, members, by_name, epochs=epochs, batch_size=batch_size, static=static)
    if halving is not None:
        halving = halving.checked(min(group.epochs for group in groups))
    # A program trains members of one group that have the same data. If members leave early, their places in a program
    # that is mapped over members are lost, so "auto" is then not told how small they are.
    places = {number: place for place, group in enumerate(groups) for number in group.members}
    sizes = Counter((places[number], members[number]["data"]) for number in numbers).values()
    leave_early = patience is not None or halving is not None
    chosen = planned(plan, list(sizes), [] if leave_early else [group.spec(policy) for group in groups])
    population = Population(groups, members, numbers, policy, chosen, keep=keep, patience=patience)
    check_names(members[0], {name for group in groups for name in group.metric_names})

    store: AbstractContextManager[Store | None] = nullcontext()
    if out is not None:
        settings = {
            "grid": members,
            "data": {name: checksum_of("data", part._asdict()) for name, part in by_name.items()},
            "epochs": epochs,
            "batch_size": batch_size,
            "precision": [str(part) for part in policy],
            "patience": patience,
            "halving": None if halving is None else list(halving),
            "keep": keep,
            "static": list(static),
            SETTING_OF_BITS: getattr(jax.config, SETTING_OF_BITS),
            IDENTITY: as_json("identity", identity),
            AT_ONCE: population.plan.members,
        }
        store = opened_store(out, settings | population.identity(), defaults)

    # All members are trained up to each rung of successive halving; the best go on to the next, and at last to the end.
    rungs = () if halving is None else halving.epochs
    message = ""
    bar = progress_bar("sweep", population.batch_epochs, progress)
    with store as opened, Interruption(Processes()) as interruption, bar as advance:
        try:
            for rung in (*rungs, None):
                with closing(population.train(rung, opened)) as steps:
                    for _ in steps:
                        if on_epoch is not None:
                            on_epoch(population.ended, len(numbers))
                        interruption.check()
                        rate = (population.ended - population.ended_before) / (time.perf_counter() - clock)
                        advance(f"{population.ended} of {len(numbers)} models, {rate:.2f} a second")
                if halving is not None and rung is not None:
                    population.leave_out(halving)
        except KeyboardInterrupt:
            message = f"Interrupted after {population.ended} of {len(numbers)} members; the finished ones are kept."
    seconds, compile_seconds = time.perf_counter() - clock, sum(group.seconds for group in groups)
    # The name of the data is no hyper-parameter of the result if there is only one data set.
    shown_names = [name for name in members[0] if name != "data" or isinstance(data, Mapping)]
    if message:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return SweepResult(
        members=tuple(
            population.histories[number].result({name: members[number][name] for name in shown_names})
            for number in numbers
        ),
        model=model,
        precision=precision,
        in_shape=shape_of(next(iter(groups[0].splits.values())).train_x),
        plan={
            "name": str(population.plan),
            "workers": population.plan.workers,
            "members_at_once": population.plan.members,
            "groups": len(groups),
        },
        compilations=sum(group.compilations for group in groups),
        seconds={
            "compile": compile_seconds,
            "train": seconds - compile_seconds,
            "total": seconds,
        },
        message=message,
        restored=population.restored,
    )


def check_options(static: Any, halving: object, keep: object, on_epoch: object, progress: object) -> None:
    is_list = isinstance(static, Sequence) and not isinstance(static, str)
    check("static", static, "a list of names", is_list and all(isinstance(name, str) for name in static))
    check("halving", halving, "a Halving(epochs, keep)", halving is None or isinstance(halving, Halving))
    check_flag("keep", keep)
    if on_epoch is not None:
        expected = "a function of two numbers: of members that have ended, and of all"
        check_function("on_epoch", on_epoch, expected, "ended, members")
    if progress is not None:
        check_flag("progress", progress)


def check_names_of_losses(metrics: Iterable[tuple[str, recipe.MetricFunction]]) -> None:
    """Raises an InputError if the name of a loss among the metrics says that larger numbers are better."""
    for name, metric in metrics:
        if isinstance(metric, Loss) and larger_is_better(name):
            remedy = f"Name it {name}_loss: then smaller numbers are better."
            expected = f"a name that ends in {', '.join(SMALLER_IS_BETTER)} for a loss"
            raise InputError("metrics", expected, shown(name), remedy)


def check_choices(members: list[Hyperparameters], data: Mapping[str, Split], patience: object) -> int | None:
    """Checks what is chosen for each member and for all; returns ``patience`` as a plain number."""
    for number, member in enumerate(members):
        with inside(f"member {number}"):
            check_seed(member["seed"])
    parts = {member["data"]: data[member["data"]].evaluated_part for member in members}
    if len(set(parts.values())) > 1:
        expected = "data sets that are all evaluated on the same part: validation examples, test examples, or none"
        given = ", ".join(f"{name} with {part or 'no'} examples" for name, part in parts.items())
        remedy = "Members are compared on the same part. Use with_validation for all data sets, or for none."
        raise InputError("data", expected, given, remedy)
    return None if patience is None else check_patience(patience, next(iter(parts.values())))


def check_part_of_sweep(part: object, members: int, halving: object, *, flag: str = "part") -> None:
    """Requires ``(k, n)`` with 1 <= k <= n, for a sweep that can be divided among n computers."""
    _, parts = check_part(flag, part)
    if parts > members:
        raise InputError(flag, f"at most {members} parts, the number of members", f"{parts} parts")
    if halving is not None:
        remedy = "Each part would choose its best members without those of the others."
        raise InputError(flag, "a sweep without successive halving", "halving too", remedy)


def _with_data(
    members: list[Hyperparameters], data: Dataset | Split | Mapping[str, Dataset | Split]
) -> tuple[list[Hyperparameters], Mapping[str, Split]]:
    """The members, each with a seed and the name of its data, and the data sets by name."""
    if "seed" not in members[0]:
        members = [member | {"seed": 0} for member in members]
    if not isinstance(data, Mapping):
        if "data" in members[0]:
            raise InputError("data", "a dict of data sets by name, because the grid has data", type(data).__name__)
        return [member | {"data": ""} for member in members], {"": as_split(data)}
    if not data:
        raise InputError("data", "at least one data set", "none")
    splits: dict[str, Split] = {}
    for name, part in data.items():
        with inside(name):
            splits[name] = as_split(part)
    if "data" not in members[0]:
        return crossed(members, [{"data": name} for name in data]), splits
    for number, member in enumerate(members):
        if member["data"] not in data:
            remedy = suggest(str(member["data"]), data)
            raise InputError("grid", "the name of a data set", f"{member['data']!r} for member {number}", remedy)
    return members, splits
