"""``show``: shows parameters, networks, results and figures in a notebook or in a terminal."""

from __future__ import annotations

import sys

import jax
import numpy as np

from functional_nn.core.display import in_notebook
from functional_nn.core.errors import InputError
from functional_nn.core.layer import HasLayer, Layer, as_layer
from functional_nn.core.shapes import Shape
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array, shown
from functional_nn.reports.notebook.parameters import parameter_table
from functional_nn.reports.summary import summary


def show(value: PyTree, in_shape: Shape | list[int] | None = None) -> None:
    """Shows a value: parameters as a tree with statistics, a network with its sizes, a figure, or a result.

    In a notebook it is displayed as HTML or as a picture, also in the middle of a cell. In a terminal it is printed;
    a figure is opened in the system's viewer.

    Args:
        value: parameters or another pytree of arrays, which is shown with the shape, the type, the mean, the standard
            deviation, the smallest and the largest element and the number of non-finite elements of each array. Or
            a layer, a data set, or any result of this package.
        in_shape: for a network, the shape of one example. Its ``summary`` is shown.

    Raises:
        InputError: if the value has no arrays and is no object of this package.

    >>> import jax.numpy as jnp
    >>> show({"dense_0": {"bias": jnp.array([0.5, 1.5])}})
    array         shape  type     mean  std  min  max  non-finite
    dense_0/bias  (2,)   float32     1  0.5  0.5  1.5           0
    2 numbers in 1 array, 8 B
    """
    if in_shape is not None:
        if not isinstance(value, Layer | HasLayer):
            raise InputError("value", "a layer, because in_shape is given", shown(value))
        value = summary(as_layer(value), in_shape)
    figure = sys.modules.get("matplotlib.figure")
    if figure is not None and isinstance(value, figure.Figure):
        value.show()
        return
    if not hasattr(value, "_repr_html_") or is_array(value):
        value = parameter_table(_checked_tree(value))
    if in_notebook():
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        display(value)
    else:
        print(value)


def _checked_tree(value: PyTree) -> PyTree:
    """A pytree of arrays and numbers, as it is."""
    leaves = jax.tree.leaves(value)
    kinds = jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct, bool, int, float, complex
    if not leaves or not all(isinstance(leaf, kinds) for leaf in leaves):
        raise InputError("value", "a pytree of arrays, such as parameters, or an object of functional_nn", shown(value))
    return value
