"""Preparation of data for training: examples and labels as NumPy arrays, a label for each example, and bytes scaled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.errors import check
from functional_nn.core.trees import PyTree, path_of
from functional_nn.core.validation import as_host_array, check_integers_fit, is_array


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


def as_numpy(argument: str, tree: PyTree, *, in_types_of_jax: bool = True) -> PyTree:
    """A pytree of arrays as NumPy arrays. Lists of numbers are arrays, too.

    Args:
        argument: what they belong to, for errors.
        tree: the arrays.
        in_types_of_jax: whether they get the types that JAX computes in. This can copy an array
            whose numbers are in a file.
    """

    def in_numpy(path: jax.tree_util.KeyPath, leaf: object) -> np.ndarray:
        place = f"{argument}/{path_of(path)}" if path else argument
        array = as_host_array(place, leaf)
        if not in_types_of_jax:
            return array
        check_integers_fit(place, array)
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)

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
