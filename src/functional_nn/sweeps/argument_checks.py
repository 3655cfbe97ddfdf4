"""Checks of the arguments of ``sweep``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from functional_nn.core.errors import InputError, inside
from functional_nn.core.validation import check_count, check_flag, check_function, check_part, shown
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.preparation import as_split
from functional_nn.losses.loss import Loss
from functional_nn.sweeps.execution.halving import Halving
from functional_nn.sweeps.grid.grid import Hyperparameters
from functional_nn.training.argument_checks import check_patience, check_seed
from functional_nn.training.epoch_metrics import SMALLER_IS_BETTER, larger_is_better
from functional_nn.training.evaluate import MetricFunction


def check_options(
    static: object, halving: object, keep: object, exact: object, on_epoch: object, progress: object
) -> None:
    if isinstance(static, str) or not isinstance(static, Sequence) or not all(isinstance(name, str) for name in static):
        raise InputError("static", "a list of names", shown(static))
    if halving is not None and not isinstance(halving, Halving):
        raise InputError("halving", "a Halving(epochs, keep, metric)", shown(halving))
    check_flag("keep", keep)
    check_flag("exact", exact)
    if on_epoch is not None:
        expected = "a function of two numbers: of members that have ended, and of all"
        check_function("on_epoch", on_epoch, expected, "ended, members")
    if progress is not None:
        check_flag("progress", progress)


def check_names_of_losses(metrics: Mapping[str, MetricFunction] | None) -> None:
    """Raises an InputError if the name of a loss among the metrics says that larger numbers are better."""
    for name, metric in (metrics or {}).items():
        if isinstance(metric, Loss) and larger_is_better(name):
            remedy = f"Name it {name}_loss: then smaller numbers are better."
            expected = f"a name that ends in {', '.join(SMALLER_IS_BETTER)} for a loss"
            raise InputError("metrics", expected, repr(name), remedy)


def check_choices(
    members: list[Hyperparameters], data: Mapping[str, Dataset | Split], order_seed: object, patience: object
) -> tuple[int | None, int | None]:
    """Checks what is chosen for each member and for all; returns ``order_seed`` and ``patience`` as plain numbers."""
    for number, member in enumerate(members):
        with inside(f"member {number}"):
            check_seed("seed", member["seed"])
    parts = {name: _evaluated_part(data[name]) for name in dict.fromkeys(member["data"] for member in members)}
    if len(set(parts.values())) > 1:
        expected = "data sets that are all evaluated on the same part: validation examples, test examples, or none"
        given = ", ".join(f"{name} with {part or 'no'} examples" for name, part in parts.items())
        remedy = "Members are compared on the same part. Use with_validation for all data sets, or for none."
        raise InputError("data", expected, given, remedy)
    if patience is not None:
        for part in data.values():
            check_patience(patience, as_split(part))
    return (
        None if order_seed is None else check_seed("order_seed", order_seed),
        None if patience is None else check_count("patience", patience),
    )


def check_part_of_sweep(part: object, members: int, halving: object, *, flag: str = "part") -> None:
    """Requires ``(k, n)`` with 1 <= k <= n, for a sweep that can be divided among n computers."""
    _, parts = check_part(flag, part)
    if parts > members:
        raise InputError(flag, f"at most {members} parts, the number of members", f"{parts} parts")
    if halving is not None:
        remedy = "Each part would choose its best members without those of the others."
        raise InputError(flag, "a sweep without successive halving", "halving too", remedy)


def _evaluated_part(data: Dataset | Split) -> str | None:
    return (data.split() if isinstance(data, Dataset) else data).evaluated_part
