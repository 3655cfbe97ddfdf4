"""Examples and labels as NumPy arrays, and the check that each example has a label."""

from __future__ import annotations

import jax
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree, path_of
from functional_nn.core.validation import as_host_array, check_integers_fit


def as_numpy(argument: str, tree: PyTree) -> PyTree:
    """A pytree of arrays as NumPy arrays, in the types that JAX computes in. Lists of numbers are arrays, too."""

    def narrowed(path: jax.tree_util.KeyPath, array: np.ndarray) -> np.ndarray:
        check_integers_fit(_place(argument, path), array)
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)

    return jax.tree_util.tree_map_with_path(narrowed, as_host_arrays(argument, tree))


def as_host_arrays(argument: str, tree: PyTree) -> PyTree:
    """A pytree of arrays as NumPy arrays, in the types that they have. Lists of numbers are arrays, too."""

    def in_numpy(path: jax.tree_util.KeyPath, leaf: object) -> np.ndarray:
        return as_host_array(_place(argument, path), leaf)

    return jax.tree_util.tree_map_with_path(in_numpy, tree, is_leaf=lambda node: isinstance(node, list))


def check_examples(part: str, x: PyTree, labels: PyTree) -> None:
    """Requires at least one example in a part of the data, and a label for each, along axis 0 of all arrays."""
    leaves = jax.tree.leaves((x, labels))
    shapes = f"shapes {_shapes(x)} and {_shapes(labels)}"
    is_one_number = isinstance(x, np.ndarray) and x.ndim < 2
    if is_one_number or not jax.tree.leaves(x) or not all(leaf.ndim for leaf in leaves):
        raise InputError(part, "as many labels as examples", shapes)
    if len({len(leaf) for leaf in leaves}) > 1:
        is_transposed = isinstance(x, np.ndarray) and x.shape[1] == len(jax.tree.leaves(labels)[0])
        remedy = "Examples are along the first axis: write x.T." if is_transposed and x.ndim == 2 else ""
        raise InputError(part, "as many labels as examples", shapes, remedy)
    if len(leaves[0]) == 0:
        raise InputError(part, "at least one example", f"shape {_shapes(x)}")
    if any(label.dtype == np.uint8 and label.ndim > 2 for label in jax.tree.leaves(labels)):
        remedy = "Only examples are divided by 255. Divide labels by functional_nn.data.scaled_bytes."
        raise InputError(part, "labels that are not images of bytes", f"uint8 of shape {_shapes(labels)}", remedy)


def number_of_examples(x: PyTree) -> int:
    """The number of examples, which are along axis 0 of every array."""
    return jax.tree.leaves(x)[0].shape[0]


def _place(argument: str, path: jax.tree_util.KeyPath) -> str:
    """The name of an array in messages: the argument that it is in, and its path there."""
    return f"{argument}/{path_of(path)}" if path else argument


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda array: array.shape, tree)
