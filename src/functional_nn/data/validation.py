"""The choice of training examples that are kept for validation."""

from __future__ import annotations

import numpy as np

from functional_nn.core.counts import is_count
from functional_nn.core.errors import InputError, short_repr

# The command reads data while it imports JAX, so this module must not import JAX at its top.


def training_and_validation(
    examples: int, labels: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the examples that are kept for validation; returns the numbers of the others and theirs, both rising.

    With class numbers as labels, each class gives the same share of its examples, rounded to the nearest number
    (stratified).

    Args:
        examples: the number of training examples.
        labels: class numbers, one for each example; None if there are none.
        share: the share of the examples to keep for validation, between 0 and 1.
        seed: of the draw.

    >>> rest, kept = training_and_validation(8, np.array([0, 0, 0, 0, 0, 0, 1, 1]), 0.5, 0)
    >>> len(rest), int((kept < 6).sum()), int((kept >= 6).sum())
    (4, 3, 1)
    """
    if isinstance(share, bool) or not isinstance(share, int | float | np.floating) or not 0 < share < 1:
        raise InputError("share", "a number between 0 and 1", short_repr(share))
    if not is_count(seed, least=0, most=2**32 - 1):
        raise InputError("seed", "an integer from 0 to 2**32 - 1", short_repr(seed))
    random = np.random.default_rng(seed)
    classes = np.zeros(examples, int) if labels is None else labels
    kept = []
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        kept.append(members[: round(share * len(members))])
    validation = np.sort(np.concatenate(kept))
    if not 0 < len(validation) < examples:
        given = f"{share:g} of {examples} examples, which is {len(validation)}"
        raise InputError("share", "a share that leaves examples for training and for validation", given)
    return np.setdiff1d(np.arange(examples), validation), validation
