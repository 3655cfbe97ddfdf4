"""The metrics of all epochs: appended once, verified, and whole in one copy of two."""

import pytest

from functional_nn.storage.checkpoints import COPIES, DamagedCheckpoint, History

ROWS = [(float(epoch), 1 / epoch, float("inf")) for epoch in range(1, 9)]


@pytest.fixture
def written(tmp_path):
    history = History(tmp_path, 3)
    digests = [history.extend([row], after) for after, row in enumerate(ROWS)]
    return tmp_path, digests


def test_every_number_of_rows_is_read_back(written):
    folder, digests = written
    for count, digest in enumerate(digests, 1):
        assert History(folder, 3).read(count, digest) == ROWS[:count]
    assert len({(folder / name).read_bytes() for name in COPIES}) == 1


def test_several_rows_at_once_are_as_one_after_another(written, tmp_path_factory):
    folder, digests = written
    other = tmp_path_factory.mktemp("other")
    assert History(other, 3).extend(ROWS, 0) == digests[-1]
    assert (other / COPIES[0]).read_bytes() == (folder / COPIES[0]).read_bytes()


def test_appending_writes_no_more_for_a_long_history(written):
    """Each row is a fixed number of bytes, and what is there is not read again."""
    folder, digests = written
    history = History(folder, 3)
    history.read(8, digests[-1])
    history.extend([ROWS[0]], 8)
    first = folder / COPIES[0]
    first.write_bytes(bytes(first.stat().st_size))  # would be noticed if it were looked at
    history.extend([ROWS[0]], 9)
    assert (folder / COPIES[1]).stat().st_size == 10 * (3 * 8 + 32)


def test_fault_32_any_flip_in_one_copy_costs_nothing_and_is_mended(written):
    folder, digests = written
    for name in COPIES:
        good = (folder / name).read_bytes()
        for place in range(0, len(good), 7):
            flipped = bytearray(good)
            flipped[place] ^= 1 << place % 8
            (folder / name).write_bytes(flipped)
            history = History(folder, 3)
            assert history.read(8, digests[-1]) == ROWS
        history.extend([], 8)
        assert (folder / name).read_bytes() == good


def test_fault_32_damage_in_both_copies_leaves_the_rows_before_it(written):
    folder, digests = written
    for name in COPIES:
        content = bytearray((folder / name).read_bytes())
        content[5 * 56 + 3] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match="expected the 8 rows that were written"):
        History(folder, 3).read(8, digests[-1])
    assert History(folder, 3).read(5, digests[4]) == ROWS[:5]


@pytest.mark.parametrize("length", [0, 1, 55, 56, 200])
def test_fault_31_a_copy_that_was_cut_short_is_made_whole(written, length):
    folder, digests = written
    good = (folder / COPIES[0]).read_bytes()
    (folder / COPIES[1]).write_bytes(good[:length])
    history = History(folder, 3)
    assert history.read(8, digests[-1]) == ROWS
    history.extend([], 8)
    assert (folder / COPIES[1]).read_bytes() == good


def test_rows_behind_an_earlier_checkpoint_are_written_anew(written):
    folder, digests = written
    history = History(folder, 3)
    history.read(3, digests[2])
    assert history.extend(ROWS[3:], 3) == digests[-1]
    assert History(folder, 3).read(8, digests[-1]) == ROWS


def test_fault_62_rows_that_are_written_again_are_the_same(written):
    """As after Ctrl-C between the metrics and the checkpoint that counts them."""
    folder, digests = written
    history = History(folder, 3)
    history.read(3, digests[2])
    assert [history.extend(ROWS[3:6], 3) for _ in range(2)] == [digests[5]] * 2
    assert history.extend(ROWS[6:], 6) == digests[-1]
    assert History(folder, 3).read(8, digests[-1]) == ROWS


def test_a_run_that_begins_drops_what_was_there(written):
    folder, _ = written
    digest = History(folder, 3).extend(ROWS[:1], 0)
    assert History(folder, 3).read(1, digest) == ROWS[:1]
    assert all((folder / name).stat().st_size == 56 for name in COPIES)


def test_other_rows_of_the_same_length_are_noticed(written):
    folder, _ = written
    digest = History(folder / "..", 3).read(0, History(folder, 3).extend([], 0)) or "0" * 64
    with pytest.raises(DamagedCheckpoint):
        History(folder, 3).read(1, digest)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_that_was_cut_or_removed_during_a_run_is_an_error_and_not_filled_with_zeros(tmp_path, name):
    history = History(tmp_path, 3)
    for after in (0, 1):
        history.extend([ROWS[after]], after)
        (tmp_path / name).unlink() if after else None
    with pytest.raises(OSError, match="was cut or removed"):
        history.extend([ROWS[2]], 2)
