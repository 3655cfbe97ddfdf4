"""Folds of a data set for cross-validation."""

from __future__ import annotations

import numpy as np

from functional_nn.core.counts import is_count
from functional_nn.core.errors import InputError
from functional_nn.core.validation import shown
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.preparation import as_arrays
from functional_nn.training.argument_checks import check_seed


def folds(data: Dataset | Split, count: int, *, seed: int = 0) -> dict[str, Dataset | Split]:
    """Divides the training examples into ``count`` parts; each fold tests on one part and trains on the others.

    The test examples are not used, so they remain for the final test. Folds of equal size share a compiled program, so
    choose a count that divides the number of examples.

    >>> import functional_nn as fnn
    >>> five = folds(fnn.load_dataset("mnist5k"), 5)
    >>> list(five)[:2], five["fold_0"].train_images.shape[0], five["fold_0"].test_images.shape[0]
    (['fold_0', 'fold_1'], 3200, 800)
    """
    data = as_arrays(data)
    check_seed("seed", seed)
    x, labels = data[1:3] if isinstance(data, Dataset) else data[:2]
    if x.ndim < 1 or x.shape[:1] != labels.shape[:1]:
        raise InputError("data", "as many labels as examples", f"shapes {x.shape} and {labels.shape}")
    if not is_count(count, least=2, most=len(x)):
        raise InputError("count", f"an integer from 2 to {len(x)}, the number of training examples", shown(count))
    parts = np.array_split(np.random.default_rng(seed).permutation(len(x)), count)

    def fold(number: int) -> Dataset | Split:
        train = np.concatenate([part for i, part in enumerate(parts) if i != number])
        arrays = (x[train], labels[train], x[parts[number]], labels[parts[number]])
        if isinstance(data, Dataset):
            name = f"{data.name}, fold {number} of {count}"
            return Dataset(name, *arrays, data.classes, data.source, class_names=data.class_names)
        return Split(*arrays)

    return {f"fold_{number}": fold(number) for number in range(count)}
