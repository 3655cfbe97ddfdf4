"""The programs of other libraries in the pages for those who come from them run where the library is installed."""

import re
from pathlib import Path

import numpy as np
import pytest

HOW_TO = Path(__file__).resolve().parents[1] / "docs" / "how_to"
X, LABELS = np.random.default_rng(0).normal(size=(6, 784)).astype(np.float32), np.arange(6)


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests, since these train with Optax and with other libraries."""


def program(library: str) -> str:
    """The program that a page shows for the other library: its block of code without prompts."""
    (block,) = re.findall(r"^```py\n(.*?)^```", (HOW_TO / f"coming_from_{library}.md").read_text("utf-8"), re.S | re.M)
    return block


def test_pytorch():
    torch = pytest.importorskip("torch")
    names = {"torch": torch, "nn": torch.nn}
    exec(program("pytorch"), names)
    assert np.isfinite(names["step"](torch.tensor(X), torch.tensor(LABELS)))


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


@pytest.mark.slow  # Keras takes ten seconds to import
def test_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    names = {"keras": keras, "x": X, "labels": LABELS, "x_test": X, "labels_test": LABELS}
    exec(program("keras"), names)
    assert len(names["history"].history["val_accuracy"]) == 2
