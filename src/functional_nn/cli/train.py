"""``functional-nn train``: training one network, with its metrics, checkpoints and page."""

from __future__ import annotations

import math
import signal
import statistics
import time
import warnings
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.fine_tuning import check_freeze, check_same_start, start_from, with_settings_of
from functional_nn.cli.several_processes import WAIT_SECONDS, SeveralProcesses, check_is_one_run
from functional_nn.cli.startup import COMPILATION_CACHE, STARTED, starting_jax
from functional_nn.configuration import flag_types, settings
from functional_nn.configuration.flag_types import MEMBER, FlagValue
from functional_nn.core.display import clear_line
from functional_nn.core.errors import InputError, escaped, versions
from functional_nn.core.signals import Signals
from functional_nn.core.texts import counted, words

if TYPE_CHECKING:
    from functional_nn.training.run import EpochMetrics, Run
    from functional_nn.training.state import TrainState

FEW_STEPS = 50
"""A run of fewer steps hardly trains; its output says so."""


@click.command(cls=settings.GroupedCommand, context_settings={"show_default": True})
@settings.with_settings("train")
@settings.RECIPE
@click.option(
    "--out",
    type=flag_types.FOLDER,
    metavar="DIR",
    help="Folder for configuration, metrics, checkpoints, parameters and a page, report.html.",
)
@click.option(
    "--from",
    "from_run",
    type=flag_types.PATH,
    metavar="RUN",
    help="Start from the parameters of this run, or of a sweep's best model, and take its network and data set where "
    "no flag says otherwise.",
)
@MEMBER
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out with its settings. Give the paths of its data again."
)
@click.option(
    "--checkpoint-minutes",
    type=flag_types.NOT_NEGATIVE,
    default=0.0,
    help="Least time between two checkpoints; 0 saves one after every epoch.",
)
@click.option(
    "--distributed",
    is_flag=True,
    help="Train together with the other processes that a cluster has started, such as Slurm.",
)
@click.option("--coordinator", metavar="HOST:PORT", help="Address of the first of several processes.")
@click.option("--num-processes", type=flag_types.COUNT, help="Number of processes that train together.")
@click.option("--process-id", type=flag_types.COUNT_OR_ZERO, help="Number of this process, from 0.")
@click.option("--wait", type=flag_types.COUNT, default=WAIT_SECONDS, help="Seconds to wait for others at the start.")
@flag_types.JSON_FILE
@COMPILATION_CACHE
@click.option("--quiet", is_flag=True, help="Print the last line only.")
@click.pass_context
def train(
    context: click.Context,
    out: Path | None,
    from_run: Path | None,
    resume: bool,
    checkpoint_minutes: float,
    member: int | None,
    json_file: Path | None,
    quiet: bool,
    **flags: FlagValue,
) -> int:
    """Train a network on images or on a table, and print its test accuracy.

    Without flags: the network 784-128-64-10 on 5,000 MNIST digits that the package carries.
    """
    flag_types.check_outside(json_file, out, from_run)
    signals: Signals = context.obj
    others = SeveralProcesses(**{one.name: flags.pop(one.name) for one in fields(SeveralProcesses)})
    configuration = settings.Configuration(**flags)
    values_before: dict[str, object] = {}
    # Only configurations are read here, since JAX must not compute anything before it has its devices.
    if from_run is not None:
        from functional_nn.cli.trained_run import named_member
        from functional_nn.exchange import saved_networks
        from functional_nn.storage.files import kept_open

        if from_run.is_dir():  # the parameters are read later, in the same folder
            context.with_resource(kept_open(from_run))
        member = named_member(from_run, member)
        values_before, *_ = saved_networks.chosen_run(from_run, member)
        configuration = with_settings_of("--from", from_run, values_before, configuration, settings.NETWORK)
    if resume and out is not None and out.is_dir():
        from functional_nn.storage import run_folder
        from functional_nn.storage.files import kept_open, names_in

        # The run goes on in the folder whose settings are read here, or not at all.
        context.with_resource(kept_open(out))
        if run_folder.CONFIGURATION in names_in(out):
            values = run_folder.read_configuration(out)
            groups = settings.DATA, settings.NETWORK, settings.TRAINING
            configuration = with_settings_of("--resume", out, values, configuration, *groups)
    keep_best = configuration.keep_best
    needs_out = {"--resume": resume, "--keep-best": keep_best, "--checkpoint-minutes": checkpoint_minutes}
    for flag, value in needs_out.items():
        if value and out is None:
            raise InputError(flag, "the run's folder in --out", "none")
    if member is not None and from_run is None:
        raise InputError("--member", "the sweep's folder in --from", "none")
    if keep_best and checkpoint_minutes:
        given = f"--checkpoint-minutes {checkpoint_minutes:g}"
        raise InputError("--keep-best", "a checkpoint after every epoch", given, "Leave out one of the two.")
    others.check()

    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    with starting_jax(configuration.precision, configuration.devices, others):
        clock_load = time.perf_counter()
        data = configuration.load_data(progress=False if quiet else None)
        seconds["load"] = time.perf_counter() - clock_load
    import jax

    from functional_nn.cli.report import page_of
    from functional_nn.exchange import saved_networks
    from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
    from functional_nn.storage import run_folder
    from functional_nn.storage.checkpoints import steps as saved_steps
    from functional_nn.storage.files import write_json
    from functional_nn.training.checkpointing import Checkpoints
    from functional_nn.training.devices import device_name
    from functional_nn.training.fit import fit
    from functional_nn.training.layer_statistics import StatisticsRecorder
    from functional_nn.training.non_finite import NOT_FINITE
    from functional_nn.training.processes import Processes

    seconds["import"] = time.perf_counter() - clock  # JAX is imported while the data are loaded
    configuration = configuration.completed()
    processes = Processes()
    check_is_one_run(processes, context)
    if not processes.is_first:
        # The first process alone prints and writes.
        out, json_file, quiet = None, None, True
    device = jax.devices()[0]
    if not quiet:
        click.echo(data.describe())
        several = f", {jax.device_count()} devices in {processes.count} processes" if processes.are_several else ""
        click.echo(f"{_described(configuration, data.classes)} on {device.device_kind}{several}")
        steps = configuration.epochs * math.ceil(len(data.train_images) / configuration.batch_size)
        if steps < FEW_STEPS:
            said = f"Training has only {counted(steps, 'step')}: try a smaller --batch-size and more --epochs."
            click.echo(said, err=True)
    recipe = configuration.recipe(data.classes, len(data.train_images))
    start, origin = None, {}
    if from_run is not None:
        with saved_networks.run_of(from_run, member) as run_before, run_folder.unchanged(run_before):
            params, state, anew = start_from(run_before, values_before, recipe.net, configuration, data)
            start, origin = (params, state), {"from": run_folder.origin(run_before)}
        if anew and not quiet:
            click.echo(f"New, because their shapes differ: {', '.join(anew)}")
    check_freeze(configuration, recipe.net, data)
    checkpoints, recorder = None, None

    def open_folders() -> None:
        nonlocal checkpoints, recorder
        if out is not None:
            context.with_resource(run_folder.opened_run_folder(out, resume))
            check_same_start(out, origin)
            folder = out / run_folder.CHECKPOINTS
            checkpoints = Checkpoints(
                folder, minutes=checkpoint_minutes, settings=configuration.settings(), defaults=settings.DEFAULTS
            )
            last = max(saved_steps(folder), default=0)
            net, examples = with_hand_vjp(recipe.net), (data.train_images, data.train_labels)
            recorder = StatisticsRecorder(out, net, recipe.loss, configuration.precision, *examples, last)

    # A folder that cannot be used ends the run in all processes.
    processes.first(open_folders)

    def on_epoch(metrics: EpochMetrics, train_state: TrainState) -> None:
        signals.defer()
        if out is not None:
            if metrics.epoch == 1:
                # A resumed run reports its restored epochs first, so the folder's files are written anew from epoch 1
                # on.
                about = data.about() | {"data_sha256": data.checksum(), "versions": versions()}
                run_folder.create_run_folder(out, configuration.to_dict() | about | origin)
            run_folder.append_metrics(out, metrics.row())
        if recorder is not None:
            recorder.record(metrics.epoch, train_state.params, train_state.state)
        if not quiet:
            _print_epoch(metrics, configuration.schedule)
        signals.check()

    with warnings.catch_warnings():
        # The run's message, which is printed below, says the same.
        warnings.filterwarnings("ignore", f"{NOT_FINITE}|Interrupted", RuntimeWarning)
        run = fit(
            recipe.net,
            recipe.loss,
            recipe.optimizer,
            data,
            epochs=configuration.epochs,
            batch_size=configuration.batch_size,
            seed=configuration.seed,
            start=start,
            penalty=recipe.penalty,
            gradient=recipe.gradient,
            precision=configuration.precision,
            devices=None if processes.are_several else configuration.devices,
            non_finite=configuration.non_finite,
            patience=configuration.patience,
            metrics=None if recipe.metrics is None else dict(recipe.metrics),
            checkpoints=checkpoints,
            on_epoch=on_epoch,
            progress=False if quiet else None,
        )
    seconds |= run.seconds
    if recorder is not None:
        seconds["train"] -= recorder.seconds  # the callback's time is a part of what fit measures
        recorder.record(len(run.history), run.params, run.state, is_last=True)
        seconds["statistics"] = recorder.seconds
    kept_epoch = len(run.history)
    if keep_best and out is not None and run.history:
        from functional_nn.cli.trained_run import at_best_epoch

        run, kept_epoch = at_best_epoch(run, out / run_folder.CHECKPOINTS, recipe, data)
    seconds["total"] = time.perf_counter() - STARTED
    result = _result(run, kept_epoch, seconds) | {
        "device": f"{device.platform}: {device_name(device)}",
        "versions": versions(),
        "config": configuration.to_dict(),
    }
    if out is not None:
        history = [metrics.row() for metrics in run.history]
        run_folder.finish_run_folder(out, run.params, run.state, history, result)
        page = page_of(out, data)
        if not quiet:
            click.echo(f"{escaped(str(out))}: configuration, metrics, parameters")
            for name in page:
                what = ", and draw there" if data.features is None else ""
                click.echo(f"Open {escaped(str(out / name))} in a browser{what}.")
    if run.message and processes.is_first:
        click.echo(escaped(run.message), err=True)
    if run.status == "interrupted" and out is not None and saved_steps(out / run_folder.CHECKPOINTS):
        click.echo(f"To continue: the same command{'' if resume else ' with --resume'}.", err=True)
    if run.history and processes.is_first:
        _print_result(run, kept_epoch, seconds, keep_best)
    # The file is written after the result is printed, which is not lost if the disk is full.
    if json_file is not None:
        write_json(json_file, result)
    # The others wait until everything is written. At their end, JAX would give the first one half a minute.
    processes.any(False)
    if run.status == "interrupted":
        if processes.is_first:
            click.echo("Stopped.", err=True)
        # Of several processes, fit has noted the signal, and its message names it.
        return 128 + signal.SIGTERM if signal.SIGTERM.name in run.message else signals.status
    return 0 if run.status in ("finished", "stopped early") else 1


def _result(run: Run, kept_epoch: int, seconds: dict[str, float]) -> dict[str, object]:
    """The numbers of a run, for ``result.json``. The metrics are those of the epoch whose parameters are kept."""
    from functional_nn.core import trees

    kept = run.history[kept_epoch - 1] if run.history else None
    # The first epoch includes work that is done only once. So the median leaves it out if there are other epochs.
    steady = [metrics.seconds for metrics in run.history[1:] or run.history]
    return {
        **dict.fromkeys(("test_accuracy", "test_loss", "train_loss")),
        **(kept.metrics if kept else {}),
        **run.test_metrics,
        "learning_rate": kept.learning_rate if kept else None,
        "epochs": len(run.history),
        "kept_epoch": kept_epoch,
        "restored_epochs": run.restored_epochs,
        "skipped_steps": sum(metrics.skipped_steps for metrics in run.history),
        "clipped_steps": sum(metrics.clipped_steps for metrics in run.history),
        "status": run.status,
        "message": run.message,
        "parameters": trees.size(run.params),
        "seconds": seconds,
        "seconds_per_epoch": statistics.median(steady) if steady else None,
    }


def _print_epoch(metrics: EpochMetrics, schedule: str) -> None:
    """Prints the metrics of an epoch as a line of the table. The first epoch prints the table's head before it."""
    start = clear_line()
    heads = {name: words(name) for name in metrics.metrics}
    if metrics.epoch == 1:
        click.echo(f"{start}epoch  {'  '.join(heads.values())}  seconds")
    numbers = [_number(metrics.metrics[name], len(head)) for name, head in heads.items()]
    click.echo(f"{start}{metrics.epoch:5d}  {'  '.join(numbers)}  {metrics.seconds:7.3f}{_remarks(metrics, schedule)}")


def _number(value: float, width: int) -> str:
    """A metric as text of a column. A large number that the column is too narrow for has an exponent: ``6.34e+20``."""
    text = f"{value:{width}.4f}"
    return f"{value:{width}.2e}" if len(text) > width and 1e4 <= abs(value) < math.inf else text


def _print_result(run: Run, kept_epoch: int, seconds: dict[str, float], keep_best: bool) -> None:
    """Prints the metric that counts, such as the test accuracy, the number of epochs, and the times they took."""
    from functional_nn.training.evaluate import default_metric

    numbers = run.test_metrics or run.history[kept_epoch - 1].metrics
    part = default_metric(numbers).partition("_")[0]
    others = [name for name in numbers if name.startswith(part) and not name.endswith("_loss")]
    texts = [f"{words(name)} {numbers[name]:.4f}" for name in others or [default_metric(numbers)]]
    times = ", ".join(f"{part} {seconds[part]:.2f} s" for part in ("compile", "train", "total"))
    epochs = counted(len(run.history), "epoch")
    restored = f", {run.restored_epochs} of them from a checkpoint" if run.restored_epochs else ""
    losses = [epoch.deciding_loss for epoch in run.history]
    has_best = keep_best and losses[kept_epoch - 1] == min(filter(math.isfinite, losses), default=None)
    when = f"in epoch {kept_epoch}, with the lowest loss of" if has_best else "after"
    click.echo(f"{', '.join(texts)} {when} {epochs}{restored} ({times})")


def _remarks(metrics: EpochMetrics, schedule: str) -> str:
    """Remarks on a learning rate that changes, and on skipped and clipped steps, if the epoch had any."""
    steps = {"steps skipped": metrics.skipped_steps, "clipped": metrics.clipped_steps}
    remarks = [f"{number} {what}" for what, number in steps.items() if number]
    if schedule != "constant" and metrics.learning_rate is not None:
        remarks.insert(0, f"learning rate {metrics.learning_rate:.3g}")
    return f"  {', '.join(remarks)}" if remarks else ""


def _described(configuration: settings.Configuration, classes: int) -> str:
    """The network, the optimizer and the batch size in one line."""
    activation = f", {configuration.activation}" if configuration.activation else ""
    return (
        f"{configuration.network_name(classes)}{activation}; {configuration.optimizer}, learning rate "
        f"{configuration.learning_rate:g} ({configuration.schedule}), batch {configuration.batch_size},"
    )
