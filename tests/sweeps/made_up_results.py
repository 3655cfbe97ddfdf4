"""Results of sweeps that nobody trained."""

import numpy as np

from functional_nn.sweeps.results import Member, SweepResult


def member(number, hyperparameters, accuracy, *, epochs=3, status="finished", loss=None, **more):
    """A member whose accuracy after the last epoch is the given one, and whose losses fall to 1 - accuracy."""
    rising = np.linspace(0.5, 1.0, epochs) if epochs > 1 else np.ones(epochs)
    falling = (1 - accuracy if loss is None else loss) / np.maximum(rising, 0.1)
    bad_step = 7 if status == "non-finite" else None
    curves = {"train_loss": falling / 2, "test_loss": falling, "test_accuracy": accuracy * rising}
    return Member(number, hyperparameters, status, bad_step, curves, **more)


def result(*members, **more):
    about = {"model": lambda h: None, "precision": "float32", "in_shape": (4,), **more}
    return SweepResult(members=tuple(members), **about)


def over_seeds(accuracies, start=0, **hyperparameters):
    """Members of one setting, one for each accuracy."""
    return [member(start + i, {**hyperparameters, "seed": i}, value) for i, value in enumerate(accuracies)]
