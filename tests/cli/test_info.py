"""``functional-nn info``."""

import platform
import re
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import jax

from functional_nn.bench.records import environment
from functional_nn.cli import run
from functional_nn.core.errors import LIBRARIES

info = import_module("functional_nn.cli.info")


def test_info_prints_versions_and_devices(capsys):
    assert run(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["python"] == platform.python_version()
    for name in LIBRARIES:
        assert lines[name] == version(name)
    assert lines.keys() >= {*info.OPTIONAL, "device"}
    assert lines["device"].startswith("cpu 0")
    assert lines["device"].endswith(f": {environment()['device']}")
    for name, package in info.OPTIONAL.items():
        assert f"for {package[0]}" in lines[name]


def test_info_lists_the_packages_of_the_extras():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extras = {name: extras[name] for name in extras.keys() - {"test", "conformance", "lint", "docs", "browser"}}
    listed = {re.match(r"[\w-]+", line)[0]: name for name, lines in extras.items() for line in lines}
    for package, extra in listed.items():
        assert info.OPTIONAL[package][1] == f"'functional-nn[{extra}]'"
    assert info.OPTIONAL.keys() - listed == {"tensorflow"}


def test_info_says_where_the_cache_is_or_why_there_is_none(capsys, monkeypatch, tmp_path):
    for base, words in (
        (tmp_path, f"cache                {tmp_path}/functional_nn\n"),
        ("here", "none: 'here' is not an abs"),
    ):
        monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(base))
        assert run(["info"]) == 0
        assert words in capsys.readouterr().out


def test_info_says_what_is_missing_and_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(info, "installed_version", lambda name: None)
    assert run(["info"]) == 0
    assert "missing; for pictures: pip install 'functional-nn[plots]'" in capsys.readouterr().out


def test_a_platform_without_its_plugin_is_one_sentence(capsys, monkeypatch):
    """As in JAX with JAX_PLATFORMS=cuda and no plugin."""

    def no_devices():
        assert jax is None

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", no_devices)
    assert run(["info"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: JAX finds no device for JAX_PLATFORMS=cuda. Install its plugin")
    assert len(said.splitlines()) == 1


def test_a_missing_device_is_one_sentence_in_every_command(capsys, monkeypatch):
    def no_device(*arguments):
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", no_device)
    monkeypatch.setattr(jax.random, "key", no_device)
    assert run(["train", "--hidden", "2", "--epochs", "1"]) == 1
    assert capsys.readouterr().err.startswith("Error: JAX finds no device for JAX_PLATFORMS=cuda. Install its plugin")
