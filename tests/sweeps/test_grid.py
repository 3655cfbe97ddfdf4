"""Grid files of any size and content: what is refused, after how little work, and with how short a message."""

import itertools
import re

import pytest

from functional_nn import DataError, InputError, grid
from functional_nn.sweeps import choice, crossed, draws, uniform, zipped
from functional_nn.sweeps import grid as grids
from functional_nn.sweeps.grid import read_grid

ESCAPE = "\x1b[31m"
LONG = "x" * 500


def refusal(tmp_path, name: str, content: str | bytes) -> str:
    """What the reader says of a file that it refuses, without the file's path."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        read_grid(path)
    return str(error.value).removeprefix(str(path))


KEYS = {"bare": "a", "commas": '"a,"', "quotes": r'"a\""', "backslashes": r'"\\"', "literal": "'a'"}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("dot", [".", " .\t"])
def test_a_key_of_many_parts_is_never_parsed(tmp_path, monkeypatch, kind, dot):
    """One of 50,000 parts takes Python's parser 40 seconds."""
    monkeypatch.setattr(grids.tomllib, "loads", lambda text: pytest.fail("it was parsed"))
    assert "at most 100 parts" in refusal(tmp_path, "grid.toml", dot.join([KEYS[kind]] * 102) + " = 1")


def test_quotes_that_never_end_take_no_long_time(tmp_path):
    """A search that tries each quote as the beginning of a key would take hours."""
    assert "TOML" in refusal(tmp_path, "grid.toml", '"\\' * 400_000)


TOO_MUCH = {
    "a tuple in many members": "[grid]\nhidden = [[" + "1," * 20_000 + "]]\nseed = [" + "1," * 30_000 + "]",
    "a drawn tuple": "[draws]\nnumber = 50000\nhidden = {choice = [[" + "1," * 20_000 + "]]}\nx = {uniform = [0, 1]}",
    "two long lists": f"[grid]\na = {[*range(2000)]}\n[zip]\nb = {[*range(2000)]}",
    "one long list": "[grid]\na = [" + "1," * 60_000 + "]",
    "axes whose product has many digits": "[grid]\n" + "".join(f"a{i} = [1, 2, 3, 4]\n" for i in range(9000)),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_a_small_toml_file_that_describes_too_much(tmp_path, kind):
    message = refusal(tmp_path, "grid.toml", TOO_MUCH[kind])
    assert "expected at most 50,000" in message
    assert ".." not in message


def test_a_toml_file_that_is_too_large(tmp_path):
    assert "at most 1,048,576 bytes" in refusal(tmp_path, "grid.toml", "#" * (2**20 + 1))


def test_many_names_are_counted_once():
    """Names were counted by going through all of them for each of them."""
    members = crossed([{f"a{number}": 1 for number in range(50_000)}], [{"b": 1}])
    assert len(members[0]) == 50_001
    with pytest.raises(InputError, match="got a1, b twice"):
        crossed([{"b": 1, "a1": 1, "c": 1}], [{"a1": 2, "b": 3}])


def test_a_value_that_is_given_twice_is_refused():
    """Its models would be counted twice, and the interval of their mean would be too narrow."""
    rate = [0.01, 0.1, 1e-2]
    for make in (grid, zipped):
        with pytest.raises(InputError, match=r"different members, got \{'rate': 0\.01\} again for member 2"):
            crossed(make(rate=rate), grid(seed=[0, 1]))


def test_true_and_1_of_one_name_are_refused():
    """They are equal in Python, so two networks would be one setting."""
    with pytest.raises(InputError, match="grids: wide: expected only flags, or only numbers, got both"):
        crossed([{"wide": True, "seed": 0}, {"wide": 1, "seed": 1}])


@pytest.mark.parametrize("rate", [10**400, -(2**32), 10**5000], ids=["400 digits", "negative", "5000 digits"])
def test_an_integer_that_jax_cannot_take_is_refused(rate):
    with pytest.raises(InputError, match=r"learning_rate: expected integers up to 4,294,967,295, got .{,100} Write a"):
        grid(learning_rate=[rate])
    assert grid(seed=[2**32 - 1], learning_rate=[1e300])[0]["seed"] == 2**32 - 1


def test_no_member_is_drawn_twice():
    assert {member["x"] for member in draws(3, x=choice([4, 5, 6]))} == {4, 5, 6}
    with pytest.raises(InputError, match="at most 3, because no other members were drawn, got 4"):
        draws(4, x=choice([4, 5, 6]))


@pytest.mark.parametrize("make", [lambda values: grid(seed=values), lambda values: zipped(seed=values), choice])
def test_long_axes_are_not_cut_and_axes_without_an_end_are_refused(make):
    for values in (range(50_001), itertools.count()):
        with pytest.raises(InputError, match="at most 50,000 values"):
            make(values)


def test_bounds_too_far_apart_are_refused_at_once():
    with pytest.raises(InputError, match="bounds: expected two numbers whose difference a float can hold"):
        uniform(-1.7e308, 1.7e308)


HOSTILE = {
    "unknown table": ("grid.toml", f'"{ESCAPE}{LONG}" = 1'.replace("\x1b", r"\u001b")),
    "a table": ("grid.toml", f'[grid]\na = [{{"{LONG}" = 1}}]'),
    "a huge bound": ("grid.toml", f"[draws]\nnumber = 1\na = {{uniform = [0x{'9' * 5000}, 1]}}"),
    "deep": ("grid.toml", f"[draws]\nnumber = {'[' * 200}{']' * 200}"),
    "no toml": ("grid.toml", f"{ESCAPE}{LONG}"),
    "not finite": ("grid.toml", f"[grid]\n{LONG} = [inf]"),
    "no text": ("grid.toml", b"\xff\xfe\x1b"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_messages_repeat_little_of_a_file(tmp_path, kind):
    message = refusal(tmp_path, *HOSTILE[kind])
    assert message.isprintable()
    assert len(message) < 400
    assert not re.search(r"x{81}|9{81}|\[{81}", message)
