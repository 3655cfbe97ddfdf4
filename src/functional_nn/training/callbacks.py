"""Callbacks for ``fit(on_epoch=…)``: a log as CSV, and early stopping.

``fit`` calls a callback after each epoch. A resumed run calls it for the epochs from its checkpoint first. So every
callback here starts anew at epoch 1: it can be used for one run after another, but not for two runs at the same time.
"""

from __future__ import annotations

import csv
import math
import os
import weakref
from contextlib import suppress

from functional_nn.core.errors import InputError, check, failing_as
from functional_nn.core.validation import check_count, check_number
from functional_nn.storage.files import check_path
from functional_nn.training.run import EpochMetrics, OnEpoch
from functional_nn.training.state import TrainState


def csv_log(path: str | os.PathLike[str]) -> OnEpoch:
    """A callback that writes the metrics of each epoch as a row of a CSV file.

    The columns are those of ``EpochMetrics.row()``: the epoch, each metric by its name, ``seconds``, ``skipped_steps``,
    ``clipped_steps`` and ``learning_rate``, which is empty if it is not known. Each row is on the disk
    when the next epoch starts. At epoch 1 the file is written anew, so a resumed run has no row twice.

    Args:
        path: of the file. It is made now, and its folder must exist. It stays open as long as the callback exists.

    Raises:
        InputError: if the file cannot be written to. After epoch 1, if it was removed.

    >>> from pathlib import Path
    >>> import tempfile, optax, functional_nn as fnn
    >>> data = fnn.load_dataset("mnist5k")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "log.csv"
    ...     log = fnn.training.callbacks.csv_log(path)
    ...     run = fnn.fit(fnn.dense(10), fnn.cross_entropy, optax.adam(1e-3), data, epochs=2, on_epoch=log)
    ...     lines = path.read_text().splitlines()
    >>> lines[0]
    'epoch,train_loss,test_loss,test_accuracy,seconds,skipped_steps,clipped_steps,learning_rate'
    >>> len(lines)
    3
    """
    file = check_path("path", path)
    # A file that cannot be written to is noticed before the first epoch. Opening it to append keeps its content. It
    # stays open, since another user may put a link to some other file in its place.
    with failing_as("path", "a file that can be written to", errors=OSError), open(file, "ab") as first:
        descriptor = os.dup(first.fileno())

    def on_epoch(metrics: EpochMetrics, train_state: TrainState) -> None:
        row, is_first = metrics.row(), metrics.epoch == 1
        with open(descriptor, "a", encoding="utf-8", newline="", closefd=False) as opened:
            if is_first:
                if not os.fstat(descriptor).st_nlink:
                    given = f"{file}, which was removed"
                    raise InputError("path", "the file that csv_log opened", given, "Call csv_log again.")
                with suppress(OSError):  # a pipe has no length
                    os.ftruncate(descriptor, 0)
            csv.writer(opened).writerows([row.keys(), row.values()] if is_first else [row.values()])

    weakref.finalize(on_epoch, os.close, descriptor)
    return on_epoch


def early_stopping(patience: int, metric: str | None = None, least_change: float = 0.0) -> OnEpoch:
    """A callback that stops the run if a metric has not improved for some epochs.

    The argument ``patience`` of ``fit`` does the same for the loss on the evaluated examples. NaN is no improvement.

    Args:
        patience: the number of epochs without an improvement after which the run stops.
        metric: the name of any metric of the run, such as ``"validation_accuracy"``. Smaller numbers are better if its
            name ends in ``loss``, ``error``, ``mae``, ``mse``, ``rmse``, ``brier_score`` or ``perplexity``, otherwise
            larger ones. None: the loss on validation examples, or else on test examples, or else in training.
        least_change: an epoch counts as an improvement if it is better than the best one by more than this.

    Raises:
        InputError: for arguments that cannot be used. After epoch 1, if the run has no metric of this name.

    >>> import optax, functional_nn as fnn
    >>> data = fnn.load_dataset("mnist5k").with_validation(0.2)
    >>> run = fnn.fit(
    ...     fnn.dense(10), fnn.cross_entropy, optax.adam(0.1), data, epochs=50,
    ...     on_epoch=fnn.training.callbacks.early_stopping(3, "validation_accuracy"))
    >>> accuracies = [metrics.metrics["validation_accuracy"] for metrics in run.history]
    >>> run.status, max(accuracies) == accuracies[-4]
    ('stopped', True)
    """
    check_count("patience", patience)
    check("metric", metric, "the name of a metric, or None", metric is None or isinstance(metric, str))
    check_number("least_change", least_change, "a number not below 0", lambda change: 0 <= change < math.inf)
    best, epochs_since_best = math.inf, 0

    def on_epoch(metrics: EpochMetrics, train_state: TrainState) -> bool:
        nonlocal best, epochs_since_best
        value = metrics.to_minimize(metric)
        epochs_since_best += 1
        if metrics.epoch == 1:
            best, epochs_since_best = math.inf if math.isnan(value) else value, 0
        elif value < best - least_change:
            best, epochs_since_best = value, 0
        return epochs_since_best >= patience

    return on_epoch
