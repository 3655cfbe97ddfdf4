"""``fit``: training of one network, epoch by epoch, with evaluation, checkpoints and progress."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.progress import progress_bar
from functional_nn.core.validation import check_flag, check_function
from functional_nn.data.dataset import Dataset, Split
from functional_nn.storage.arrays import checksum
from functional_nn.training.argument_checks import check_counts, check_functions, check_seed
from functional_nn.training.data_for_network import data_for_network
from functional_nn.training.epoch import EpochResult
from functional_nn.training.evaluate import Evaluation
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.programs.cache import compiled_programs
from functional_nn.training.programs.compile import Programs
from functional_nn.training.programs.devices import check_devices, check_single_process
from functional_nn.training.programs.memory import check_memory
from functional_nn.training.programs.recipe import Recipe
from functional_nn.training.programs.spec import ProgramSpec, shapes_of
from functional_nn.training.resilience.checkpointing import Checkpoints, RunProgress, RunSaver
from functional_nn.training.resilience.interruption import Interruption
from functional_nn.training.resilience.non_finite import (
    ROLL_BACK,
    SKIP,
    check_policy,
    counts,
    finite_epoch,
    rate_share,
    with_rate_share,
)
from functional_nn.training.run import EpochMetrics, Run
from functional_nn.training.state import TrainState
from functional_nn.training.step import LossFunction, PenaltyFunction


def fit(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    data: Dataset | Split,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    seed: int = 0,
    penalty: PenaltyFunction | None = None,
    precision: str | Precision = "float32",
    devices: int = 1,
    non_finite: str = "stop",
    checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    progress: bool | None = None,
) -> Run:
    """Trains a network and evaluates it after every epoch.

    All full batches of an epoch are one compiled program. The data are copied to the device once, before the first
    epoch. The same seed gives the same bits on the same machine.

    Images are prepared in two ways (``functional_nn.data.preparation``). Bytes are divided by 255, batch by batch, so
    tokens and other integers must not be uint8. The images of a ``Dataset`` enter the network as (height, width,
    channels); they are flattened if the network's output fits the labels only for a flat image. ``Run.in_shape`` is the
    shape that was chosen. Flattening never happens to a ``Split``: put ``flatten()`` first in the network.

    If an epoch produces a value that is not finite, it is run again by steps that skip bad updates. Training then
    stops, or follows ``non_finite``, and a warning says at which step it happened.

    Ctrl-C ends the run, and ``fit`` returns the epochs that are done. It takes effect after the current epoch at the
    latest, even if a callback ignores the ``KeyboardInterrupt``.

    With ``checkpoints``, a run that was stopped or killed continues when the same call is made with the same folder,
    and ends with the same bits as a run that never stopped. It continues from the end of the last saved epoch.

    Args:
        net: the network; its output is what the loss takes.
        loss: a ``Loss``, or any function ``(y, labels) -> scalar``.
        optimizer: any Optax transformation.
        data: a ``Dataset`` or a ``Split``.
        epochs: the number of passes over the training data.
        batch_size: the number of examples per step. If it does not divide the number of examples, the last batch of
            each epoch is smaller.
        seed: for initial values, shuffling and noise.
        penalty: added to the loss for the gradient: a ``Penalty``, or any function of the parameters.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (parameters, optimizer and loss stay in float32; with
            ``"float16"`` the loss is scaled, see ``LossScale``), ``"float64"``, or a ``Precision`` of your own.
        devices: the number of JAX's devices that share each batch, with all parameters and data on each of them. The
            result differs from that of one device only by rounding. A CPU has one device, unless
            ``jax_num_cpu_devices`` is set before JAX computes anything. With one device per core, recurrent networks
            train faster (see docs/performance.md).
        non_finite: ``"stop"`` ends the run with that epoch. ``"skip"`` goes on without the bad steps, which are
            counted, and stops only if all steps of an epoch are bad. ``"roll-back"`` runs the epoch again from its
            start with half of the learning rate (of the updates), at most ten times in a run, and then stops.
        checkpoints: a folder, or ``Checkpoints``, where every epoch is saved.
        on_epoch: called with each epoch's metrics, first with those restored from a checkpoint.
        progress: whether to show a progress bar and, without ``on_epoch``, a closing line; by default on a terminal.

    Raises:
        InputError: before anything is computed, for arguments and data that do not fit, for a model that does not fit
            in memory, for a folder with the checkpoints of another run or in use by another process, and under
            ``jax.distributed`` with several processes, each of which would train alone.
        DataError: if every checkpoint is damaged or belongs to another network.

    >>> import functional_nn as fnn
    >>> data = fnn.load_dataset("mnist5k")
    >>> run = fit(fnn.dense(10), fnn.cross_entropy, optax.adam(1e-3), data, epochs=1)
    >>> run.status, run.history[-1].test_accuracy > 0.8
    ('finished', True)
    """
    net = as_layer(net)
    policy = as_precision(precision)
    check_counts(epochs, batch_size)
    check_functions(loss, optimizer, penalty)
    check_policy(non_finite)
    check_seed("seed", seed)
    check_devices(devices, batch_size)
    if on_epoch is not None:
        check_function("on_epoch", on_epoch, "a function of an epoch's metrics")
    if progress is not None:
        check_flag("progress", progress)
    check_single_process("fit")
    split = data_for_network(net, loss, data)
    _warn_of_a_large_batch(batch_size, len(split.train_x))
    if non_finite == ROLL_BACK:
        optimizer = with_rate_share(optimizer)
    # What must be equal for a run to continue in a folder; the programs' fingerprints are added after compilation.
    settings = {}
    if checkpoints is not None:
        settings = {
            "batch_size": int(batch_size),
            "seed": int(seed),
            "precision": [str(part) for part in policy],
            "devices": int(devices),
            "non_finite": non_finite,
            "data": checksum(split._asdict()),
        }
    show_progress = sys.stderr.isatty() if progress is None else progress

    with RunSaver(checkpoints, settings) as saver, Interruption() as interruption:
        # The programs of the run.
        clock = time.perf_counter()
        recipe = Recipe(net, loss, optimizer, penalty)
        spec = ProgramSpec(recipe, batch_size, policy, data=shapes_of(split), devices=devices)
        compiled, compiled_now = compiled_programs(spec)
        programs = Programs(compiled)
        seconds = {"compile": time.perf_counter() - clock if compiled_now else 0.0}

        # The state to start from, and the data on the device.
        clock = time.perf_counter()
        check_memory(compiled, split)
        restored = saver.restored(compiled.train_state, lambda: compiled.fingerprints)
        reached = RunProgress(programs.start(jax.random.key(seed))) if restored is None else restored
        if len(reached.history) > epochs:
            raise InputError("epochs", f"at least {len(reached.history)}, which the checkpoint has", epochs)
        reached = reached._replace(train_state=jax.device_put(reached.train_state, compiled.sharding))
        train_x, train_labels, test_x, test_labels = jax.device_put(tuple(split), compiled.sharding)
        with progress_bar("training", epochs, show_progress) as advance:

            def report(metrics: EpochMetrics) -> None:
                if on_epoch is not None:
                    on_epoch(metrics)
                advance(f"loss {metrics.train_loss:.4f}  test accuracy {metrics.test_accuracy:.4f}")

            try:
                # Epochs from a checkpoint are reported first.
                for metrics in reached.history:
                    report(metrics)
                while not reached.status and len(reached.history) < epochs:
                    clock_epoch = time.perf_counter()
                    number = jnp.int32(len(reached.history))
                    after, result = finite_epoch(
                        non_finite, programs, reached.train_state, train_x, train_labels, number
                    )
                    epoch_seconds = time.perf_counter() - clock_epoch
                    evaluation = programs.evaluate(after, test_x, test_labels)
                    metrics = _epoch_metrics(reached, after, result, evaluation, epoch_seconds, test_labels.size)
                    status, message = _status_after(metrics, int(result.bad_step), non_finite, policy)
                    reached = RunProgress(after, (*reached.history, metrics), status, message)
                    saver.save(reached)
                    report(metrics)
                    interruption.check()
                status = reached.status if reached.status else "finished"
                message = reached.message
            except KeyboardInterrupt:
                status = "interrupted"
                message = f"Interrupted after {len(reached.history)} of {epochs} epochs; the finished epochs are kept."
            saver.save(reached, now=True)
    seconds["train"] = time.perf_counter() - clock
    train_state = reached.train_state
    if devices > 1:
        train_state = jax.device_put(train_state, jax.local_devices()[0])
    run = Run(
        train_state,
        reached.history,
        status,
        message,
        in_shape=split.train_x.shape[1:],
        precision=precision,
        seconds=seconds,
        restored_epochs=0 if restored is None else len(restored.history),
    )
    if status == "non-finite":
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    if show_progress and on_epoch is None:
        print(run, file=sys.stderr)
    return run


def _epoch_metrics(
    before: RunProgress,
    after: TrainState,
    result: EpochResult,
    evaluation: Evaluation,
    seconds: float,
    test_labels: int,
) -> EpochMetrics:
    values = jax.device_get((result.loss, evaluation.loss, evaluation.accuracy, result.bad_steps))
    train_loss, test_loss, test_accuracy = map(float, values[:3])
    old, new = counts(before.train_state), counts(after)
    return EpochMetrics(
        epoch=len(before.history) + 1,
        train_loss=train_loss,
        test_loss=test_loss,
        test_accuracy=nearest_share(test_accuracy, test_labels),
        seconds=seconds,
        skipped_steps=int(values[3]) + new.skipped_steps - old.skipped_steps,
        clipped_steps=new.clipped_steps - old.clipped_steps,
        rate_share=rate_share(after),
    )


def _status_after(metrics: EpochMetrics, bad_step: int, non_finite: str, policy: Precision) -> tuple[str, str]:
    """The status that ends a run after an epoch, and its message; two empty strings if the run goes on."""
    goes_on = bad_step < 0 or (non_finite == SKIP and math.isfinite(metrics.train_loss))
    if goes_on:
        return "", ""
    message = (
        f"Loss or update were not finite at step {bad_step} of epoch {metrics.epoch}. Such steps changed nothing, and "
        "the last finite state is kept. Try a smaller learning rate; look for NaN in the data."
    )
    if policy.scales_loss:
        message += " Float16 ends at 65,504; bfloat16 reaches as far as float32."
    return "non-finite", message


def nearest_share(value: float, count: int) -> float:
    """Rounds a share of ``count`` to the nearest float64: 0.911 instead of float32's 0.9110000134. NaN stays NaN."""
    return round(value * count) / count if math.isfinite(value) else value


def _warn_of_a_large_batch(batch_size: int, examples: int) -> None:
    if batch_size > examples:
        text = f"batch_size {batch_size} is larger than the {examples} training examples: an epoch is one step."
        warnings.warn(text, UserWarning, stacklevel=3)
