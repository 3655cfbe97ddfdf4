"""Every data test has its own cache and TFDS folder, and no network."""

import pytest

from functional_nn.data import tfds


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(tfds, "reachable", lambda url: False)
