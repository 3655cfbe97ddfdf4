"""A remark on a network that has not learned: its accuracy is no better than guessing."""

from __future__ import annotations

import numpy as np

from functional_nn.data.dataset import Dataset


def remark_on_guessing(status: str, accuracy: object, data: Dataset) -> str:
    """A sentence if a finished run is no better than the same answer for every test example; otherwise empty.

    Args:
        status: the status of the run.
        accuracy: its accuracy on the test examples; None if it has none.
        data: the data set.
    """
    guessing = np.bincount(data.test_labels).max() / len(data.test_labels)
    if status != "finished" or not isinstance(accuracy, float) or accuracy > guessing:
        return ""
    share = f"{guessing:.4f} for {data.classes} classes"
    return f"This is no better than guessing ({share}). Try a smaller learning rate."
