"""Writing files whole: what a path may lead to, and which paths are refused."""

import errno
import hashlib
import os
import stat
import struct
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from functional_nn.bench.records import add_records
from functional_nn.core.errors import DataError, InputError
from functional_nn.storage import files
from functional_nn.storage.arrays import packed, save_parameters, unpacked
from functional_nn.storage.files import (
    check_new_folder,
    check_path,
    checksum_of,
    kept_open,
    one_writer,
    opened,
    opened_whole,
    parsed,
    read_file,
    read_signed,
    remove_leftovers,
    signed_text,
    temporary_folder,
    write_json,
    write_whole,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions of POSIX")


def test_a_link_that_the_user_named_is_followed_and_stays_one(tmp_path):
    target, first, second = tmp_path / "target", tmp_path / "first", tmp_path / "second"
    target.write_text("old")
    second.symlink_to("target")
    first.symlink_to(second)
    write_whole(first, "new", follow_links=True)
    assert (target.read_text(), first.is_symlink(), second.is_symlink()) == ("new", True, True)


def test_a_link_to_nothing_makes_the_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "new", follow_links=True)
    assert ((tmp_path / "target").read_text(), (tmp_path / "link").is_symlink()) == ("new", True)


def test_links_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "a", "new", follow_links=True)


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_whole(tmp_path / "pipe", "through", follow_links=True)
    reader.join()
    assert received == ["through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("write", [write_json, lambda path, text: add_records(path, [{"text": text}])])
@pytest.mark.parametrize("is_there", [True, False])
def test_what_takes_the_place_of_a_pipe_is_not_written_to(tmp_path, write, is_there):
    """As when the pipe of ``--json`` belongs to another user, who puts a link there while the command runs."""
    pipe, private = tmp_path / "pipe", tmp_path / "private"
    os.mkfifo(pipe)
    if is_there:
        private.write_text("precious")
    with files.kept_destination(pipe):
        pipe.unlink()
        pipe.symlink_to(private)
        with pytest.raises(OSError, match="took its place" if is_there else "No such file"):
            write(pipe, "new")
    assert pipe.is_symlink()
    assert (private.read_text() if private.exists() else None) == ("precious" if is_there else None)


def test_an_open_file_is_written_to_and_not_replaced(tmp_path):
    """As for ``--json /dev/stdout > file``, where the file has other text already."""
    with open(tmp_path / "file", "wb") as file:
        file.write(b"old, ")
        file.flush()
        write_whole(Path(f"/proc/self/fd/{file.fileno()}"), "new", follow_links=True)
    assert (tmp_path / "file").read_text() == "old, new"


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "device"])
def test_nothing_is_written_through_what_stands_in_a_folder(tmp_path, kind):
    place, target = tmp_path / "report.html", tmp_path / "target"
    if kind == "link":
        target.write_text("precious")
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/null" if kind == "device" else target)
    with pytest.raises(OSError, match="not a regular file" if kind == "pipe" else "link, which is not followed"):
        write_whole(place, "new")
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_regular_files_are_read_and_a_pipe_does_not_wait(tmp_path, kind):
    place, target = tmp_path / "config.json", tmp_path / "target"
    target.write_text("private")
    if kind == "link":
        place.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    reasons = {"link": "not followed", "pipe": "not a regular file", "folder": "Is a directory"}
    for read in (read_file, checksum_of):
        with pytest.raises(OSError, match=reasons[kind]):
            read(place)


def test_what_somebody_adds_to_a_file_while_it_is_read_is_left_out(tmp_path, monkeypatch):
    """Otherwise a file that grows faster than it is read would fill the memory, or be read for ever."""
    place, look = tmp_path / "file", os.fstat

    def look_and_add(descriptor):
        about = look(descriptor)
        with place.open("ab") as file:
            file.write(b"more")
        return about

    for read in (lambda path: hashlib.sha256(read_file(path)).hexdigest(), checksum_of):
        place.write_bytes(b"content")
        with monkeypatch.context() as patched:
            patched.setattr(files, "regular_file", lambda path, flags, **_: os.open(path, flags))
            patched.setattr(files.os, "fstat", look_and_add)
            assert read(place) == hashlib.sha256(b"content").hexdigest()


def test_leftovers_that_are_links_are_removed_and_not_followed(tmp_path):
    target, parent = tmp_path / "target", tmp_path / "checkpoints"
    (target / "folder").mkdir(parents=True)
    parent.mkdir()
    (parent / ".0000000002.functional_nn.tmp").symlink_to(target)
    remove_leftovers(parent)
    assert not list(parent.glob(".*"))
    assert (target / "folder").is_dir()


def test_a_temporary_folder_that_was_renamed_does_not_remove_another_one(tmp_path):
    """Another user of a shared folder renames the temporary one, and gives its name to results."""
    results, away = tmp_path / "results", tmp_path / "away"
    (results / "run").mkdir(parents=True)
    with temporary_folder(".", above=tmp_path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").touch()
        (folder / "link").symlink_to(results)
        folder.parent.rename(away)
        results.rename(folder.parent)
    assert (folder.parent / "run").is_dir()
    assert list(away.iterdir()) == []


def test_a_relative_folder_stays_open_if_the_working_directory_is_renamed(tmp_path, monkeypatch):
    """Another user does so, and puts a link to private results in the place of the open folder."""
    (tmp_path / "here" / "run").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with files.folder_to_write("out", Path("run")), temporary_folder(".", above=Path("run")) as inner:
        (tmp_path / "here").rename(tmp_path / "there")
        Path("run").rename("aside")
        Path("run").symlink_to(tmp_path / "private")
        write_whole(Path("run", "file"), "text")
        write_whole(inner / "file", "text")
        assert [path.name for path in Path("aside", inner.parent.name, inner.name).iterdir()] == ["file"]
    assert [path.name for path in Path("aside").iterdir()] == ["file"]
    assert not list((tmp_path / "private").iterdir())


def test_an_empty_folder_in_the_place_of_a_new_one_stays(tmp_path):
    run = tmp_path / "run"
    (tmp_path / "private" / "checkpoints").mkdir(parents=True)
    with files.folder_to_write("out", run), files.folder_to_write("out", run / "checkpoints"):
        run.rename(tmp_path / "aside")
        run.symlink_to(tmp_path / "private")
    assert (tmp_path / "private" / "checkpoints").is_dir()


@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_not_written_to(tmp_path, monkeypatch):
    """It may have the beginning of a run."""
    os.chown(tmp_path, 4321, 4321)
    with one_writer("out", tmp_path):  # root may
        pass
    monkeypatch.setattr(files.os, "geteuid", lambda: 4322)
    with (
        pytest.raises(InputError, match=r"a folder of your own, got .* another user made"),
        one_writer("out", tmp_path),
    ):
        pass
    with files.new_folder("out", tmp_path / "new") as folder:  # beside others' folders there may be one's own
        (folder / "file").touch()
    assert (tmp_path / "new" / "file").is_file()


def test_a_link_before_two_points_leads_to_its_folder(tmp_path):
    for folder in ("run", "other/run"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a").write_text(folder)
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other" / "run")
    with files.kept_open(tmp_path / "run"):
        assert read_file(tmp_path / "link" / ".." / "run" / "a") == b"other/run"
        assert read_file(tmp_path / "." / "run" / "a") == b"run"


def test_a_renamed_folder_that_is_kept_open_gets_its_files(tmp_path):
    """Its own user, or one who can write to the folder above, may rename it while a network is trained."""
    run, renamed = tmp_path / "run", tmp_path / "renamed"
    run.mkdir()
    with files.kept_open(run):
        run.rename(renamed)
        save_parameters(run / "model.safetensors", {"w": np.ones(2)}, {})
        assert files.names_in(run) == ["model.safetensors"]
    assert (renamed / "model.safetensors").is_file()
    assert not run.exists()


def test_a_link_in_the_place_of_a_half_written_file_is_not_followed(tmp_path):
    (tmp_path / "private").write_text("private")
    with files.kept_open(tmp_path, new_files_only=True), files.opened_whole(tmp_path / "new"):
        (half_written,) = tmp_path.glob(files.HALF_WRITTEN)
        half_written.unlink()
        half_written.symlink_to(tmp_path / "private")
    assert (tmp_path / "private").stat().st_nlink == 1


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_in_the_place_of_a_new_temporary_one_is_not_used(tmp_path, monkeypatch, kind):
    results = tmp_path / "results"
    (results / "run").mkdir(parents=True)
    make = os.mkdir

    def swapped(place, mode, *, dir_fd):
        make(place, mode, dir_fd=dir_fd)
        Path(place).rmdir()
        results.rename(place) if kind == "folder" else Path(place).symlink_to(results)

    monkeypatch.setattr(files.os, "mkdir", swapped)
    refused = pytest.raises(OSError, match=r"took the place|link, which is not followed")
    with refused, temporary_folder(".", above=tmp_path):
        pass
    assert len(list(tmp_path.glob("*/run"))) == (2 if kind == "link" else 1)


@pytest.mark.parametrize("permissions", [0o700, 0o2770])
def test_a_folder_that_replaces_an_empty_one_keeps_its_permissions(tmp_path, permissions):
    (tmp_path / "private").mkdir()
    (tmp_path / "private").chmod(permissions)
    with files.new_folder("out", tmp_path / "private") as folder:
        (folder / "file").touch()
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == permissions
    assert (tmp_path / "private" / "file").exists()


@pytest.mark.parametrize("permissions", [0o700, 0o770])
def test_a_temporary_folder_exchanged_for_an_empty_one_of_the_same_user_removes_nothing_of_it(
    monkeypatch, tmp_path, permissions
):
    """Another user does so in the moment before it is opened. Later the owner puts results into the empty folder."""
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(permissions)
    make = os.mkdir

    def exchanged(place, mode=0o777, *, dir_fd):
        make(place, mode, dir_fd=dir_fd)
        if results.exists():
            os.rmdir(place, dir_fd=dir_fd)
            results.rename(place)

    monkeypatch.setattr(files.os, "mkdir", exchanged)
    refused = pytest.raises(OSError, match="took the place") if permissions & 0o070 else nullcontext()
    with refused, temporary_folder(".", above=tmp_path) as folder:
        (folder.parent / "run").touch()
        (folder / "file").touch()
    assert permissions & 0o070 or [path.name for path in tmp_path.glob(".*/*")] == ["run"]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root gives folders away")
def test_a_temporary_folder_of_another_user_is_not_used(monkeypatch, tmp_path):
    make = os.mkdir

    def foreign(place, mode, *, dir_fd):
        make(place, mode, dir_fd=dir_fd)
        os.chown(place, 4321, 4321)

    monkeypatch.setattr(files.os, "mkdir", foreign)
    monkeypatch.setattr(files.os, "geteuid", lambda: 4322)
    with pytest.raises(OSError, match="took the place"), temporary_folder(".", above=tmp_path):
        pass


def test_a_lock_is_for_its_owner_alone(tmp_path):
    (tmp_path / ".functional_nn.lock").touch(0o666)  # of an earlier version
    for folder in (tmp_path, tmp_path / "new"):
        with one_writer("out", folder):
            assert stat.S_IMODE((folder / ".functional_nn.lock").stat().st_mode) == 0o600


def test_a_lock_file_that_was_removed_before_it_is_locked(tmp_path, monkeypatch):
    """Its process has ended. A third one may already hold a new file."""
    lock = files._lock

    def remove_and_lock(descriptor):
        (tmp_path / files.LOCK).unlink()
        lock(descriptor)

    monkeypatch.setattr(files, "_lock", remove_and_lock)
    with pytest.raises(InputError, match="which another process used a moment ago"), one_writer("out", tmp_path):
        pass


def test_permissions_stay(tmp_path):
    (tmp_path / "secret").write_text("old")
    (tmp_path / "secret").chmod(0o600)
    write_whole(tmp_path / "secret", "new")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_private_file_is_private_from_the_moment_on_when_it_is_made(tmp_path, monkeypatch):
    """Whoever opens the new one before its permissions are set could read what is written to it."""
    write_whole(tmp_path / "secret", "old")
    (tmp_path / "secret").chmod(0o600)
    modes = []
    for name, original in (("fchown", os.fchown), ("fchmod", os.fchmod)):

        def noted(descriptor, *rest, change=original):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
            change(descriptor, *rest)

        monkeypatch.setattr(os, name, noted)
    write_whole(tmp_path / "secret", "new")
    assert modes == [0o600, 0o600]


def access_list(group, user=4999):
    """An access control list, in which the owner and a user may read and write, and the group may do this or less."""
    entries = [(1, 6, -1), (2, 6, user), (4, group, -1), (16, 6, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry[:2], entry[2] % 2**32) for entry in entries)


def test_an_access_control_list_stays_and_comes_from_no_folder(tmp_path):
    """The permissions of the group in such a file are those of the whole list, which the group itself has not got."""
    path, acl = tmp_path / "file", "system.posix_acl_access"
    write_whole(path, "old")
    try:
        os.setxattr(path, acl, access_list(0))
        os.setxattr(tmp_path, "system.posix_acl_default", access_list(6, 4998))
    except (AttributeError, OSError):
        pytest.skip("no access control lists here")
    write_whole(path, "new")
    with kept_open(tmp_path):
        write_whole(path, "newer")
    assert os.getxattr(path, acl) == access_list(0)
    os.removexattr(path, acl)
    path.chmod(0o640)
    write_whole(path, "newest")
    assert acl not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_on_a_disk_without_second_names(tmp_path, monkeypatch):
    def link(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with kept_open(tmp_path, new_files_only=True):
        write_whole(tmp_path / "new", "1")
        with pytest.raises(FileExistsError):
            write_whole(tmp_path / "new", "2")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("new", "1")]


def test_permissions_of_a_file_with_two_names_are_not_taken(tmp_path):
    """Somebody else may have given a file's name in this folder to an unrelated file, which all may read."""
    (tmp_path / "shared").write_text("unrelated")
    (tmp_path / "shared").chmod(0o666)
    (tmp_path / "report.html").hardlink_to(tmp_path / "shared")
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "report.html", "private")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o600
    assert (tmp_path / "shared").read_text() == "unrelated"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_permissions_of_a_strangers_file_are_not_taken(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    path.chmod(0o666)
    os.chown(path, 4321, 4321)
    before = os.umask(0o077)
    try:
        write_whole(path, "private")
    finally:
        os.umask(before)
    about = path.stat()
    assert (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (0o600, 0, os.getegid())


def test_an_interruption_leaves_the_old_file(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(ZeroDivisionError), opened_whole(tmp_path / "link", follow_links=True) as file:
        file.write(b"half" * (1 // 0))
    assert (tmp_path / "target").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_a_lock_that_is_a_link_is_not_emptied(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".functional_nn.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="a folder that can be written to"), one_writer("out", tmp_path / "folder"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_text_with_a_name_that_is_not_utf_8(tmp_path):
    write_whole(tmp_path / "page", "Über " + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "page").read_text("utf-8") == r"Über caf\udce9"


@pytest.mark.parametrize("path", ["", Path(""), Path(), "."])
def test_the_working_directory_is_no_folder_to_write_in(path):
    with pytest.raises(InputError, match="out: expected the path of a"):
        check_new_folder("out", path)


@pytest.mark.parametrize("path", ["", "a\0b", 3, True, b"x", [], None])
def test_what_is_no_path(path):
    with pytest.raises(InputError, match="out: expected the path of a file or folder"):
        check_path("out", path)


def test_a_file_that_is_larger_than_its_archive_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**42)
    with pytest.raises(OSError, match="a file of more than"):
        read_file(tmp_path / "config.json")


@pytest.mark.parametrize("size", [2**26 + 1, 2**42])
def test_a_sparse_file_of_arrays_is_not_read(tmp_path, size):
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed({"w": np.ones(3, np.float32)}, {}))
    os.truncate(path, size)
    with pytest.raises(DataError, match=f"a sparse file: {size:,} bytes"):
        unpacked(path)


def test_a_file_that_is_one_hole_is_not_read(tmp_path):
    with open(tmp_path / "table.csv", "wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(OSError, match="a sparse file: 67,108,865 bytes, of which fewer than 1% are on the disk"):
        opened(tmp_path / "table.csv", follow_links=True).close()
    (tmp_path / "empty").write_bytes(b"")
    opened(tmp_path / "empty", follow_links=True).close()


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_file_whose_blocks_are_counted_late_is_read(tmp_path, monkeypatch, blocks):
    """For some seconds, ZFS says that a new file has a single block."""
    monkeypatch.setattr(files, "LARGEST_SPARSE", 2**16)
    (path := tmp_path / "model").write_bytes(content := b"x" * 2**18)
    own = os.fstat

    def late(descriptor):
        fields = {name: getattr(own(descriptor), name) for name in dir(own(descriptor)) if name.startswith("st_")}
        return SimpleNamespace(**fields | {"st_blocks": blocks})

    monkeypatch.setattr(files.os, "fstat", late)
    assert read_file(path) == content


def test_holes_are_unknown_where_the_system_cannot_tell_them(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_SPARSE", 2**16)
    with open(tmp_path / "file", "wb") as file:
        file.truncate(2**18)

    def without_holes(descriptor, position, how, lseek=os.lseek):
        if how == os.SEEK_DATA:
            raise OSError(errno.EINVAL, "Invalid argument")
        return lseek(descriptor, position, how)

    monkeypatch.setattr(files.os, "lseek", without_holes)
    assert len(read_file(tmp_path / "file")) == 2**18


def test_json_of_too_many_entries_is_refused(monkeypatch):
    text = signed_text({"a": [[], [], []]})
    monkeypatch.setattr("functional_nn.storage.files.MOST_ENTRIES", 2)
    assert read_signed(signed_text({"a": 1, "b": 2}).encode()) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="more than 2 entries"):
        read_signed(text.encode())
    with pytest.raises(InputError, match="settings: expected at most 2 entries, got 5"):
        signed_text({"a": [[], [], []]})
    with pytest.raises(ValueError, match="more than 2 entries"):  # without a comma
        parsed(b'[[{"a": 1}]]')


def test_json_that_is_nested_too_deeply_is_refused():
    """To write 1 MiB of it again with indentation, for its checksum, took half a minute."""
    assert parsed(b"[" * 32 + b"]" * 32)
    with pytest.raises(ValueError, match="more than 32 lists or objects inside of each other"):
        read_signed(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}")


def test_a_signal_leaves_no_temporary_files(tmp_path):
    program = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from functional_nn.core.signals import Signals
from functional_nn.storage.files import opened_whole, temporary_folder
folder = Path(sys.argv[1])
with Signals(signal.SIGTERM), temporary_folder(".", above=folder), opened_whole(folder / "file") as file:
    print(len(list(folder.iterdir())), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "2\n", "\nStopped.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="the system does not list the files that are open")
def test_folders_are_closed_when_nobody_keeps_them_open(tmp_path):
    before = os.listdir("/dev/fd")
    with files.kept_open(tmp_path), files.kept_open(tmp_path):
        assert len(os.listdir("/dev/fd")) == len(before) + 1
    assert len(os.listdir("/dev/fd")) == len(before)
