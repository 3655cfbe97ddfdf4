"""Preparation of data for training: arrays of one form, images flattened where a network needs it, bytes scaled."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError
from functional_nn.core.shapes import Shape
from functional_nn.core.trees import PyTree, path_of
from functional_nn.core.validation import as_host_array, check_integers_fit, is_array, shown
from functional_nn.data.dataset import Dataset, Split


def scaled_bytes(x: PyTree, dtype: DTypeLike = jnp.float32) -> PyTree:
    """Divides bytes by 255: uint8 arrays become numbers from 0 to 1; other arrays stay as they are.

    Images are kept as bytes, which take a quarter of the memory, and are scaled batch by batch inside the compiled
    program. Integers that are not pixels, such as tokens, must therefore have another type, such as int32.

    Args:
        x: an array, or a pytree of arrays.
        dtype: the floating-point type of the result.

    >>> print(scaled_bytes(jnp.array([0, 255], jnp.uint8)))
    [0. 1.]
    """

    def scaled(part: jax.Array) -> jax.Array:
        if not is_array(part):
            raise InputError("x", "arrays", shown(part))
        return part.astype(dtype) / 255 if part.dtype == jnp.uint8 else part

    return jax.tree.map(scaled, x)


def as_arrays(data: object) -> Dataset | Split:
    """A data set or a split with its arrays in NumPy, in the types that JAX computes in.

    Raises:
        InputError: for anything else, and for examples without labels or labels without examples.
    """
    if isinstance(data, Dataset):
        parts = {name: part for name, part in data._asdict().items() if name.endswith(("_images", "_labels"))}
        return data._replace(**{name: as_numpy(f"data.{name}", part) for name, part in parts.items()})
    if not isinstance(data, tuple) or not 2 <= len(data) <= len(Split._fields) or len(data) % 2:
        raise InputError("data", "a Dataset or a Split(train_x, train_labels, test_x, test_labels)", shown(data))
    split = Split(*data)
    for name in ("train", "test", "validation"):
        x, labels = split.part(name)
        if (x is None) != (labels is None) or (name == "train" and x is None):
            raise InputError(f"data.{name}_x", "examples together with labels", f"{shown(x)} and {shown(labels)}")
    return Split(*(as_numpy(f"data.{name}", part) for name, part in zip(Split._fields, split, strict=True)))


def as_numpy(argument: str, tree: PyTree) -> PyTree:
    """A pytree of arrays as NumPy arrays, in the types that JAX computes in. Lists of numbers are arrays, too."""

    def in_numpy(path: jax.tree_util.KeyPath, leaf: object) -> np.ndarray:
        place = f"{argument}/{path_of(path)}" if path else argument
        array = as_host_array(place, leaf)
        check_integers_fit(place, array)
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)

    return jax.tree_util.tree_map_with_path(in_numpy, tree, is_leaf=lambda node: isinstance(node, list))


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
        if forms[name] != forms["train"]:
            raise InputError(f"{name} data", f"examples of shape {forms['train']}", forms[name])
        # Bytes are divided by 255 and other numbers are not, so all parts must be bytes or none.
        types = [array.dtype for array in jax.tree.leaves(x)]
        train_types = [array.dtype for array in jax.tree.leaves(split.train_x)]
        if [dtype == np.uint8 for dtype in types] != [dtype == np.uint8 for dtype in train_types]:
            raise InputError(f"{name} data", f"examples of type {train_types[0]}, as for training", types[0])
    return split


def check_examples(part: str, x: PyTree, labels: PyTree) -> None:
    """Requires at least one example in a part of the data, and a label for each, along axis 0 of all arrays."""
    leaves = jax.tree.leaves((x, labels))
    shapes = f"shapes {_shapes(x)} and {_shapes(labels)}"
    is_one_number = isinstance(x, np.ndarray) and x.ndim < 2
    if is_one_number or not jax.tree.leaves(x) or not all(leaf.ndim for leaf in leaves):
        raise InputError(part, "as many labels as examples", shapes)
    if len({len(leaf) for leaf in leaves}) > 1:
        raise InputError(part, "as many labels as examples", shapes)
    if len(leaves[0]) == 0:
        raise InputError(part, "at least one example", f"shape {_shapes(x)}")
    if any(label.dtype == np.uint8 and label.ndim > 2 for label in jax.tree.leaves(labels)):
        remedy = "Only examples are divided by 255. Divide labels by functional_nn.data.scaled_bytes."
        raise InputError(part, "labels that are not images of bytes", f"uint8 of shape {_shapes(labels)}", remedy)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda array: array.shape, tree)


def number_of_examples(x: PyTree) -> int:
    """The number of examples, which are along axis 0 of every array."""
    return jax.tree.leaves(x)[0].shape[0]


def flattened_where_needed(split: Split, output_shape: Callable[[Shape], Shape]) -> Split:
    """Images as vectors, if the network takes only these. Images are arrays of bytes with at least two axes each.

    A network takes images as they are if its output for one image fits the labels: one number per class for integer
    labels, else the shape of a label. If it does not, but does so for a flat image, the images are flattened.

    Args:
        split: the data.
        output_shape: the network's output shape for an input shape; raises if the network cannot take it.
    """
    x, labels = split.train_x, split.train_labels
    if not isinstance(x, np.ndarray) or not isinstance(labels, np.ndarray):
        return split
    if x.dtype != np.uint8 or x.ndim < 3:
        return split

    def fits(in_shape: Shape) -> bool:
        try:
            out_shape = output_shape(in_shape)
        except (InputError, TypeError, ValueError):
            return False
        if np.issubdtype(labels.dtype, np.integer):
            return len(out_shape) == labels.ndim
        return out_shape == labels.shape[1:]

    shape = x.shape[1:]
    if fits(shape) or not fits((math.prod(shape),)):
        return split

    def flat(examples: np.ndarray | None) -> np.ndarray | None:
        return None if examples is None else examples.reshape(len(examples), -1)

    return split._replace(train_x=flat(x), test_x=flat(split.test_x), validation_x=flat(split.validation_x))
