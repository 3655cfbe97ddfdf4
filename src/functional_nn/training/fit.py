"""The host's loop: compile once, run epoch after epoch, report, and lose nothing when something goes wrong."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.core.errors import InputError, inside
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.output_shape import output_shape
from functional_nn.core.progress import progress_bar
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import as_host_array, check_flag, check_function, shown
from functional_nn.data.dataset import Dataset, Split
from functional_nn.losses.loss import Loss
from functional_nn.storage.arrays import checksum
from functional_nn.training.argument_checks import check_counts, check_functions, check_seed
from functional_nn.training.epoch import EpochResult, Evaluation
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.programs.compile import compiled
from functional_nn.training.programs.devices import check_devices, check_single_process
from functional_nn.training.programs.memory import check_memory
from functional_nn.training.programs.recipe import Recipe
from functional_nn.training.resilience.checkpointing import Checkpoints, Reached, RunSaver
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

    All full batches of an epoch are one compiled program; the data are on the device before the first. The same seed
    gives the same bits on the same machine. An epoch after which a loss, parameter or statistic is not finite is run
    again with steps that change nothing where that would happen, and is the last, or what ``non_finite`` says.
    Ctrl-C ends the run, and what was reached is returned. It takes effect after the epoch at the latest, even where a
    callback drops the ``KeyboardInterrupt``.

    With ``checkpoints`` a run that was stopped or killed goes on in the same call with the same folder, and its end has
    the bits of a run that never stopped. An epoch is one program, so it goes on from the last epoch's end.

    Args:
        net: the network; its output is what the loss takes.
        loss: a ``Loss``, or any function ``(y, labels) -> scalar``.
        optimizer: any Optax transformation.
        data: a ``Dataset`` or a ``Split``; bytes become x / 255, so tokens have to be int32. A data set's images enter
            as (height, width, channels), or flat where the network makes one vector of a flat image only
            (``Run.in_shape`` says so).
        epochs, batch_size: what is left over after the full batches of an epoch is one smaller batch.
        seed: for initial values, shuffling and noise.
        penalty: added to the loss for the gradient: a ``Penalty``, or any function of the parameters.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (parameters, optimizer and loss stay in float32; with
            ``"float16"`` the loss is scaled, see ``LossScale``), ``"float64"``, or a ``Precision`` of your own.
        devices: how many of JAX's devices share each batch, with all parameters and data on each of them. The result is
            that of one device but for rounding. A CPU has one device, unless ``jax_num_cpu_devices`` is set before JAX
            computes anything; with one a core, recurrent networks train faster (see docs/performance.md).
        non_finite: ``"stop"`` ends the run with that epoch; ``"skip"`` goes on without the bad steps, which are
            counted, until an epoch has no other; ``"roll-back"`` runs the epoch again from its start with half of the
            learning rate (of the updates), ten times in a run, and then stops.
        checkpoints: a folder, or ``Checkpoints``, where every epoch is saved.
        on_epoch: called with each epoch's metrics, beginning with those that a checkpoint brought.
        progress: whether to show a progress bar; by default on a terminal.

    Raises:
        InputError: for arguments and data that do not fit, before anything is computed; for a model that does not fit
            in memory; for a folder of checkpoints that another run or another process has; under ``jax.distributed``
            with several processes, each of which would train alone.
        DataError: for checkpoints that are damaged, all of them, or of another network.

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
    split = prepared(net, loss, data)
    if non_finite == ROLL_BACK:
        optimizer = with_rate_share(optimizer)
    settings = {}
    if checkpoints is not None:
        settings = {"batch_size": int(batch_size), "seed": int(seed), "precision": [str(part) for part in policy]}
        settings |= {"devices": int(devices), "non_finite": non_finite, "data": checksum(split._asdict())}

    with RunSaver(checkpoints, settings) as saver, Interruption() as interruption:
        clock = time.perf_counter()
        recipe = Recipe(net, loss, optimizer, penalty)
        programs, compiled_now = compiled(recipe, {}, batch_size, policy, split, devices=devices)
        seconds = {"compile": time.perf_counter() - clock if compiled_now else 0.0}

        clock = time.perf_counter()
        check_memory(programs, split)
        restored = saver.restored(programs.train_state, lambda: programs.fingerprints)
        reached = restored or Reached(programs.start({}, jax.random.key(seed)))
        if len(reached.history) > epochs:
            raise InputError("epochs", f"at least {len(reached.history)}, which the checkpoint has", epochs)
        reached = reached._replace(train_state=jax.device_put(reached.train_state, programs.sharding))
        train_x, train_labels, test_x, test_labels = jax.device_put(tuple(split), programs.sharding)
        with progress_bar("training", epochs, progress) as advance:

            def report(metrics: EpochMetrics) -> None:
                if on_epoch is not None:
                    on_epoch(metrics)
                advance(f"loss {metrics.train_loss:.4f}  test accuracy {metrics.test_accuracy:.4f}")

            try:
                for metrics in reached.history:
                    report(metrics)
                while not reached.status and len(reached.history) < epochs:
                    clock_epoch = time.perf_counter()
                    number = len(reached.history)
                    train_data = (train_x, train_labels, jnp.int32(number), None)
                    after, result = finite_epoch(non_finite, programs, reached.train_state, *train_data)
                    elapsed = time.perf_counter() - clock_epoch
                    evaluation = programs.evaluate({}, after, test_x, test_labels)
                    reached = _after_epoch(reached, after, result, evaluation, elapsed, split, non_finite, policy)
                    saver.save(reached)
                    report(reached.history[-1])
                    interruption.check()
                status, message = reached.status or "finished", reached.message
            except KeyboardInterrupt:
                status = "interrupted"
                message = f"Interrupted after {len(reached.history)} of {epochs} epochs; what was reached is kept."
            saver.save(reached, now=True)
    seconds["train"] = time.perf_counter() - clock
    if devices > 1:
        reached = reached._replace(train_state=jax.device_put(reached.train_state, jax.local_devices()[0]))
    brought = 0 if restored is None else len(restored.history)
    in_shape = split.train_x.shape[1:]
    return Run(reached.train_state, reached.history, status, message, in_shape, precision, seconds, brought)


def _after_epoch(
    before: Reached,
    after: TrainState,
    result: EpochResult,
    evaluation: Evaluation,
    seconds: float,
    split: Split,
    non_finite: str,
    policy: Precision,
) -> Reached:
    """With the epoch's metrics, and an end where it was not finite and the policy does not go on."""
    epoch = len(before.history) + 1
    values = jax.device_get((result.loss, *evaluation, result.bad_step, result.bad_steps))
    train_loss, test_loss, test_accuracy = map(float, values[:3])
    bad_step, bad_steps = map(int, values[3:])
    old, new = counts(before.train_state), counts(after)
    metrics = EpochMetrics(
        epoch,
        train_loss,
        test_loss,
        nearest_share(test_accuracy, split.test_labels.size),
        seconds,
        bad_steps + new.skipped_steps - old.skipped_steps,
        new.clipped_steps - old.clipped_steps,
        rate_share(after),
    )
    reached = Reached(after, (*before.history, metrics))
    if bad_step < 0 or (non_finite == SKIP and math.isfinite(train_loss)):
        return reached
    message = (
        f"Loss or update were not finite at step {bad_step} of epoch {epoch}. Such steps changed nothing, and the last "
        "finite state is kept. Try a smaller learning rate; look for NaN in the data."
        + (" Float16 ends at 65,504; bfloat16 reaches as far as float32." if policy.scales_loss else "")
    )
    return reached._replace(status="non-finite", message=message)


def nearest_share(value: float, count: int) -> float:
    """A share of ``count`` as the nearest float64 (0.911 and not float32's 0.9110000134); NaN stays."""
    return round(value * count) / count if math.isfinite(value) else value


def as_arrays(data: Any) -> Any:
    """A data set as it is, and a split with its parts as NumPy's arrays."""
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, tuple) or len(data) != 4:
        raise InputError("data", "a Dataset or a Split(train_x, train_labels, test_x, test_labels)", shown(data))
    if any(isinstance(part, tuple) for part in data):
        remedy = "For masked sequences and several inputs, run make_epoch and make_evaluate."
        raise InputError("data", "one array of examples and one of labels in each part", "several", remedy)
    arrays = (as_host_array(f"data.{name}", part) for name, part in zip(Split._fields, data, strict=True))
    return Split(*(a.astype(jax.dtypes.canonicalize_dtype(a.dtype), copy=False) for a in arrays))


def prepared(net: Layer, loss: LossFunction, data: Dataset | Split) -> Split:
    """The arrays as the network takes them, with everything checked that no compiled program could report."""
    split = as_arrays(data)
    if isinstance(split, Dataset):
        split = Split(split.train_images, split.train_labels, split.test_images, split.test_labels)
    parts = (("train", split.train_x, split.train_labels), ("test", split.test_x, split.test_labels))
    for part, x, labels in parts:
        if x.ndim < 2 or labels.ndim < 1 or len(x) != len(labels):
            raise InputError(f"{part} data", "as many labels as examples", f"shapes {x.shape} and {labels.shape}")
        if len(x) == 0:
            raise InputError(f"{part} data", "at least one example", f"shape {x.shape}")
    if split.train_x.shape[1:] != split.test_x.shape[1:]:
        raise InputError("test data", f"examples of shape {split.train_x.shape[1:]}", split.test_x.shape[1:])

    if isinstance(data, Dataset):
        split = _entering(net, split)
    if isinstance(loss, Loss):
        out_shape = _output_shape(net, split.train_x.shape[1:])
        for part, x, labels in parts:
            with inside(f"{part} data"):
                loss.check(np.broadcast_to(np.float32(0), (len(x), *out_shape)), labels)
    return split


def _entering(net: Layer, split: Split) -> Split:
    """Flattens images for a network that does not make one vector of an image as it is."""

    def fits(in_shape: Shape) -> bool:
        try:
            out_shape = _output_shape(net, in_shape)
        except (InputError, TypeError, ValueError):
            return False
        labels = split.train_labels
        return (
            len(out_shape) == labels.ndim if np.issubdtype(labels.dtype, np.integer) else out_shape == labels.shape[1:]
        )

    shape = split.train_x.shape[1:]
    if fits(shape) or not fits((math.prod(shape),)):
        return split
    flat = (x.reshape(len(x), -1) for x in (split.train_x, split.test_x))
    return Split(next(flat), split.train_labels, next(flat), split.test_labels)


@lru_cache(maxsize=32)
def _output_shape(net: Layer, in_shape: Shape) -> Shape:
    params, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
    return output_shape(net, params, state, in_shape)
