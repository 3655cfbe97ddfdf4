"""Saving and loading of parameters, in a safetensors file with a checksum."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, short_repr
from functional_nn.core.layer import Params, State
from functional_nn.core.layer_checks import check_trees
from functional_nn.storage.arrays import (
    MOST_PARAMETERS,
    check_array,
    differences,
    form,
    named_arrays,
    packed,
    tree_like,
    unpacked,
)
from functional_nn.storage.files import check_path, write_whole


def save_parameters(path: str | os.PathLike[str], params: Params, state: State) -> None:
    """Writes parameters and state under the names ``params/dense_0/weight``, ``state/batch_norm_0/mean``, ….

    The file is written under a temporary name first, so that an interrupted call leaves the old file. Its header has a
    checksum, which ``load_parameters`` verifies.
    """
    path = check_path("path", path)
    check_trees(params, state)
    if not path.parent.is_dir():
        raise DataError(str(path), "a file in a folder that exists", "no such folder", "Make the folder first.")
    write_whole(path, packed(named_arrays({"params": params, "state": state}), {}))


def load_parameters(path: str | os.PathLike[str], like: tuple[Params, State]) -> tuple[Params, State]:
    """Reads a file that ``save_parameters`` wrote, and checks it against the structure of a network.

    Args:
        path: the file.
        like: parameters and state of the network, as arrays or as shapes. ``jax.eval_shape`` gives the shapes. Write
            the shape of an example inside the lambda, as below, because ``eval_shape`` traces its arguments.

    Raises:
        DataError: if the file is missing, damaged, or of another network. The error lists the paths that differ.

    >>> import functional_nn as fnn, jax, tempfile
    >>> net = fnn.chain(fnn.flatten(), fnn.dense(10))
    >>> params, state = net.init(jax.random.key(0), (28, 28, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_parameters(f"{folder}/net.safetensors", params, state)
    ...     like = jax.eval_shape(lambda key: net.init(key, (28, 28, 1)), jax.random.key(0))
    ...     params, state = load_parameters(f"{folder}/net.safetensors", like)
    >>> params["dense_0"]["weight"].shape
    (784, 10)
    """
    path = check_path("path", path)
    if not isinstance(like, tuple) or len(like) != 2 or not all(isinstance(tree, Mapping) for tree in like):
        raise InputError("like", "a network's parameters and state, as its init gives them", short_repr(like))
    try:
        found, _ = unpacked(path, most=MOST_PARAMETERS, follow_links=True)
    except FileNotFoundError:
        remedy = "Give a run folder that 'functional-nn train --out', 'import' or 'export --to hub' wrote, whole."
        raise DataError(str(path), "a file of parameters", "no such file", remedy) from None
    named = {"params": like[0], "state": like[1]}
    found_forms = {path: form(leaf) for path, leaf in found.items()}
    expected_forms = {path: form(check_array(path, leaf)) for path, leaf in trees.flatten(named).items()}
    if different := differences(found_forms, expected_forms):
        raise DataError(str(path), "the parameters of this network", different)
    read = tree_like(named, found, str(path), {})
    return read["params"], read["state"]


def is_own_file(path: Path) -> bool:
    """Whether ``save_parameters`` wrote a file. Files of other programs have arrays with other names."""
    try:
        arrays, about = unpacked(path, has_checksum=False, most=MOST_PARAMETERS, follow_links=True)
    except (DataError, FileNotFoundError):
        return False
    return "sha256" in about and bool(arrays) and all(name.startswith(("params/", "state/")) for name in arrays)
