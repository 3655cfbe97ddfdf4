"""Gzip by the megabyte, against the library's."""

import gzip
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functional_nn.data import inflate
from functional_nn.data.inflate import Inflated

MEMBERS = st.lists(st.binary(max_size=300).map(lambda part: part * 7), min_size=1, max_size=4)


def parts_of(compressed, size, piece):
    before, inflate.PIECE = inflate.PIECE, piece
    try:
        content = Inflated(io.BytesIO(compressed))
        parts = [content.read(size)]
        while parts[-1]:
            parts.append(content.read(size))
    finally:
        inflate.PIECE = before
    return parts[:-1]


@given(MEMBERS, st.integers(1, 500), st.integers(1, 64), st.integers(0, 100))
def test_all_members_in_parts_of_the_size_asked_for(members, size, piece, padding):
    compressed = b"".join(gzip.compress(member) for member in members) + bytes(padding)
    parts = parts_of(compressed, size, piece)
    assert b"".join(parts) == gzip.decompress(compressed) == b"".join(members)
    assert all(len(part) == size for part in parts[:-1])


@given(MEMBERS, st.integers(1, 64), st.data())
def test_what_is_cut_off_is_never_taken_for_the_end(members, piece, data):
    *whole, last = [gzip.compress(member) for member in members]
    end = data.draw(st.integers(1, len(last) - 1))
    with pytest.raises(EOFError, match="ends within"):
        parts_of(b"".join(whole) + last[:end], 100, piece)


def test_nothing_is_read_before_it_is_asked_for():
    file = io.BytesIO(gzip.compress(bytes(10**6)) + b"rubbish")
    content = Inflated(file)
    assert content.read(10**6) == bytes(10**6)
    with pytest.raises(zlib.error, match="header"):
        content.read(1)
