"""The records on MNIST: their rules, their anchors, and the candidates among which each setting was chosen."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import optax

import functional_nn as fnn
from benchmarks.mnist_records.networks import CLASSES, separable, two_convolutions

VALIDATION_SHARE = 1 / 6
"""10,000 of the 60,000 training images. The test images are not used to choose."""


@dataclass(frozen=True)
class Setting:
    """A network and how it is trained: AdamW with a one-cycle learning rate.

    Args:
        network: makes the network, with its augmentation.
        epochs, batch_size, learning_rate, weight_decay: of the training.
    """

    network: Callable[[], fnn.Layer]
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """The optimizer for a run of this number of updates."""
        rate = fnn.training.schedule("one-cycle", self.learning_rate, steps)
        return optax.adamw(rate, weight_decay=self.weight_decay)

    def numbers(self) -> dict[str, float]:
        """Everything but the network, as it is recorded."""
        return {name: value for name, value in asdict(self).items() if name != "network"}


@dataclass(frozen=True)
class Record:
    """A record: its goal, the figure to compare with, and the settings.

    Args:
        title: what is as small, fast or accurate as possible.
        goal: the accuracy on the test digits that counts.
        anchor: the figure of others to compare with.
        candidates: settings by name, compared on the validation images.
        chosen: the name of the candidate that is trained on all training images.
        timed: whether the time counts; then each seed has a process of its own.
        ensemble: whether the networks of all seeds are tested together, too.
    """

    title: str
    goal: float
    anchor: str
    candidates: Mapping[str, Setting]
    chosen: str
    timed: bool = False
    ensemble: bool = False

    @property
    def setting(self) -> Setting:
        """The chosen setting."""
        return self.candidates[self.chosen]


def _lenet(*hidden: int) -> Callable[[], fnn.Layer]:
    return lambda: fnn.with_hand_vjp(fnn.model("lenet", CLASSES, hidden=hidden))


def _deep_cnn(dropout: float, shift: int, deformation: float) -> Callable[[], fnn.Layer]:
    """`deep_cnn` behind the augmentation, as `functional-nn train --model deep_cnn --shift … --deform …` makes it."""

    def network() -> fnn.Layer:
        deform = [fnn.random_deformation(deformation)] if deformation else []
        net = fnn.model("deep_cnn", CLASSES, dropout=dropout)
        return fnn.with_hand_vjp(fnn.chain(*deform, fnn.random_shift(shift), net))

    return network


def _best(dropout: float, shift: int, deformation: float) -> Setting:
    return Setting(_deep_cnn(dropout, shift, deformation), 15, 128, 0.003, weight_decay=0.01)


RECORDS: dict[str, Record] = {
    "parameters-99": Record(
        title="fewest parameters for 99%",
        goal=0.99,
        anchor="4,862 parameters, 99.07%",
        candidates={
            "two convolutions, 12 and 16": Setting(lambda: two_convolutions(12, 16, shift=1), 15, 128, 0.015),
            "separable, 16 and 24, 1 block": Setting(lambda: separable(16, 24, 1, shift=1), 15, 128, 0.015),
            "separable, 16 and 24, 2 blocks": Setting(lambda: separable(16, 24, 2, shift=1), 15, 128, 0.015),
            "separable, 16 and 32, 2 blocks": Setting(lambda: separable(16, 32, 2, shift=1), 15, 128, 0.015),
        },
        chosen="separable, 16 and 32, 2 blocks",
    ),
    "parameters-98": Record(
        title="fewest parameters for 98%",
        goal=0.98,
        anchor="575 parameters",
        candidates={
            "separable, 6 and 8, window 5": Setting(lambda: separable(6, 8, 1), 40, 64, 0.02),
            "separable, 7 and 8, window 4": Setting(lambda: separable(7, 8, 1, window=4), 40, 64, 0.02),
        },
        chosen="separable, 6 and 8, window 5",
    ),
    "time-99": Record(
        title="99% in the least time",
        goal=0.99,
        anchor="0.76 s for one epoch on a laptop GPU",
        candidates={
            "16, 32, 128": Setting(_lenet(16, 32, 128), 1, 64, 0.02),
            "12, 24, 96": Setting(_lenet(12, 24, 96), 1, 64, 0.02),
            "16, 32, 128 in batches of 128": Setting(_lenet(16, 32, 128), 1, 128, 0.02),
        },
        chosen="16, 32, 128 in batches of 128",
        timed=True,
    ),
    "best": Record(
        title="best single network, and ensemble",
        goal=0.9983,
        anchor="99.83%; an ensemble 99.87% to 99.91%",
        candidates={
            "dropout 0.25, shift 2, deformation 0.2": _best(0.25, 2, 0.2),
            "dropout 0.4, shift 2, deformation 0.2": _best(0.4, 2, 0.2),
            "dropout 0.25, shift 2, deformation 0.3": _best(0.25, 2, 0.3),
            "dropout 0.25, shift 2, no deformation": _best(0.25, 2, 0.0),
        },
        chosen="dropout 0.25, shift 2, deformation 0.2",
        ensemble=True,
    ),
}
"""Every record by its name on the command line. The candidates of `best` differ in the flags of `--recipe best`."""
