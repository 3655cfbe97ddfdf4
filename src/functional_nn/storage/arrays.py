"""Pytrees as named arrays and back, their checksums, and safetensors files of them, such as parameters."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, check, check_data, inside, reading, shortened
from functional_nn.core.layer import Params, State
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_trees
from functional_nn.storage.files import JsonObject, check_fits, check_folder, check_path, opened, parsed, write_whole

Tree = TypeVar("Tree", bound=PyTree)
Shaped: TypeAlias = jax.Array | np.ndarray | jax.ShapeDtypeStruct

STORED_TYPES = {
    "BOOL": "bool",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64"},
}
"""The types of the numbers in a safetensors file, by the names that they have there."""

METADATA = "__metadata__"
"""The entry of a safetensors file's header that has texts about the arrays."""

MOST_ARRAYS = 10**5
"""The largest number of arrays in a file. A header from a stranger may list millions of empty ones."""

LARGEST_HEADER = 10**8
"""The largest header in bytes that the library reads, too."""

HEADER_OF_PARAMETERS = 8 * 10**6
"""The largest header of a file of parameters, which strangers share: 20,000 arrays with long paths."""

MOST_AXES = 64
"""The largest number of axes of a NumPy array. A path in a file may have as many parts."""

HEADER = {METADATA: ({...: str}, None), ...: {"dtype": str, "shape": [int], "data_offsets": [int]}}
"""The schema of a header."""

DAMAGES = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError)
"""The errors that a damaged header, or one from a stranger, can cause."""

MOST_LISTED = 12
"""The largest number of differences in a message."""


def named_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a pytree as NumPy arrays by path. A random key becomes its array of integers.

    Raises:
        InputError: for a leaf that is not an array, for a type that safetensors files cannot have, such as float8 or
            int4, for two leaves with the same path, and for the path ``__metadata__``.

    >>> named_arrays({"layer": {"bias": np.float32([1, 2])}})
    {'layer/bias': array([1., 2.], dtype=float32)}
    """
    leaves = trees.flatten(tree)
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise InputError("tree", "a path of its own for every array", "two with the same", "Use keys without '/'.")
    if METADATA in leaves:  # such a file could be written, but never be read
        raise InputError("tree", f"another path than {METADATA}, which safetensors files use", METADATA, "Rename it.")
    for path, leaf in leaves.items():
        check_array(path, leaf)
        if not is_key(leaf) and np.dtype(leaf.dtype).name not in STORED_TYPES.values():
            remedy = f"There are: {', '.join(STORED_TYPES.values())}."
            raise InputError(path, "numbers of a type that safetensors files have", str(leaf.dtype), remedy)
    return {path: as_stored(leaf) for path, leaf in leaves.items()}


def check_array(path: str, leaf: Shaped) -> Shaped:
    """Requires an array of a tree, or its shape and type; gives it back.

    Args:
        path: its path in the tree, for the error.
        leaf: what the tree has there.
    """
    is_array = hasattr(leaf, "dtype") and hasattr(leaf, "shape") and leaf.dtype != object
    check(path or "tree", leaf, "an array", is_array, "Make one by jax.numpy.asarray.")
    return leaf


def as_stored(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """The array of a leaf in a file: in this machine's byte order and in C order. A random key becomes integers."""
    array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf, order="C")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_key(leaf: Shaped) -> bool:
    """Whether an array, or a shape and type, consists of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def key_types(tree: PyTree) -> dict[str, str]:
    """The generator of each random key in a pytree, by its path."""
    return {path: str(jax.random.key_impl(leaf)) for path, leaf in trees.flatten(tree).items() if is_key(leaf)}


def form(leaf: Shaped) -> str:
    """The type and the shape of an array as text.

    >>> form(np.zeros((2, 3), np.float32))
    'float32(2, 3)'
    """
    return f"{leaf.dtype if is_key(leaf) else np.dtype(leaf.dtype).name}{tuple(leaf.shape)}"


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The differences between the arrays of two trees as text; empty if there are none.

    Args:
        found, expected: the type and shape of each array by its path, as ``form`` gives them.

    >>> differences({"w": "float32(3,)"}, {"w": "float32(4,)", "b": "int32()"})
    'w float32(3,) instead of float32(4,); b nothing instead of int32()'
    """
    # The parts of the tree keep their order, so that parameters come before the optimizer's arrays for them.
    roots = dict.fromkeys(path.partition("/")[0] for path in (*expected, *found))
    places = {root: place for place, root in enumerate(roots)}
    paths = sorted(found.keys() | expected.keys(), key=lambda path: (places[path.partition("/")[0]], path))
    return listed(
        [
            f"{shortened(path)} {shortened(found.get(path, 'nothing'))} instead of {expected.get(path, 'nothing')}"
            for path in paths
            if found.get(path) != expected.get(path)
        ]
    )


def listed(differences: Sequence[str], more: int = 0) -> str:
    """Lists the first differences in one sentence, with the number of the others.

    Args:
        differences: the differences, in words.
        more: the number of further ones, for which no words were made.
    """
    left_out = len(differences) - MOST_LISTED + more
    return "; ".join(differences[:MOST_LISTED]) + (f"; and {left_out} more" if left_out > 0 else "")


def tree_like(like: Tree, found: Mapping[str, np.ndarray], place: str, key_types: Mapping[str, str]) -> Tree:
    """Builds a pytree with the structure of ``like`` from named arrays: the reverse of ``named_arrays``.

    Args:
        like: a pytree with the structure.
        found: the arrays by path.
        place: the file of the arrays, for error messages.
        key_types: the generator of each random key, by path.

    Raises:
        DataError: for 64-bit numbers while JAX has them switched off, and for arrays that are missing or are no keys.
    """
    # The paths are in the order of the leaves, so the leaves can be put back into the structure.
    paths = list(trees.flatten(like))
    with reading(place, "all arrays, and a generator for each random key", errors=DAMAGES):
        wide = [path for path in paths if jax.dtypes.canonicalize_dtype(found[path].dtype) != found[path].dtype]
        if wide:
            switch = 'Call jax.config.update("jax_enable_x64", True) first, or JAX would quietly narrow them.'
            raise DataError(place, "64-bit numbers switched on", f"64-bit {listed(wide)}", switch)
        leaves = {path: jnp.asarray(found[path]) for path in paths}
        leaves |= {path: jax.random.wrap_key_data(leaves[path], impl=key_types[path]) for path in key_types}
    return jax.tree.unflatten(jax.tree.structure(like), leaves.values())


def checksum(arrays: Mapping[str, ArrayLike], more: str = "") -> str:
    """The SHA-256 of a text and of arrays with their names, types and shapes. The order of the names has no effect.

    >>> checksum({"a": np.zeros(2)}) == checksum({"a": np.zeros((2, 1))})
    False
    """
    digest = hashlib.sha256(more.encode())
    for name in sorted(arrays):
        digest.update(f"{name} ".encode(errors="surrogatepass"))
        add_to_digest(digest, np.asarray(arrays[name], order="C"))
    return digest.hexdigest()


def checksum_of(argument: str, tree: PyTree) -> str:
    """The checksum of an argument, a pytree of arrays. Errors name the argument."""
    with inside(argument):
        return checksum(named_arrays(tree))


def add_to_digest(digest: hashlib._Hash, array: np.ndarray) -> None:
    """Adds the type, the shape and the numbers of an array in C order to a digest."""
    digest.update(f"{array.dtype} {array.shape}".encode())
    # A scalar cannot be viewed as bytes, but a vector of one element can.
    digest.update(array.reshape(-1).view(np.uint8).data)


def packed(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> bytes:
    """Makes the content of a safetensors file. Its header has texts about the arrays and a checksum of everything.

    Equal arrays and texts give equal bytes.
    """
    from safetensors.numpy import save

    # With too little memory, the library would end the process. This is a MemoryError instead. It uses no memory.
    np.empty(2 * sum(array.nbytes for array in arrays.values()), np.uint8)
    content = save(dict(arrays), {**about, "sha256": checksum(arrays, json.dumps(about, sort_keys=True))})
    # A file begins with the length of its header, a JSON text. The library writes the texts in it in a random order.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header[METADATA] = dict(sorted(header[METADATA].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return b"".join((content[:8], text.ljust(end - 8), content[end:]))


def _form_in_header(path: Path, array: Mapping[str, Any]) -> str:
    """The type and the shape of an array as the header of a file has them."""
    if array["dtype"] not in STORED_TYPES:
        expected = f"numbers of a type that can be read ({', '.join(STORED_TYPES.values())})"
        raise DataError(str(path), expected, f"another one ({shortened(array['dtype'])})")
    return f"{STORED_TYPES[array['dtype']]}{tuple(array['shape'])}"


def unpacked(
    path: Path,
    *,
    has_checksum: bool = True,
    longest: int = LARGEST_HEADER,
    most_bytes: float | None = None,
    forms: Mapping[str, str] | None = None,
    follow_links: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file: the arrays, and the texts about them.

    Args:
        path: the file.
        has_checksum: whether ``packed`` must have made the file, with a checksum in its header. Otherwise a checksum is
            verified if there is one, and no other text.
        longest: the largest number of bytes of the header.
        most_bytes: the largest number of bytes of the file. A small archive can contain gigabytes.
        forms: the type and the shape that each array must have, by its path. They are compared before the arrays are
            read.
        follow_links: for a path that the user named for this file alone. Otherwise a symbolic link is an error.

    Raises:
        DataError: if it is missing, damaged, a link that is not followed, or has too many arrays or bytes, other arrays
            than those in ``forms``, or numbers of a type that NumPy lacks, such as float8.
    """
    from safetensors import SafetensorError, deserialize

    with (
        reading(path, "a safetensors file", errors=(*DAMAGES, SafetensorError)),
        opened(path, most=most_bytes, follow_links=follow_links) as file,
    ):
        beginning, header, about = _header(file, longest)
        given = {name: _form_in_header(path, array) for name, array in header.items()}
        if forms is not None and (different := differences(given, forms)):
            raise DataError(str(path), "the parameters of this network", different)
        end = sum(math.prod(one["shape"]) * np.dtype(STORED_TYPES[one["dtype"]]).itemsize for one in header.values())
        if os.fstat(file.fileno()).st_size != len(beginning) + end:  # so that no more than the arrays is read
            raise ValueError("it is longer or shorter than its header says")
        # The library can map a file into memory instead, but then the process would crash if somebody cuts the file.
        arrays = {
            name: np.frombuffer(array["data"], STORED_TYPES[array["dtype"]]).reshape(array["shape"])
            for name, array in sorted(deserialize(beginning + file.read(end)))
        }
    if not has_checksum and set(about) != {"sha256"}:  # a file of another program
        return arrays, about
    found = about.pop("sha256", None)
    check_data(str(path), found, "a checksum", found is not None, "Give a file that functional_nn wrote.")
    if found != checksum(arrays, json.dumps(about, sort_keys=True)):
        raise DataError(str(path), "the arrays that were written", "a damaged file, whose checksum does not match")
    return arrays, about


def texts_in(path: Path) -> dict[str, str]:
    """The texts about the arrays of a safetensors file. Its arrays are not read, and no checksum is verified.

    Raises:
        one of `DAMAGES`: if the file cannot be read.
    """
    with opened(path) as file:
        return _header(file, LARGEST_HEADER)[2]


def _header(file: BinaryIO, longest: int) -> tuple[bytes, JsonObject, dict[str, str]]:
    """The first bytes of a safetensors file, the entries of its arrays in them, and the texts about the arrays."""
    beginning = file.read(8)
    if (length := int.from_bytes(beginning, "little")) > longest:
        raise ValueError(f"a header of more than {longest:,} bytes")
    beginning += file.read(length)
    header = parsed(beginning[8:])
    check_fits(header, HEADER)
    about = header.pop(METADATA, None) or {}
    # Before the size of an array is computed: the product of a million large numbers takes hours.
    if len(header) > MOST_ARRAYS or any(len(array["shape"]) > MOST_AXES for array in header.values()):
        raise ValueError(f"more than {MOST_ARRAYS:,} arrays, or an array of more than {MOST_AXES} axes")
    return beginning, header, about


def save_parameters(path: str | os.PathLike[str], params: Params, state: State) -> None:
    """Writes parameters and state under the names ``params/dense_0/weight``, ``state/batch_norm_0/mean``, ….

    The file is written under a temporary name first, so that an interrupted call leaves the old file. Its header has a
    checksum, which ``load_parameters`` verifies.
    """
    path = check_path("path", path)
    check_trees(params, state)
    check_folder(path.parent, "a folder that exists", "Make the folder first.")
    write_whole(path, packed(named_arrays({"params": params, "state": state}), {}))


def load_parameters(path: str | os.PathLike[str], like: tuple[Params, State] | None = None) -> tuple[Params, State]:
    """Reads a file that ``save_parameters`` wrote. ``exchange.load`` reads the folder of a run, with its network.

    Args:
        path: the file.
        like: parameters and state of a network, as arrays or as shapes, which ``jax.eval_shape`` gives. The file must
            have arrays of these paths, types and shapes. With None, it may have those of any network.

    Raises:
        DataError: if the file is missing, damaged, or of another network. The error lists the paths that differ.

    >>> import functional_nn as fnn, jax, tempfile
    >>> params, state = fnn.dense(10).init(jax.random.key(0), (784,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fnn.storage.save_parameters(f"{folder}/net.safetensors", params, state)
    ...     params, state = fnn.storage.load_parameters(f"{folder}/net.safetensors")
    >>> params["weight"].shape
    (784, 10)
    """
    path = check_path("path", path)
    if os.path.isdir(path):
        remedy = (
            "Give a file in it, such as model.safetensors, or read a run with its network by fnn.exchange.load(folder)."
        )
        raise DataError(str(path), "a file of parameters", "a folder", remedy)
    if like is not None:
        is_pair = isinstance(like, tuple) and len(like) == 2 and all(isinstance(tree, Mapping) for tree in like)
        check("like", like, "a network's parameters and state, as its init gives them", is_pair)
    return read_parameters(path, like, follow_links=True)


def read_parameters(
    path: Path, like: tuple[Params, State] | None, *, follow_links: bool = False
) -> tuple[Params, State]:
    """The same for a file in the folder of a run, which may come from a stranger: no link is followed."""
    if like is None:
        found, _ = unpacked(path, longest=HEADER_OF_PARAMETERS, follow_links=follow_links)
        named = {"params": {}, "state": {}}
        with reading(path, "arrays below params and state", errors=DAMAGES):
            if any(not 0 < name.count("/") < MOST_AXES for name in found):  # JAX could not go deeper
                raise ValueError(f"a path with one part, or more than {MOST_AXES}")
            named |= trees.unflatten(found)  # a path that leads through an array is an error, too
            if len(named) > 2:
                raise ValueError(shortened(", ".join(found)))
    else:
        named = {"params": like[0], "state": like[1]}
        forms = {path: form(check_array(path, leaf)) for path, leaf in trees.flatten(named).items()}
        found, _ = unpacked(path, longest=HEADER_OF_PARAMETERS, forms=forms, follow_links=follow_links)
    read = tree_like(named, found, str(path), {})
    return read["params"], read["state"]
