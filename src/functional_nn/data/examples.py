"""Examples and labels as NumPy arrays, and the check that each example has a label."""

from __future__ import annotations

import jax
import numpy as np

from functional_nn.core.errors import check
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
    is_one_number = isinstance(x, np.ndarray) and x.ndim < 2
    are_rows = jax.tree.leaves(x) and not is_one_number and all(leaf.ndim for leaf in leaves)
    lengths = {len(leaf) for leaf in leaves} if are_rows else set()
    is_transposed = isinstance(x, np.ndarray) and x.ndim == 2 and lengths == {len(x), x.shape[1]} != {len(x)}
    remedy = "Examples are along the first axis: write x.T." if is_transposed else ""
    check(part, (x, labels), "as many labels as examples", len(lengths) == 1, remedy)
    check(part, x, "at least one example", len(leaves[0]))
    are_images = any(label.dtype == np.uint8 and label.ndim > 2 for label in jax.tree.leaves(labels))
    remedy = "Only examples are divided by 255. Divide labels by functional_nn.data.scaled_bytes."
    check(part, labels, "labels that are not images of bytes", not are_images, remedy)


def number_of_examples(x: PyTree) -> int:
    """The number of examples, which are along axis 0 of every array."""
    return jax.tree.leaves(x)[0].shape[0]


def _place(argument: str, path: jax.tree_util.KeyPath) -> str:
    """The name of an array in messages: the argument that it is in, and its path there."""
    return f"{argument}/{path_of(path)}" if path else argument
