"""Importing and starting JAX without garbage collection, beside other work."""

import gc
import json
import sys
import threading

import pytest
from tests.other_process import python

from functional_nn import load_dataset
from functional_nn.cli import startup
from functional_nn.core.errors import DataError

SCRIPT = """
import gc, json, sys
from functional_nn.cli import startup

during = []
with startup.starting_jax("float64", 2):
    while "jax" not in sys.modules:
        pass
    during.append(gc.isenabled())
import jax
print(json.dumps({
    "during": during, "enabled": gc.isenabled(), "frozen": gc.get_freeze_count(),
    "x64": jax.config.jax_enable_x64, "devices": len(jax.devices()),
}))
"""


def test_jax_starts_in_a_thread_with_the_given_settings_and_its_objects_are_exempt_from_collection():
    result = json.loads(python(SCRIPT).stdout)
    assert result.pop("frozen") > 50_000
    assert result == {"during": [False], "enabled": True, "x64": True, "devices": 2}


def test_what_both_threads_import_is_imported_before():
    """Seen once under load: the thread that read the data met a half-imported NumPy, and the command failed."""
    code = """
import sys
from functional_nn.cli import startup
startup._start_jax = lambda *options: print("numpy" in sys.modules, "functional_nn.data.sources" in sys.modules)
with startup.starting_jax("float32", 1):
    before = set(sys.modules)
    from functional_nn.data.sources import load_dataset
    load_dataset("mnist5k")
print({*sys.modules} - before)
"""
    assert python(code).stdout == "True True\nset()\n"


def test_tfds_waits_for_the_thread_and_other_data_do_not(monkeypatch, tmp_path):
    """TFDS replaces Python's ``__import__`` for moments. Seen: JAX could not be imported meanwhile."""
    goes_on, order = threading.Event(), []

    def start(*options):
        assert goes_on.wait(60)
        order.append("JAX")

    def find():
        with pytest.raises(DataError, match="a prepared TFDS set that can be read"):
            load_dataset("missing", tmp_path)
        order.append("TFDS")

    (tmp_path / "missing" / "1.0.0").mkdir(parents=True)
    (tmp_path / "missing" / "1.0.0" / "features.json").touch()
    find()  # imports TFDS, which takes longer than the thread below
    monkeypatch.setattr(startup, "_start_jax", start)
    with startup.starting_jax("float32", 1):
        load_dataset("mnist5k")
        order.append("digits")
        threading.Timer(0.1, goes_on.set).start()
        find()
    assert order == ["TFDS", "digits", "JAX", "TFDS"]


def test_garbage_is_looked_for_again_after_an_import_that_fails(monkeypatch):
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(gc, "freeze", lambda: None)  # this process has garbage
    during = []

    def imports():
        during.append(gc.isenabled())
        raise ImportError

    with pytest.raises(ImportError), startup.importing():
        imports()
    assert (during, gc.isenabled()) == ([False], True)


def test_what_fails_in_the_thread_is_raised_after_the_body(monkeypatch):
    done = []

    def fail(precision, devices, processes):
        raise RuntimeError("no such platform")

    monkeypatch.setattr(startup, "_start_jax", fail)
    with pytest.raises(RuntimeError, match="no such platform"), startup.starting_jax("float32", 1):
        done.append("read")
    assert done == ["read"]


def test_an_error_of_the_body_waits_for_the_thread(monkeypatch):
    goes_on, ended = threading.Event(), []

    def begin(precision, devices, processes):
        goes_on.wait()
        ended.append((precision, devices))

    monkeypatch.setattr(startup, "_start_jax", begin)

    def read():
        goes_on.set()
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError), startup.starting_jax("bfloat16", 2):
        read()
    assert ended == [("bfloat16", 2)]
