"""Parameters on disk: one safetensors file, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from functional_nn import trees
from functional_nn.errors import DataError, InputError
from functional_nn.files import check_path, write_whole
from functional_nn.layer import Params, State, check_trees


def save_parameters(path: str | os.PathLike[str], params: Params, state: State) -> None:
    """Writes parameters and state under the paths ``params/dense_0/weight``, ``state/batch_norm_0/mean``, ….

    The file is written beside its place and moved there, so that an interrupted call leaves the old one.
    """
    from safetensors.numpy import save

    path = check_path("path", path)
    check_trees(params, state)
    leaves = {
        name: np.asarray(leaf, order="C") for name, leaf in trees.flatten({"params": params, "state": state}).items()
    }
    if not path.parent.is_dir():
        raise DataError(str(path), "a file in a folder that exists", "no such folder", "Make the folder first.")
    write_whole(path, save(leaves))


def load_parameters(path: str | os.PathLike[str], like: tuple[Params, State]) -> tuple[Any, Any]:
    """Reads what ``save_parameters`` wrote and checks it against the structure of ``like``, a network's own.

    Args:
        path: the file.
        like: parameters and state of the network, as arrays or shapes (``jax.eval_shape`` of its ``init``).

    Raises:
        DataError: for a file that is missing, damaged, or of another network; it lists the paths that differ.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = check_path("path", path)
    if not isinstance(like, tuple) or len(like) != 2 or not all(isinstance(tree, Mapping) for tree in like):
        raise InputError("like", "a network's parameters and state, as its init gives them", repr(like))
    remedy = "Give a run folder that 'functional-nn train --out' wrote, whole."
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise DataError(str(path), "a file of parameters", "no such file", remedy) from None
    except (SafetensorError, OSError) as error:
        raise DataError(str(path), "a file of parameters", f"a damaged one ({error})", remedy) from None
    expected = trees.flatten({"params": like[0], "state": like[1]})
    different = sorted(
        f"{name} {_form(found.get(name))} instead of {_form(expected.get(name))}"
        for name in found.keys() | expected.keys()
        if _form(found.get(name)) != _form(expected.get(name))
    )
    if different:
        raise DataError(str(path), "the parameters of this network", "; ".join(different))
    wide = [name for name, leaf in found.items() if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype]
    if wide:
        switch = 'Call jax.config.update("jax_enable_x64", True) first, or JAX would quietly narrow them.'
        raise DataError(str(path), "64-bit numbers switched on", f"64-bit {', '.join(wide)}", switch)
    leaves = [jax.numpy.asarray(found[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _form(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{np.dtype(leaf.dtype).name}{tuple(leaf.shape)}"
