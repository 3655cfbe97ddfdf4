"""Gzip by the megabyte, against the library's."""

import gzip
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functional_nn import DataError
from functional_nn.data import idx
from functional_nn.data.idx import Inflated

MEMBERS = st.lists(st.binary(max_size=300).map(lambda part: part * 7), min_size=1, max_size=4)


def parts_of(compressed, size, piece):
    before, idx.PIECE = idx.PIECE, piece
    try:
        content = Inflated(io.BytesIO(compressed))
        parts = [content.read(size)]
        while parts[-1]:
            parts.append(content.read(size))
    finally:
        idx.PIECE = before
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


EMPTY = gzip.compress(b"", mtime=0)


def test_fault_53_a_few_hundred_members_are_read():
    members = [bytes([number % 256]) * number for number in range(500)]
    compressed = b"".join(EMPTY + gzip.compress(member, mtime=0) for member in members)
    assert Inflated(io.BytesIO(compressed)).read(10**6) == b"".join(members)


def test_fault_53_members_are_bounded(monkeypatch):
    """200,000 empty members took 14 seconds. A decompressor is made for each member that is read."""
    made = []
    make = zlib.decompressobj
    monkeypatch.setattr(idx.zlib, "decompressobj", lambda bits: made.append(bits) or make(bits))
    file = Inflated(io.BytesIO(EMPTY * 200_000), "digits.gz")
    with pytest.raises(DataError, match=r"digits\.gz: expected at most 10,000 gzip members, got more"):
        file.read(1)
    assert len(made) == idx.MOST_MEMBERS


def test_fault_53_short_members_are_not_copied_with_all_that_follows(monkeypatch):
    """What a member does not use is copied by zlib, so members are given little at first."""
    monkeypatch.setattr(idx, "MOST_MEMBERS", 10**6)
    copied = []
    make = zlib.decompressobj

    class Counting:
        def __init__(self, bits):
            self.made = make(bits)

        def decompress(self, given, size):
            part = self.made.decompress(given, size)
            copied.append(len(self.made.unused_data))
            return part

        def __getattr__(self, name):
            return getattr(self.made, name)

    monkeypatch.setattr(idx.zlib, "decompressobj", Counting)
    assert Inflated(io.BytesIO(EMPTY * 2000)).read(1) == b""
    assert sum(copied) <= 2000 * idx.FIRST_STEP
