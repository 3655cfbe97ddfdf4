"""Folds of a data set for cross-validation."""

from __future__ import annotations

import jax
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.texts import is_count
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.examples import check_examples, number_of_examples
from functional_nn.data.preparation import as_arrays
from functional_nn.training.argument_checks import check_seed


def folds(data: Dataset | Split, count: int, *, seed: int = 0) -> dict[str, Dataset | Split]:
    """Divides the training examples into ``count`` parts; each fold tests on one part and trains on the others.

    The test examples are not used, so they remain for the final test. Folds of equal size share a compiled program, so
    choose a count that divides the number of examples.

    Raises:
        InputError: for data with validation examples, which no fold would use; and for a count that does not fit.

    >>> import functional_nn as fnn
    >>> five = folds(fnn.load_dataset("mnist5k"), 5)
    >>> list(five)[:2], five["fold_0"].train_images.shape[0], five["fold_0"].test_images.shape[0]
    (['fold_0', 'fold_1'], 3200, 800)
    """
    data = as_arrays(data)
    check_seed("seed", seed)
    split = data.split() if isinstance(data, Dataset) else data
    x, labels = split.part("train")
    check_examples("data", x, labels)
    if split.validation_x is not None:
        remedy = "Make folds of all training examples. Call with_validation of each fold if you need it."
        raise InputError("data", "data without validation examples", "data that have some", remedy)
    examples = number_of_examples(x)
    if not is_count(count, least=2, most=examples):
        raise InputError("count", f"an integer from 2 to {examples}, the number of training examples", shown(count))
    parts = np.array_split(np.random.default_rng(seed).permutation(examples), count)

    def chosen(tree: PyTree, rows: np.ndarray) -> PyTree:
        return jax.tree.map(lambda array: array[rows], tree)

    def fold(number: int) -> Dataset | Split:
        train, test = np.concatenate([part for i, part in enumerate(parts) if i != number]), parts[number]
        arrays = (chosen(x, train), chosen(labels, train), chosen(x, test), chosen(labels, test))
        if isinstance(data, Dataset):
            name = f"{data.name}, fold {number} of {count}"
            return Dataset(name, *arrays, data.classes, data.source, class_names=data.class_names)
        return Split(*arrays)

    return {f"fold_{number}": fold(number) for number in range(count)}
