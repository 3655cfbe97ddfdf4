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
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import as_host_array, shown
from functional_nn.data.dataset import Dataset, Split


def scale_bytes(x: PyTree, dtype: DTypeLike) -> PyTree:
    """Divides bytes by 255: uint8 arrays become numbers from 0 to 1; other arrays stay as they are.

    Images are kept as bytes, which take a quarter of the memory, and are scaled batch by batch inside the compiled
    program. Integers that are not pixels, such as tokens, must therefore have another type, such as int32.

    Args:
        x: an array, or a pytree of arrays.
        dtype: the floating-point type of the result.

    >>> print(scale_bytes(jnp.array([0, 255], jnp.uint8), jnp.float32))
    [0. 1.]
    """
    return jax.tree.map(lambda part: part.astype(dtype) / 255 if part.dtype == jnp.uint8 else part, x)


def as_arrays(data: object) -> Dataset | Split:
    """Returns a data set unchanged, and a split with its arrays in NumPy, in the types that JAX computes in.

    Raises:
        InputError: for anything else, and for several arrays in the place of one.
    """
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, tuple) or len(data) != 4:
        raise InputError("data", "a Dataset or a Split(train_x, train_labels, test_x, test_labels)", shown(data))
    if any(isinstance(part, tuple) for part in data):
        remedy = "For masked sequences and several inputs, run make_epoch and make_evaluate."
        raise InputError("data", "one array of examples and one of labels in each part", "several", remedy)
    arrays = [as_host_array(f"data.{name}", part) for name, part in zip(Split._fields, data, strict=True)]
    return Split(*(a.astype(jax.dtypes.canonicalize_dtype(a.dtype), copy=False) for a in arrays))


def as_split(data: Dataset | Split) -> Split:
    """The examples and labels of a data set or a split, with their shapes checked."""
    arrays = as_arrays(data)
    if isinstance(arrays, Dataset):
        arrays = Split(arrays.train_images, arrays.train_labels, arrays.test_images, arrays.test_labels)
    parts = (("train data", arrays.train_x, arrays.train_labels), ("test data", arrays.test_x, arrays.test_labels))
    for part, x, labels in parts:
        if x.ndim < 2 or labels.ndim < 1 or len(x) != len(labels):
            raise InputError(part, "as many labels as examples", f"shapes {x.shape} and {labels.shape}")
        if len(x) == 0:
            raise InputError(part, "at least one example", f"shape {x.shape}")
    shape, test_shape = arrays.train_x.shape[1:], arrays.test_x.shape[1:]
    if shape != test_shape:
        raise InputError("test data", f"examples of shape {shape}", test_shape)
    return arrays


def flattened_where_needed(split: Split, output_shape: Callable[[Shape], Shape]) -> Split:
    """Images as vectors, if the network takes only these.

    A network takes images as they are if its output for one image fits the labels: one number per class for integer
    labels, else the shape of a label. If it does not, but does so for a flat image, the images are flattened.

    Args:
        split: with images (examples, height, width, channels).
        output_shape: the network's output shape for an input shape; raises if the network cannot take it.
    """

    def fits(in_shape: Shape) -> bool:
        try:
            out_shape = output_shape(in_shape)
        except (InputError, TypeError, ValueError):
            return False
        labels = split.train_labels
        if np.issubdtype(labels.dtype, np.integer):
            return len(out_shape) == labels.ndim
        return out_shape == labels.shape[1:]

    shape = split.train_x.shape[1:]
    if fits(shape) or not fits((math.prod(shape),)):
        return split
    train_x, test_x = (x.reshape(len(x), -1) for x in (split.train_x, split.test_x))
    return split._replace(train_x=train_x, test_x=test_x)
