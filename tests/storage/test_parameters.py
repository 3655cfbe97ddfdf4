"""Parameters on disk: exact, whole or not at all, and never another network's."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import functional_nn as fnn
from functional_nn.core.errors import DataError
from functional_nn.storage.arrays import load_parameters, packed, save_parameters, unpacked


def parameters(dtype=jnp.float32):
    weight = jnp.asarray([[0.1, -0.0, jnp.inf], [jnp.nan, 1e-38, -3.0]], dtype)
    return {"dense_0": {"bias": jnp.zeros(3, dtype), "weight": weight}}, {"norm": {"mean": jnp.ones((), dtype)}}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_type_that_numpy_lacks_is_not_called_damage(tmp_path):
    header = b'{"w":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]}}'
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + b"8888")
    with pytest.raises(DataError, match=r"expected numbers of a type that can be read \(bool, .*F8_E4M3"):
        unpacked(tmp_path / "file", has_checksum=False)


def refused(path, like, *words) -> None:
    with pytest.raises(DataError) as caught:
        load_parameters(path, like)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
def test_round_trip_is_exact(tmp_path, dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        tree = parameters(dtype)
    else:
        tree = {"count": jnp.asarray([[1, 0, 1]], dtype)}, {}
    save_parameters(tmp_path / "file", *tree)
    assert_same(load_parameters(tmp_path / "file", tree), tree)
    for like in (jax.eval_shape(lambda: tree), None):
        assert_same(load_parameters(tmp_path / "file", like), tree)


@pytest.mark.parametrize("names", [["a"], ["params"], ["params/a", "params/a/b"], ["params" + "/a" * 10**5], ["x/a"]])
def test_a_file_of_other_arrays_is_refused_without_a_network(tmp_path, names):
    (tmp_path / "file").write_bytes(packed(dict.fromkeys(names, np.zeros(2, np.float32)), {}))
    refused(tmp_path / "file", None, "arrays below params and state")


def test_round_trip_in_float64(tmp_path, float64):
    tree = parameters(jnp.float64)
    tree[0]["dense_0"]["bias"] = jnp.asarray([np.pi, 1e-300, 5e-324])
    save_parameters(tmp_path / "file", *tree)
    assert_same(load_parameters(tmp_path / "file", tree), tree)


def test_strided_arrays_are_written_as_they_look(tmp_path):
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for array in (weight.T, weight[:, ::2], weight[::-1], np.asfortranarray(weight)):
        save_parameters(tmp_path / "file", {"w": array}, {})
        assert_same(load_parameters(tmp_path / "file", ({"w": array}, {})), ({"w": jnp.asarray(array)}, {}))


def test_a_folder_and_a_file_are_told_apart(tmp_path):
    save_parameters(tmp_path / "file", *parameters())
    with pytest.raises(DataError, match=r"expected a file of parameters, got a folder.* fnn\.exchange\.load\(folder\)"):
        load_parameters(tmp_path)
    with pytest.raises(DataError, match=r"got a file.* fnn\.storage\.load_parameters reads a file"):
        fnn.exchange.load(tmp_path / "file")


def test_a_file_without_a_checksum_is_refused(tmp_path):
    """Otherwise renaming the checksum's key would let any change through."""
    save_parameters(tmp_path / "file", *parameters())
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "renamed").write_bytes(content.replace(b"sha256", b"sha257"))
    refused(tmp_path / "renamed", parameters(), "expected a checksum, got None")
    save_file({"params/w": np.ones(3, np.float32)}, tmp_path / "other")
    refused(tmp_path / "other", ({"w": jnp.zeros(3)}, {}), "expected a checksum")


def test_pickles_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "file").write_bytes(pickle.dumps(Trap()))
    refused(tmp_path / "file", parameters(), "damaged")
    np.save(tmp_path / "array.npy", np.array([Trap()], object), allow_pickle=True)
    refused(tmp_path / "array.npy", parameters(), "damaged")
    assert not (tmp_path / "sprung").exists()


def test_another_network_is_refused_with_its_paths(tmp_path):
    params, state = parameters()
    save_parameters(tmp_path / "file", params, state)
    dense = params["dense_0"]
    for like, words in {
        "shape": ({"dense_0": {**dense, "bias": jnp.zeros(4)}}, "dense_0/bias float32(3,) instead of float32(4,)"),
        "type": ({"dense_0": {**dense, "bias": jnp.zeros(3, int)}}, "dense_0/bias float32(3,) instead of int32(3,)"),
        "more": ({**params, "dense_1": jnp.zeros(2)}, "dense_1 nothing instead of float32(2,)"),
        "fewer": ({"dense_0": {"bias": dense["bias"]}}, "dense_0/weight float32(2, 3) instead of nothing"),
    }.values():
        refused(tmp_path / "file", (like, state), words)
    refused(tmp_path / "file", (params, {}), "state/norm/mean float32() instead of nothing")
    refused(tmp_path / "file", (state, params), "dense_0", "norm/mean")


def test_float64_parameters_are_not_narrowed_where_64_bits_are_off(tmp_path):
    like = {"w": jax.ShapeDtypeStruct((2,), np.float64)}, {}
    save_parameters(tmp_path / "file", {"w": np.array([np.pi, 1e-300])}, {})
    refused(tmp_path / "file", like, "float64")


def write_header(path, header, size):
    """A file that is larger than what it takes on the disk."""
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def test_shapes_are_compared_before_a_large_file_is_read(tmp_path):
    header = b'{"params/dense_0/bias":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (2**25, 2**25)
    write_header(tmp_path / "file", header, 2**25)
    refused(tmp_path / "file", parameters(), "bias uint8(33554432,) instead of float32(3,)")
    like = {"dense_0": {"bias": np.zeros(3, np.float32)}}, {}
    for places, size in {"[0,12]": 2**25, "[0,13]": 2**25, "[1,13]": 12}.items():
        header = b'{"params/dense_0/bias":{"dtype":"F32","shape":[3],"data_offsets":%s}}' % places.encode()
        write_header(tmp_path / "file", header, size)
        words = "longer or shorter than its header says" if size > 12 else "a damaged one"
        refused(tmp_path / "file", like, words)


def test_a_header_of_many_lists_or_sizes_is_refused_at_once(tmp_path):
    """The product of the sizes of one array took minutes."""
    shape = b'{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[%s1]}}'
    for header, words in (
        (b'{"__metadata__":{},"a":[' + b"[]," * 3_000_000 + b"[]]}", "more than 1,000,000 entries"),
        (b'{"a":' + b"[" * 3_000_000, "more than 1,000,000 entries"),
        (shape % (1500 * (b"9" * 4000 + b",")), "a/shape/0 a int that is too large|a/shape/0 9999"),
        (shape % (900_000 * b"9,"), "an array of more than 64 axes"),
    ):
        write_header(tmp_path / "file", header, 0)
        with pytest.raises(DataError, match=words):
            unpacked(tmp_path / "file", has_checksum=False)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the limit is one of Linux")
def test_too_little_memory_to_save_is_an_error():
    """The library that makes the file would end the process."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    array = np.zeros(2**28, np.uint8)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, limits[1]))
        with pytest.raises(MemoryError):
            packed({"a": array}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
