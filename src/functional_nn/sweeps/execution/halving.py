"""Successive halving of a sweep's members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.validation import check_counts, check_number
from functional_nn.sweeps.execution.member_batch import MemberHistory
from functional_nn.sweeps.results.member import check_metric


class Halving(NamedTuple):
    """Successive halving: after certain epochs, only the best members go on. Nothing is compiled again.

    Args:
        epochs: the epochs after which the members are compared, in rising order.
        keep: the share of the members that go on. At least one member goes on.
        metric: what is compared: the largest ``test_accuracy``, or the smallest ``test_loss`` or ``train_loss``.

    >>> Halving((1, 3), keep=0.25).kept(64)
    16

    References:
        Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
    """

    epochs: tuple[int, ...]
    keep: float = 1 / 3
    metric: str = "test_accuracy"

    def kept(self, members: int) -> int:
        """The number of members that go on."""
        return max(1, math.ceil(members * self.keep - 1e-9))

    def check(self, shortest: int) -> None:
        """Raises an InputError unless the epochs rise and are early enough, and share and metric are valid."""
        epochs = check_counts("halving", self.epochs, "rising epochs from 1 on")
        check_number("halving", self.keep, "a share to keep in (0, 1)", lambda keep: 0 < keep < 1)
        if not epochs or list(self.epochs) != sorted(set(self.epochs)) or self.epochs[0] < 1:
            raise InputError("halving", "rising epochs from 1 on", self.epochs)
        if self.epochs[-1] >= shortest:
            raise InputError("halving", f"epochs before the last one, {shortest}", self.epochs)
        check_metric(self.metric)

    def leave_out(self, histories: Sequence[MemberHistory]) -> None:
        """Ends the running members that are not among the best, with status "halved". Of equals, the first go on."""
        running = [history for history in histories if history.running]
        sign = -1 if self.metric == "test_accuracy" else 1
        values = np.nan_to_num([sign * getattr(history, self.metric)[-1] for history in running], nan=np.inf)
        for place in np.argsort(values, kind="stable")[self.kept(len(running)) :]:
            running[place].status = "halved"
