"""Successive halving of a sweep's members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_counts, check_number, shown
from functional_nn.sweeps.execution.member_batch import MemberHistory
from functional_nn.training.epoch_metrics import default_metric, larger_is_better


class Halving(NamedTuple):
    """Successive halving: after certain epochs, only the best members go on. Nothing is compiled again.

    Args:
        epochs: the epochs after which the members are compared, in rising order.
        keep: the share of the members that go on. At least one member goes on.
        metric: what is compared, such as ``test_loss``; None for the accuracy if there is one, or else the loss, on
            validation examples if there are any, or else on test examples.

    >>> Halving((1, 3), keep=0.25).kept(64)
    16

    References:
        Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
    """

    epochs: tuple[int, ...]
    keep: float = 1 / 3
    metric: str | None = None

    def kept(self, members: int) -> int:
        """The number of members that go on."""
        # A product such as 0.07 * 100 is 7.000000000000001, which must not count as 8.
        return max(1, math.ceil(members * self.keep - 1e-9))

    def checked(self, shortest: int) -> Halving:
        """The same with plain numbers.

        Raises:
            InputError: unless the epochs rise and are early enough, and share and metric are valid.
        """
        epochs = check_counts("halving", self.epochs, "rising epochs from 1 on")
        keep = check_number("halving", self.keep, "a share to keep in (0, 1)", lambda keep: 0 < keep < 1)
        if not epochs or list(self.epochs) != sorted(set(self.epochs)) or self.epochs[0] < 1:
            raise InputError("halving", "rising epochs from 1 on", shown(self.epochs))
        if self.epochs[-1] >= shortest:
            raise InputError("halving", f"epochs before the last one, {shortest}", shown(self.epochs))
        if self.metric is not None and not isinstance(self.metric, str):
            raise InputError("halving", "the name of a metric", shown(self.metric))
        return Halving(epochs, float(keep), self.metric)

    def leave_out(self, histories: Sequence[MemberHistory]) -> None:
        """Ends the running members that are not among the best, with status "halved". Of equals, the first go on."""
        running = [history for history in histories if history.running]
        if not running:
            return
        names = tuple(running[0].curves)
        metric = self.metric or default_metric(names)
        # The best come first in rising order, and NaN comes last.
        sign = -1 if larger_is_better(metric) else 1
        values = np.nan_to_num([sign * history.curves[metric][-1] for history in running], nan=np.inf)
        for place in np.argsort(values, kind="stable")[self.kept(len(running)) :]:
            running[place].status = "halved"
