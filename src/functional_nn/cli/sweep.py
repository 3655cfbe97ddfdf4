"""``functional-nn sweep``: training many models in one call, and the table of their results."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.merge import write_result
from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.configuration import flag_types, settings
from functional_nn.configuration.flag_types import FlagValue
from functional_nn.core.errors import InputError, versions
from functional_nn.core.signals import Signals
from functional_nn.core.texts import counted

if TYPE_CHECKING:
    from functional_nn.training.recipe import Hyperparameters, Recipe

MOST_NETWORKS = 4
"""The largest number of networks in the first lines of the output."""


@click.command(cls=settings.GroupedCommand, context_settings={"show_default": True})
@settings.with_settings("sweep")
@settings.RECIPE
@click.option("--seeds", type=flag_types.COUNT, default=1, help="Models of each setting, with consecutive seeds.")
@click.option("--grid", "grid_file", type=flag_types.PATH, help="TOML file of settings.")
@click.option("--plan", default="auto", help="auto, sequential, map, vmap, or vmap:N for batches of N.")
@click.option(
    "--halving",
    type=flag_types.Several(flag_types.COUNT),
    metavar="EPOCHS",
    help="Epochs after which only the best models go on.",
)
@click.option(
    "--halving-keep",
    type=flag_types.SHARE,
    show_default="1/3",
    help="Share of the models that go on at each epoch of --halving.",
)
@click.option(
    "--out",
    type=flag_types.FOLDER,
    metavar="DIR",
    help="Folder for finished models, tables and report.html. After an interruption the same command goes on there.",
)
@click.option(
    "--part",
    type=flag_types.PART,
    metavar="K/N",
    help="Train the K-th of N parts only, each on a computer of its own. Then functional-nn merge puts their folders "
    "together.",
)
@flag_types.JSON_FILE
@COMPILATION_CACHE
@click.option("--quiet", is_flag=True, help="Print the table only.")
@click.pass_obj
def sweep(
    signals: Signals,
    out: Path | None,
    part: tuple[int, int] | None,
    json_file: Path | None,
    quiet: bool,
    seeds: int,
    grid_file: Path | None,
    plan: str,
    halving: tuple[int, ...] | None,
    halving_keep: float | None,
    **flags: FlagValue,
) -> int:
    """Train a model for every combination of values and seeds, and print which are best.

    Flags take values separated by commas: --learning-rate 1e-3,3e-3 --dropout 0,0.2 --seeds 8 trains 32 models. The
    file of --grid can have numbers that are drawn.
    """
    flag_types.check_outside(json_file, out)
    with importing():
        import jax

        from functional_nn.storage.files import folder_to_write
        from functional_nn.sweeps.grid import crossed, grid
        from functional_nn.sweeps.member_batch import Halving
        from functional_nn.sweeps.sweep import check_part_of_sweep
        from functional_nn.sweeps.sweep import sweep as train_members

    if flags["precision"] == "float64":
        jax.config.update("jax_enable_x64", True)
    if halving_keep is not None and halving is None:
        raise InputError("--halving-keep", "also --halving", "none")
    kept = {} if halving_keep is None else {"keep": halving_keep}
    base, members = _members(flags, grid_file)
    if "seed" not in members[0]:
        members = crossed(members, grid(seed=range(flags["seed"], flags["seed"] + seeds)))
    if part is not None:
        check_part_of_sweep(part, len(members), halving, flag="--part")
        if out is None:
            raise InputError("--part", "a folder for the results", "none", "Name one by --out.")
    data = base.load_data(progress=False if quiet else None)
    if not quiet:
        click.echo(data.describe())
        of_part = "" if part is None else f"part {part[0]} of {part[1]} of "
        networks = dict.fromkeys(base.of_member(member).network_name(data.classes) for member in members)
        listed = _listed(networks, flags["hidden"])
        click.echo(f"{of_part}{counted(len(members), 'model')} on {jax.devices()[0].device_kind}: {listed}")

    def on_epoch(ended: int, count: int) -> None:
        signals.defer()
        signals.check()

    def recipe(hyperparameters: Hyperparameters) -> Recipe:
        return base.of_member(hyperparameters).recipe(data.classes, len(data.train_images))

    if out is not None:
        click.get_current_context().with_resource(folder_to_write("--out", out))
    metrics = recipe(members[0]).metrics
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Interrupted", RuntimeWarning)  # the message of the result, printed below
        result = train_members(
            lambda h: recipe(h).net,
            lambda h: recipe(h).optimizer,
            members,
            data,
            loss=lambda h: recipe(h).loss,
            penalty=lambda h: recipe(h).penalty,
            metrics=None if metrics is None else dict(metrics),
            gradient="jax",  # as it is: a network with formulas has them already
            epochs=base.epochs,
            batch_size=base.batch_size,
            precision=base.precision,
            plan=plan,
            patience=base.patience,
            halving=None if halving is None else Halving(halving, **kept),
            keep=out is not None,
            part=part,
            out=out,
            identity=base.settings() | data.about(),
            defaults=settings.DEFAULTS,
            on_epoch=on_epoch,
            progress=False if quiet else None,
        )
    about = {"config": base.to_dict(), "versions": versions(), "device": jax.devices()[0].device_kind}
    write_result(result, out, json_file, about, quiet=quiet)
    if out is not None and result.message:
        click.echo("The same command continues the sweep.")
    elif part is not None and not quiet:
        click.echo("When all parts have ended: functional-nn merge FOLDERS --out FOLDER")
    return signals.status if result.message else 0


def _listed(networks: Collection[str], hidden: Sequence[tuple[int, ...]] | None) -> str:
    """The first networks of a sweep. If --hidden gives one network of several layers, also how to give several."""
    listed = ", ".join(list(networks)[:MOST_NETWORKS]) + (", …" if len(networks) > MOST_NETWORKS else "")
    sizes = hidden[0] if hidden and len(hidden) == 1 else ()
    if len(sizes) > 1:
        listed += f" (one network; --hidden {'/'.join(map(str, sizes))} gives {len(sizes)} networks)"
    return listed


def _members(
    flags: Mapping[str, FlagValue], grid_file: Path | None
) -> tuple[settings.Configuration, list[dict[str, FlagValue]]]:
    """The configuration that all models share, and the hyper-parameters of each."""
    from functional_nn.sweeps import grid as grids

    # In the order of the command line, which is that of the members.
    values = {name: value for name, value in flags.items() if name in settings.AXES and value is not None}
    several = {name: value for name, value in values.items() if len(value) > 1}
    single = {name: value[0] for name, value in values.items() if len(value) == 1}
    parts = [grids.grid(**several)]
    if grid_file is not None:
        in_file = settings.members_of_file(grids.read_grid(grid_file), grid_file)
        _check_not_given(in_file[0].keys())
        parts.append(in_file)
    members = grids.crossed(*parts)
    # Every member has its own values of the settings that vary. The shared configuration has the first member's.
    return settings.Configuration(**{**flags, **single, **members[0]}), members


def _check_not_given(in_file: Collection[str]) -> None:
    """Requires that no flag is given whose value would be replaced by those of the grid file."""
    flags = set(in_file)
    if "seed" in in_file:
        flags.add("seeds")
    if twice := [settings.flag_of(name) for name in sorted(flags) if flag_types.is_on_command_line(name)]:
        remedy = "Leave out the flag, or the column of the file."
        raise InputError("--grid", "names whose flags are not given", f"{', '.join(twice)} in addition", remedy)
