"""The same data through another door train to the same bits."""

import jax
import numpy as np
import optax
from tests.data.prepared import prepare_arrays

import functional_nn as fnn
from functional_nn.data import write_idx


def test_a_run_from_tfds_ends_with_the_bits_of_one_from_idx_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path / "cache"))
    digits = fnn.load_dataset("mnist5k")
    arrays = (digits.train_images[:200], digits.train_labels[:200], digits.test_images[:50], digits.test_labels[:50])
    prepare_arrays("kmnist", arrays, tmp_path / "tfds")
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    (tmp_path / "idx").mkdir()
    for name, array in zip(names, arrays, strict=True):
        write_idx(tmp_path / "idx" / f"{name}-ubyte.gz", np.squeeze(array).astype(np.uint8))
    net, optimizer = fnn.models.mlp(10, hidden=(8,)), optax.adam(1e-2)
    runs = [
        fnn.fit(net, fnn.cross_entropy, optimizer, fnn.load_dataset("kmnist", tmp_path / folder), epochs=2)
        for folder in ("tfds", "idx", "tfds")
    ]
    expected = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(runs[0].params)]
    for run in runs[1:]:
        assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(run.params)] == expected
