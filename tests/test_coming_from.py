"""The programs of other libraries in the pages for those who come from them run where the library is installed."""

import re
from pathlib import Path

import numpy as np
import pytest

HOW_TO = Path(__file__).resolve().parents[1] / "docs" / "how_to"
X, LABELS = np.random.default_rng(0).normal(size=(6, 784)).astype(np.float32), np.arange(6)


def programs(library: str) -> list[str]:
    """The programs that a page shows for the other library: its blocks of code without prompts."""
    page = (HOW_TO / f"coming_from_{library}.md").read_text("utf-8")
    return re.findall(r"^```py\n(.*?)^```", page, re.S | re.M)


def program(library: str) -> str:
    """The only program of a page."""
    (block,) = programs(library)
    return block


def test_pytorch():
    torch = pytest.importorskip("torch")
    names = {"torch": torch, "nn": torch.nn}
    dense, convolutional = programs("pytorch")
    exec(dense, names)
    assert np.isfinite(names["step"](torch.tensor(X), torch.tensor(LABELS)))
    exec(convolutional, names)
    images = torch.tensor(np.random.default_rng(0).normal(size=(6, 3, 32, 32)).astype(np.float32))
    names["train"]([(images, torch.tensor(LABELS))], epochs=2)
    assert 0 <= names["accuracy"](images, torch.tensor(LABELS)) <= 1


def test_flax():
    nnx = pytest.importorskip("flax.nnx")
    import optax

    names = {"nnx": nnx, "optax": optax}
    exec(program("flax"), names)
    assert np.isfinite(names["step"](names["net"], names["optimizer"], X, LABELS))


def test_equinox():
    equinox = pytest.importorskip("equinox")
    import jax
    import optax

    names = {"eqx": equinox, "jax": jax, "optax": optax, "__name__": "page"}
    exec(program("equinox"), names)
    *_, value = names["step"](names["net"], names["optimizer_state"], X, LABELS, jax.random.key(1))
    assert np.isfinite(value)
