"""The host's loop: compile once, run epoch after epoch, report, and lose nothing when something goes wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.checks import as_host_array, check_flag, check_function, shown
from functional_nn.data.dataset import Dataset
from functional_nn.errors import InputError, inside
from functional_nn.inputs import Shape
from functional_nn.layer import Layer, Params, State, as_layer, output_shape
from functional_nn.losses import Loss
from functional_nn.progress import progress_bar
from functional_nn.training.arguments import check_counts, check_functions, check_seed
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.programs import Recipe, Split, compiled
from functional_nn.training.state import TrainState
from functional_nn.training.step import LossFunction, PenaltyFunction


class EpochMetrics(NamedTuple):
    """What an epoch came to. ``test_accuracy`` is NaN where labels are not integers."""

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """A training run: what it ended with, how it went, and whether it went to its end.

    Args:
        train_state: the last finite state; ``params`` and ``state`` are its parts.
        history: one ``EpochMetrics`` an epoch.
        status: ``"finished"``, ``"non-finite"`` or ``"interrupted"``.
        message: the status in words, empty for a finished run.
        in_shape: the shape of one example as the network was given it.
        precision: what it was trained in, as ``fit`` got it.
        seconds: ``compile`` (0 where the programs were already compiled) and ``train``.
    """

    train_state: TrainState
    history: tuple[EpochMetrics, ...]
    status: str
    message: str
    in_shape: Shape
    precision: str | Precision
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.train_state.params

    @property
    def state(self) -> State:
        """The network's state after training."""
        return self.train_state.state


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
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    progress: bool | None = None,
) -> Run:
    """Trains a network and evaluates it after every epoch.

    All full batches of an epoch are one compiled program; the data are on the device before the first. The same seed
    gives the same bits on the same machine. An epoch after which a loss, parameter or statistic is not finite is run
    again with steps that change nothing where that would happen, and is the last.
    Ctrl-C ends the run, and what was reached is returned.

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
        on_epoch: called with each epoch's metrics.
        progress: whether to show a progress bar; by default on a terminal.

    Raises:
        InputError: for arguments and data that do not fit, before anything is computed.

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
    check_seed("seed", seed)
    if on_epoch is not None:
        check_function("on_epoch", on_epoch, "a function of an epoch's metrics")
    if progress is not None:
        check_flag("progress", progress)
    split = prepared(net, loss, data)

    clock = time.perf_counter()
    recipe = Recipe(net, loss, optimizer, penalty)
    programs, compiled_now = compiled(recipe, {}, batch_size, policy, split)
    seconds = {"compile": time.perf_counter() - clock if compiled_now else 0.0}

    clock = time.perf_counter()
    train_x, train_labels, test_x, test_labels = jax.device_put(tuple(split))
    reached = (programs.start({}, jax.random.key(seed)), ())
    status, message = "finished", ""
    with progress_bar("training", epochs, progress) as advance:
        try:
            for number in range(epochs):
                clock_epoch = time.perf_counter()
                before, history = reached
                arguments = ({}, before, train_x, train_labels, jnp.int32(number), None)
                after, result = jax.block_until_ready(programs.epoch(*arguments))
                if int(result.bad_step) >= 0 or not stays_finite_on_host(before, after):
                    after, result = jax.block_until_ready(programs.careful_epoch(*arguments))
                elapsed = time.perf_counter() - clock_epoch
                evaluation = programs.evaluate({}, after, test_x, test_labels)
                train_loss, bad_step, test_loss, test_accuracy = map(float, jax.device_get((*result, *evaluation)))
                test_accuracy = nearest_share(test_accuracy, split.test_labels.size)
                metrics = EpochMetrics(number + 1, train_loss, test_loss, test_accuracy, elapsed)
                reached = (after, (*history, metrics))
                if on_epoch is not None:
                    on_epoch(metrics)
                advance(f"loss {train_loss:.4f}  test accuracy {test_accuracy:.4f}")
                if bad_step >= 0:
                    status = "non-finite"
                    message = (
                        f"Loss or update were not finite at step {bad_step:.0f} of epoch {number + 1}. Such steps "
                        "changed nothing, and the last finite state is kept. Try a smaller learning rate; look for NaN "
                        "in the data."
                        + (" Float16 ends at 65,504; bfloat16 reaches as far as float32." if policy.scales_loss else "")
                    )
                    break
        except KeyboardInterrupt:
            status = "interrupted"
            message = f"Interrupted after {len(reached[1])} of {epochs} epochs; what was reached is kept."
    seconds["train"] = time.perf_counter() - clock
    return Run(*reached, status, message, split.train_x.shape[1:], precision, seconds)


def nearest_share(value: float, count: int) -> float:
    """A share of ``count`` as the nearest float64 (0.911 and not float32's 0.9110000134); NaN stays."""
    return round(value * count) / count if math.isfinite(value) else value


def stays_finite_on_host(before: TrainState, after: TrainState) -> bool:
    """``stays_finite`` of everything but the keys, on the host, where it needs no compilation."""
    pairs = zip(*(jax.tree.leaves(side._replace(key=None)) for side in (before, after)), strict=True)
    return all((np.isfinite(new) | ~np.isfinite(old)).all() for old, new in jax.device_get(list(pairs)))


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
