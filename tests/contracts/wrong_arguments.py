"""What is wrong, and how a call of it may end: in one of our own errors, or with a result."""

import functools
import inspect
import os
import random
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn import data as fnn_data
from functional_nn.core.errors import FormulaMissing, InputError

KEY = jax.random.key(0)
IDX = str(Path(fnn_data.__file__).parent / "mnist5k" / "t10k-labels-idx1-ubyte.gz")
WRONG = {
    "None": None,
    "text": "nonsense",
    "empty text": "",
    "bytes": b"x",
    "minus one": -1,
    "zero": 0,
    "fraction": 0.5,
    "huge": 10**30,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "complex": 1j,
    "flag": True,
    "object": object(),
    "empty list": [],
    "empty tuple": (),
    "list of None": [None],
    "list of texts": ["a", "b"],
    "tuple of floats": (0.5, 2.5),
    "negative sizes": (-1, -2),
    "nested": ((1, (2,)),),
    "dict": {},
    "dict of text": {"weight": "heavy"},
    "dict of None": {"weight": None},
    "scalar array": np.float32(3),
    "vector": np.ones(3, np.float32),
    "empty array": np.zeros((0, 3), np.float32),
    "array of rank 6": np.ones((1, 2, 1, 2, 1, 2), np.float32),
    "array of integers": np.arange(6).reshape(2, 3),
    "array of booleans": np.ones((2, 3), bool),
    "complex array": np.ones((2, 3), np.complex64),
    "array of objects": np.array([None, "x"], object),
    "array of texts": np.array(["a", "b"]),
    "key": KEY,
    "keys": jax.random.split(KEY, 2),
    "function": lambda *arguments, **options: None,
    "layer": fnn.dense(2),
    "masked": fnn.Masked(np.ones((2, 3, 4), np.float32), np.ones((2, 3), bool)),
    "masked nonsense": fnn.Masked("a", None),
}


@contextmanager
def jax_traceback_filtering(value):
    """JAX would leave its own frames out of errors, and so look innocent."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", value)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_filtering", before)


SHARE = int(os.environ.get("WRONG_ARGUMENTS_SHARE", 24))
"""One in so many of what is wrong is tried for each argument; the slow test tries all."""


@pytest.fixture(autouse=True)
def strict_promotion(tmp_path, monkeypatch):
    """Overrides the rule of all other tests, since Optax is called too. Files are written to a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path / "cache"))
    with jax_traceback_filtering("off"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def complaint(call, *arguments, **options) -> str:
    """What is wrong with how a call fails; empty where it gives something, or one of our own errors."""
    try:
        call(*arguments, **options)
    except (InputError, FormulaMissing, OSError):  # what the operating system says of a file is clear enough
        return ""
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:90]!r} at {frame.filename.rsplit('/', 2)[-1]}:{frame.lineno}"
    return ""


COSTLY = {
    "transformer",
    "resnet",
    "residual_block",
    "transformer_block",
    "language_model",
    "check_gradients",
    "check_layer",
    "cnn",
    "fit",
    "sweep",
}


def with_defaults(function, given: dict) -> dict:
    """Arguments that are right: those that are given, and the defaults of the others."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty} | given


def faults_of(name, call, valid) -> list[str]:
    """All complaints about one wrong argument at a time, and about the right ones; of some of what is wrong, by lot.

    Arguments with a default need not be in ``valid``. Their default is right.
    """
    every = 4 * SHARE if name in COSTLY and SHARE > 1 else SHARE
    if every > len(WRONG):
        return []
    valid = with_defaults(call, valid)
    found = [f"{name}: {said}"] if (said := complaint(call, **valid)) else []
    for argument in valid:
        chosen = random.Random(f"{name} {argument}").sample(list(WRONG.items()), len(WRONG) // every)
        for kind, wrong in chosen:
            if said := complaint(call, **{**valid, argument: wrong}):
                found.append(f"{name}({argument}={kind}): {said}")
    return found


def abstractly(function):
    """Traced but not computed, as under ``jit``; what is given stays concrete."""

    @functools.wraps(function)
    def call(**arguments):
        def traced():
            function(**arguments)

        jax.eval_shape(traced)

    return call


def using(maker, in_shape, make_x=None):
    """Makes a layer and traces its first forward and backward pass."""

    @functools.wraps(maker)
    def call(**arguments):
        layer = maker(**arguments)
        params, state = layer.init(KEY, in_shape)
        x = jnp.ones((2, *in_shape)) if make_x is None else make_x()
        y, _, pullback = layer.vjp(params, state, x, train=True, key=KEY)
        pullback(y)

    return abstractly(call)
