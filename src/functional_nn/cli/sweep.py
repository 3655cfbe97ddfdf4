"""``functional-nn sweep``: training many models in one call, and the table of their results."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from functional_nn.cli import ARGUMENTS
from functional_nn.cli.merge import write_merged, write_sweep_files
from functional_nn.cli.signals import Signals
from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.cli.submitted import submitted_sweep
from functional_nn.configuration.flag_types import (
    ACTIVATIONS,
    COUNT,
    COUNT_OR_ZERO,
    GRADIENTS,
    IMAGE_COLOR,
    IMAGE_SIZE,
    JSON_FILE,
    METRICS,
    MODELS,
    NOT_NEGATIVE,
    OPTIMIZERS,
    POSITIVE,
    PRECISIONS,
    RECIPE,
    SCHEDULES,
    SEED,
    SHARE,
    FlagValue,
    Named,
    Part,
    Setting,
    Several,
    Sizes,
    is_given,
    metrics_by_name,
)
from functional_nn.configuration.run_configuration import Configuration, flag_of
from functional_nn.core.errors import InputError
from functional_nn.core.texts import counted

if TYPE_CHECKING:
    from functional_nn.training.recipe import Hyperparameters

NOT_FOR_PARTS = ("--submit", "--job", "--out", "--json")
"""Flags with a value that a part does not get, or gets with another value."""
Command = TypeVar("Command", bound=Callable[..., object])


def axis(
    name: str, kind: click.ParamType, default: str | None, help: str, *, metavar: str = "NUMBERS", separator: str = ","
) -> Callable[[Command], Command]:
    """A flag that takes several values of one type, with a separator between them, and is one of ``AXES``."""
    return click.option(name, type=Several(kind, separator), default=default, metavar=metavar, help=help)


@click.command(context_settings={"show_default": True})
@click.option("--dataset", default="mnist5k", metavar="NAME", help="As for train.")
@click.option("--data-dir", metavar="DIR", help="Folder of IDX files, or a prepared TFDS folder.")
@IMAGE_SIZE
@IMAGE_COLOR
@RECIPE
@axis("--model", Named(MODELS), "mlp", f"Some of: {', '.join(MODELS)}.", metavar="NAMES")
@axis(
    "--hidden",
    Sizes(),
    None,
    "Hidden sizes, one list or several: 128,64/256.  [default: the model's]",
    metavar="SIZES",
    separator="/",
)
@axis("--activation", Named(ACTIVATIONS), None, "Activations by name.  [default: the model's]", metavar="NAMES")
@axis("--dropout", SHARE, "0", "Shares of hidden outputs to drop.")
@click.option("--validation", type=SHARE, default=0.0, help="As for train.")
@click.option("--batch-norm", is_flag=True, help="Normalize each hidden layer over the batch.")
@axis("--shift", COUNT_OR_ZERO, "0", "Places that training images move by at most.")
@axis("--deform", SHARE, "0", "Largest stretches and slants of training images.")
@axis("--l1", NOT_NEGATIVE, "0", "Rates of the penalty rate · Σ|w|.")
@axis("--l2", NOT_NEGATIVE, "0", "Rates of the penalty rate/2 · Σw².")
@axis("--optimizer", Named(OPTIMIZERS), "adam", f"Some of: {', '.join(OPTIMIZERS)}.", metavar="NAMES")
@axis("--learning-rate", POSITIVE, "1e-3", "Learning rates.")
@axis("--weight-decay", NOT_NEGATIVE, None, "Decays of the weights, for sgd, adamw and their like.")
@axis("--clip-norm", POSITIVE, None, "Largest norms of a step's gradient.  [default: none]")
@axis("--schedule", Named(SCHEDULES), "constant", f"Some of: {', '.join(SCHEDULES)}.", metavar="NAMES")
@axis("--epochs", COUNT, "10", "Passes over the training data.")
@axis("--batch-size", COUNT, "64", "Examples in a step.")
@click.option("--seeds", type=COUNT, default=1, help="Models of each setting, with consecutive seeds.")
@click.option("--seed", type=SEED, default=0, help="The first seed.")
@click.option("--grid", "grid_file", type=click.Path(path_type=Path), help="TOML file of settings.")
@click.option("--precision", type=Named(PRECISIONS), default="float32", help="The type the networks compute in.")
@click.option("--gradient", type=Named(GRADIENTS), default="auto", help="As for train.")
@click.option("--plan", default="auto", help="auto, sequential, map, vmap, or vmap:N for batches of N.")
@click.option("--patience", type=COUNT, help="Stop a model after this number of epochs without a lower loss.")
@METRICS
@click.option(
    "--halving", type=Several(COUNT), metavar="EPOCHS", help="After each of these epochs, only the best models go on."
)
@click.option(
    "--halving-keep",
    type=SHARE,
    default=1 / 3,
    show_default="1/3",
    help="Share of the models that go on at each epoch of --halving.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for finished models, tables, pictures and report.html. After an interruption the same command "
    "goes on there.",
)
@click.option(
    "--part",
    type=Part(),
    metavar="K/N",
    help="Train the K-th of N parts only, each on a computer of its own. Then functional-nn merge puts their folders "
    "together.",
)
@click.option(
    "--submit",
    "number_of_parts",
    type=COUNT,
    metavar="N",
    help="Run N parts as jobs of Slurm, or without Slurm as processes on the CPU of this computer, and merge them.",
)
@click.option(
    "--job",
    "job_settings",
    type=Setting(),
    multiple=True,
    help="A setting of the jobs of --submit, such as slurm_partition=gpu or gpus_per_node=1; repeatable. Slurm needs "
    "timeout_min=MINUTES.",
)
@JSON_FILE
@COMPILATION_CACHE
@click.option("--quiet", is_flag=True, help="Print the table only.")
@click.pass_obj
def sweep(
    signals: Signals,
    out: Path | None,
    part: tuple[int, int] | None,
    number_of_parts: int | None,
    job_settings: tuple[tuple[str, int | float | str], ...],
    json_file: Path | None,
    quiet: bool,
    seeds: int,
    grid_file: Path | None,
    plan: str,
    patience: int | None,
    metrics: list[str] | None,
    halving: list[int] | None,
    halving_keep: float,
    **flags: FlagValue,
) -> int:
    """Train a model for every combination of values and seeds, and print which are best.

    Flags take values separated by commas: --learning-rate 1e-3,3e-3 --dropout 0,0.2 --seeds 8 trains 32 models. The
    file of --grid can have numbers that are drawn.
    """
    clock = time.perf_counter()
    with importing():
        import jax

        from functional_nn.cli.info import versions
        from functional_nn.losses.classification import cross_entropy
        from functional_nn.storage.files import check_new_folder, folder_to_write, write_json
        from functional_nn.sweeps.grid import crossed, grid
        from functional_nn.sweeps.member_batch import Halving
        from functional_nn.sweeps.sweep import sweep as run_sweep

    if flags["precision"] == "float64":
        jax.config.update("jax_enable_x64", True)
    seconds_import = time.perf_counter() - clock
    base, members = _members(flags, grid_file)
    if "seed" not in members[0]:
        members = crossed(members, grid(seed=range(flags["seed"], flags["seed"] + seeds)))
    _check_part_flags(part, number_of_parts, job_settings, len(members), halving, out)
    if number_of_parts is not None and out is not None:  # _check_part_flags requires both
        # A link in the path could lead elsewhere while the jobs run.
        out = check_new_folder("out", out).resolve()
        arguments = _shared_by_parts(click.get_current_context().meta[ARGUMENTS])
        merged = submitted_sweep(arguments, number_of_parts, dict(job_settings), out, signals, quiet=quiet)
        if merged is None:
            return signals.status
        write_merged(merged, out, json_file, quiet=quiet)
        return 0
    data = base.load_data(progress=False if quiet else None)
    chosen_metrics = metrics_by_name(metrics)
    if not quiet:
        click.echo(data.describe())
        of_part = "" if part is None else f"part {part[0]} of {part[1]} of "
        click.echo(f"{of_part}{counted(len(members), 'model')} on {jax.devices()[0].device_kind}")

    def on_epoch(ended: int, count: int) -> None:
        signals.defer()
        signals.check()

    if out is not None:
        click.get_current_context().with_resource(folder_to_write("--out", out))
    result = run_sweep(
        lambda h: _configuration(base, h).network(data.classes),
        lambda h: _configuration(base, h).transformation(len(data.train_images)),
        members,
        data,
        loss=cross_entropy,
        penalty=lambda h: _configuration(base, h).penalty(),
        metrics=chosen_metrics,
        epochs=base.epochs,
        batch_size=base.batch_size,
        precision=base.precision,
        plan=plan,
        patience=patience,
        halving=None if halving is None else Halving(tuple(halving), halving_keep),
        keep=out is not None,
        part=part,
        out=out,
        identity=base.settings(),
        on_epoch=on_epoch,
        progress=False if quiet else None,
    )
    click.echo(result)
    if out is not None and result.message:
        click.echo("The same command continues the sweep.")
    if out is not None:
        write_sweep_files(out, result, quiet=quiet)
        if part is not None and not result.message and not quiet:
            click.echo("When all parts have ended: functional-nn merge FOLDERS --out FOLDER")
    if json_file is not None:
        about = {"config": base.to_dict(), "versions": versions(), "device": jax.devices()[0].device_kind}
        write_json(json_file, result.to_dict() | {"seconds_import": seconds_import, **about})
    return signals.status if result.message else 0


AXES = tuple(
    flag.name for flag in sweep.params if isinstance(flag.type, Several) and flag.name not in ("metrics", "halving")
)
"""The flags that take several values, one for each member."""


def _check_part_flags(
    part: tuple[int, int] | None,
    number_of_parts: int | None,
    job_settings: Collection[object],
    members: int,
    halving: object,
    out: Path | None,
) -> None:
    """Requires flags for parts that go together, before anything is loaded or submitted."""
    from functional_nn.sweeps.sweep import check_part_of_sweep

    if part is not None and number_of_parts is not None:
        raise InputError("--submit", "a whole sweep", f"--part {part[0]}/{part[1]}", "Leave out one of them.")
    if job_settings and number_of_parts is None:
        raise InputError("--job", "--submit in addition", "--job alone")
    for flag, divided in (("--part", part), ("--submit", None if number_of_parts is None else (1, number_of_parts))):
        if divided is not None:
            check_part_of_sweep(divided, members, halving, flag=flag)
            if out is None:
                raise InputError(flag, "a folder for the results", "none", "Name one by --out.")


def _shared_by_parts(arguments: Sequence[str]) -> list[str]:
    """The arguments that all parts have: without the flags in ``NOT_FOR_PARTS``.

    >>> _shared_by_parts(["sweep", "--submit", "4", "--seeds", "8", "--out=runs/x"])
    ['sweep', '--seeds', '8']
    """
    kept = []
    rest = iter(arguments)
    for argument in rest:
        if argument in NOT_FOR_PARTS:
            next(rest)  # its value
        elif argument.partition("=")[0] not in NOT_FOR_PARTS:
            kept.append(argument)
    return kept


def _members(
    flags: Mapping[str, FlagValue], grid_file: Path | None
) -> tuple[Configuration, list[dict[str, FlagValue]]]:
    """The configuration that all models share, and the hyper-parameters of each."""
    from functional_nn.configuration.run_flags import members_of_flags
    from functional_nn.sweeps import grid as grids
    from functional_nn.sweeps.grid import read_grid

    single: dict[str, FlagValue] = {}
    several: dict[str, list[FlagValue]] = {}
    for name, value in flags.items():
        if name not in AXES:
            single[name] = value
        elif value is None:
            single[name] = None
        elif len(value) == 1:
            single[name] = value[0]
        else:
            several[name] = value
    parts = [grids.grid(**several)]
    if grid_file is not None:
        in_file = members_of_flags(read_grid(grid_file), grid_file, sweep, AXES)
        _check_not_given(in_file[0].keys())
        parts.append(in_file)
    members = grids.crossed(*parts)
    # Every member has its own values of the settings that vary. The shared configuration has the first member's.
    return Configuration(**(single | members[0])), members


def _check_not_given(in_file: Collection[str]) -> None:
    """Requires that no flag is given whose value would be replaced by those of the grid file."""
    flags = set(in_file)
    if "seed" in in_file:
        flags.add("seeds")
    if twice := [flag_of(name) for name in sorted(flags) if is_given(name)]:
        remedy = "Leave out the flag, or the column of the file."
        raise InputError("--grid", "names whose flags are not given", f"{', '.join(twice)} in addition", remedy)


def _configuration(base: Configuration, hyperparameters: Hyperparameters) -> Configuration:
    """The configuration of one member.

    Some of its numbers are traced. ``completed`` has to read values, so traced numbers are put in afterwards.
    """
    import jax

    known = {field.name for field in fields(Configuration)}
    given = {name: value for name, value in hyperparameters.items() if name in known}
    traced = {name: value for name, value in given.items() if isinstance(value, jax.Array)}
    plain = {name: value for name, value in given.items() if name not in traced}
    # If a model does not take a flag, it refuses the flag unless it is off. This holds for traced values too.
    off = {name: 0.0 for name in traced if name in ("dropout", "l1", "l2")}
    return replace(replace(base, **(plain | off)).completed(), **traced)
