"""What a hand-derived backward pass returns: cotangents in the shapes and types of parameters and input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.masked import Value
from functional_nn.core.shapes import Shape
from functional_nn.core.trees import PyTree, is_under, path_of
from functional_nn.core.validation import shown


@jax.tree_util.register_static
@dataclass(frozen=True)
class TypesByPath:
    """The shapes and types of all arrays in parameters and in an input, which are known when a program is traced.

    It is a pytree without arrays, so it can travel with the residuals of a forward pass at no cost.
    """

    types: tuple[tuple[str, jax.ShapeDtypeStruct], ...]

    @classmethod
    def of(cls, params: Mapping[str, PyTree], x: Value) -> TypesByPath:
        """The shapes and types in parameters and in the input that belongs to them."""
        leaves = leaves_and_none({"params_bar": params, "x_bar": x}).items()
        return cls(
            tuple(
                (path, jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)))
                for path, leaf in leaves
                if leaf is not None
            )
        )


def cotangents_of(returned: object) -> tuple[PyTree, PyTree]:
    """``(params_bar, x_bar)``, as a backward pass returned it.

    Raises:
        InputError: if it is no pair, or a pair in the other order.
    """
    expected = "(params_bar, x_bar) to come back"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        given = f"{len(returned)} values" if isinstance(returned, tuple | list) else shown(returned)
        raise InputError("backward", expected, given)
    params_bar, x_bar = returned
    if params_bar is not None and not isinstance(params_bar, Mapping):
        remedy = "params_bar is a dict like params, and {} for a layer without parameters."
        given = "(x_bar, params_bar)" if isinstance(x_bar, Mapping) else f"{shown(params_bar)} as params_bar"
        raise InputError("backward", expected, given, remedy)
    return params_bar, x_bar


def check_cotangents(expected: TypesByPath, params_bar: PyTree, x_bar: PyTree) -> None:
    """Requires a cotangent for each array, in its shape. None, for an array or a whole tree, stands for no gradient."""
    leaves = leaves_and_none({"params_bar": params_bar, "x_bar": x_bar})
    given = {path: None if leaf is None else jnp.shape(leaf) for path, leaf in leaves.items()}
    like = {path: kind.shape for path, kind in expected.types}
    names = ", ".join(like)
    for path in like:
        if not any(is_under(path, returned) for returned in given):
            raise InputError("backward", f"cotangents {names}", f"none for {path}", "None stands for no gradient.")
    for path, shape in given.items():
        if shape is not None and path not in like:
            raise InputError("backward", f"cotangents {names}", f"also {path}")
        if shape is not None and shape != like[path]:
            raise cotangent_error(f"backward: {path}", shape, like[path])


def cast_cotangents(expected: TypesByPath, params_bar: PyTree, x_bar: PyTree) -> tuple[PyTree, PyTree]:
    """The cotangents in the types of what they belong to, as ``jax.vjp`` gives them.

    If parameters and input have different types, the products in a formula have the wider one.
    """
    dtypes = {path: kind.dtype for path, kind in expected.types}

    def cast(path, bar):
        dtype = dtypes.get(path_of(path))
        if dtype is None or not all(jnp.issubdtype(kind, jnp.floating) for kind in (dtype, jnp.result_type(bar))):
            return bar
        return bar if jnp.result_type(bar) == dtype else jnp.asarray(bar, dtype)

    bars = jax.tree_util.tree_map_with_path(cast, {"params_bar": params_bar, "x_bar": x_bar})
    return bars["params_bar"], bars["x_bar"]


def leaves_and_none(tree: PyTree) -> dict[str, PyTree]:
    """Each array by its path, and None where it stands in place of an array or a tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is None)
    return {path_of(path): leaf for path, leaf in leaves}


def cotangent_error(argument: str, given: Shape, expected: Shape) -> InputError:
    """The error for a cotangent of another shape than that of what it belongs to, with its likely cause.

    >>> print(cotangent_error("weight", (5, 3), (3, 5)))
    weight: expected a cotangent of shape (3, 5), got (5, 3). Transpose it.
    >>> print(cotangent_error("bias", (8, 5), (5,)))
    bias: expected a cotangent of shape (5,), got (8, 5). Sum over the axes along which it was broadcast.
    """
    remedy = "A cotangent has the shape of what it belongs to."
    if given == expected[::-1]:
        remedy = "Transpose it."
    elif _broadcasts_to(expected, given):
        remedy = "Sum over the axes along which it was broadcast."
    return InputError(argument, f"a cotangent of shape {expected}", given, remedy)


def _broadcasts_to(shape: Shape, larger: Shape) -> bool:
    try:
        return np.broadcast_shapes(shape, larger) == larger
    except ValueError:
        return False
