"""The benchmarks' own side imports names of the package that still exist."""

from importlib import import_module
from pathlib import Path

import pytest

PEERS = sorted((Path(__file__).resolve().parents[1] / "benchmarks" / "peers").glob("*functional_nn.py"))


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.stem)
def test_the_package_s_own_peers_import(path):
    assert import_module(f"benchmarks.peers.{path.stem}").__doc__
