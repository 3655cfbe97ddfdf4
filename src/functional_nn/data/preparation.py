"""Preparation of data for training: arrays of one form, with their shapes checked, and bytes scaled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.errors import check, shown
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.examples import as_numpy, check_examples


def scaled_bytes(x: PyTree, dtype: DTypeLike = jnp.float32) -> PyTree:
    """Divides bytes by 255: uint8 arrays become numbers from 0 to 1; other arrays stay as they are.

    Images are kept as bytes, which take a quarter of the memory, and are scaled batch by batch inside the compiled
    program. Integers that are not pixels, such as tokens, must therefore have another type, such as int32.

    Args:
        x: an array, or a pytree of arrays.
        dtype: the floating-point type of the result.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.data.scaled_bytes(jnp.array([0, 255], jnp.uint8)))
    [0. 1.]
    """

    def scaled(part: jax.Array) -> jax.Array:
        check("x", part, "arrays", is_array(part))
        return part.astype(dtype) / 255 if part.dtype == jnp.uint8 else part

    return jax.tree.map(scaled, x)


def as_arrays(data: Any) -> Dataset | Split:
    """A data set or a split with its arrays in NumPy, in the types that JAX computes in.

    Raises:
        InputError: for anything else, and for examples without labels or labels without examples.
    """
    if isinstance(data, Dataset):
        parts = {name: part for name, part in data._asdict().items() if name.endswith(("_images", "_labels"))}
        return data._replace(**{name: as_numpy(f"data.{name}", part) for name, part in parts.items()})
    is_split = isinstance(data, tuple) and 2 <= len(data) <= len(Split._fields) and len(data) % 2 == 0
    remedy = "Write Split(table[columns].to_numpy(), labels)." if hasattr(data, "to_numpy") else ""
    check("data", data, "a Dataset or a Split(train_x, train_labels, test_x, test_labels)", is_split, remedy)
    split = Split(*data)
    for name in ("train", "test", "validation"):
        x, labels = split.part(name)
        are_both = (x is None) == (labels is None) and (name != "train" or x is not None)
        check(f"data.{name}_x", (x, labels), "examples together with labels", are_both)
    return Split(*(as_numpy(f"data.{name}", part) for name, part in zip(Split._fields, split, strict=True)))


def as_split(data: Dataset | Split) -> Split:
    """The examples and labels of a data set or a split, with their shapes checked."""
    arrays = as_arrays(data)
    split = arrays.split() if isinstance(arrays, Dataset) else arrays
    forms = {}
    for name in ("train", "test", "validation"):
        x, labels = split.part(name)
        if x is None:
            continue
        check_examples(f"{name} data", x, labels)
        forms[name] = jax.tree.map(lambda array: array.shape[1:], x)
        expected = f"examples of shape {forms['train']}"
        check(f"{name} data", x, expected, forms[name] == forms["train"])
        # Bytes are divided by 255 and other numbers are not, so all parts must be bytes or none.
        are_bytes, are_bytes_in_training = (
            [array.dtype == np.uint8 for array in jax.tree.leaves(part)] for part in (x, split.train_x)
        )
        expected = f"examples of the type of those for training, {shown(split.train_x)}"
        check(f"{name} data", x, expected, are_bytes == are_bytes_in_training)
    return split
