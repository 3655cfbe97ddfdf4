"""Opening files safely, atomic writing of files, locks, and JSON files with checksums and schemas.

A folder may come from a stranger. So only regular files are opened, since a pipe would wait for its other end for ever,
and a symbolic link in a folder is not followed: it could lead to any file of the user.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import math
import os
import secrets
import stat
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BufferedReader
from itertools import chain
from pathlib import Path
from shutil import rmtree
from tempfile import gettempdir
from typing import Any, BinaryIO, TypeAlias

from functional_nn.core.errors import DataError, InputError, shortened, shown
from functional_nn.core.signals import removed_by_signals

LINK = "a symbolic link, which is not followed"
TEMPORARY = "functional_nn.tmp"
"""The ending of the names of half-written files. It is specific, so that no other program's files are removed."""
HALF_WRITTEN = f".*.{TEMPORARY}"
"""The pattern of the names of half-written files."""

MOST_BYTES = 2**26
"""The largest file of settings that is read: 64 MiB, which a sweep of half a million members can need."""
LARGEST_SPARSE = 2**26
"""The largest file that is read if nearly all of it is a hole, which takes no room on the disk. A few kilobytes of an
archive can become such a file, and its zeros would fill the memory."""
MOST_ENTRIES = 10**6
"""The largest number of entries in JSON from a file, and of lists and objects. A million empty lists take 3 MB there,
and 60 MB in memory."""
MOST_LEVELS = 32
"""The largest number of lists and objects inside of each other in JSON from a file. To write a text again with its
indentation, as for its checksum, takes time in proportion to it."""
MOST_BYTES_OF_ROWS = 2**27
"""The largest file with a row for each epoch that is read."""
PIECE = 2**20
"""The number of bytes that are read at once for a checksum."""

JsonValue: TypeAlias = Any
"""A value as JSON holds it: None, a boolean, a number, a string, a list or an object."""
JsonObject: TypeAlias = dict[str, JsonValue]
"""An object as JSON holds it."""


def check_path(argument: str, value: object) -> Path:
    """Checks the path of a file or folder. A number is an error, since Python would take it for an open file."""
    expected = "the path of a file or folder, without NUL characters"
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(argument, expected, shown(value))
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(argument, expected, f"{shown(value)}, which is too long") from None
    return Path(text)


def check_lasting_path(argument: str, value: object) -> Path:
    """The same for a path that a call uses several times. The program may change the working directory meanwhile.

    So a relative path becomes absolute. A path in a folder that is kept open stays as it is: the open folder is looked
    up by this path.
    """
    path = check_path(argument, value)
    is_in_open = any(str(one) in _KEPT_OPEN for one in (path, *path.parents))
    with suppress(FileNotFoundError):  # the working directory was removed
        return path if is_in_open else path.absolute()
    return path


def check_new_folder(argument: str, value: object) -> Path:
    """Checks the path of a folder to write in. It must not be the working directory itself.

    ``Path("")`` is the working directory, so an empty name would quietly fill it with files.
    """
    path = check_path(argument, value)
    if path == Path():
        remedy = "Name a folder in it, such as runs/first."
        raise InputError(argument, "the path of a folder", f"{str(value)!r}, the working directory", remedy)
    return check_lasting_path(argument, value)


def regular_file(
    path: str | os.PathLike[str], flags: int, mode: int = 0o666, *, follow_links: bool = True, most: float | None = None
) -> int:
    """An opener for ``open`` that takes regular files only. Opening a pipe would wait for its other end.

    Args:
        path, flags, mode: as ``open`` gives them.
        follow_links: not for a file in a folder that may come from a stranger. A symbolic link is an error then. A file
            that is changed where it is must have no other name, which a hard link of a stranger could have given it.
        most: the largest number of bytes that it may have; None for no limit.

    Raises:
        OSError: for anything else, and if it cannot be opened.
    """
    name, folder = _placed(path)
    more = getattr(os, "O_NONBLOCK", 0) | (0 if follow_links else getattr(os, "O_NOFOLLOW", 0))
    try:
        descriptor = os.open(name, flags | more, mode, dir_fd=folder)
    except OSError as error:
        is_link = error.errno == errno.ELOOP and not follow_links
        raise OSError(error.errno, LINK if is_link else error.strerror, os.fspath(path)) from None
    about = os.fstat(descriptor)
    stamp, wrong = _stamp(about), None
    if stat.S_ISDIR(about.st_mode):
        wrong = errno.EISDIR, os.strerror(errno.EISDIR)
    elif not stat.S_ISREG(about.st_mode):
        wrong = errno.EINVAL, "not a regular file"
    elif not follow_links and flags & (os.O_WRONLY | os.O_RDWR) and about.st_nlink > 1:
        wrong = errno.EMLINK, "a file with a second name (a hard link); copy it, and remove this one"
    elif most is not None and about.st_size > most:
        wrong = errno.EFBIG, f"a file of more than {most:,.0f} bytes"
    elif any(watched.get(os.fspath(path), stamp) != stamp for watched in list(_WATCHED.values())):
        wrong = errno.ESTALE, OTHER
    elif about.st_size > LARGEST_SPARSE and filled_bytes(descriptor, share := about.st_size / 100) < share:
        wrong = errno.EFBIG, f"a sparse file: {about.st_size:,} bytes, of which fewer than 1% are on the disk"
    if wrong is not None:
        os.close(descriptor)
        raise OSError(*wrong, os.fspath(path))
    return descriptor


def filled_bytes(descriptor: int, enough: float = math.inf) -> int:
    """The bytes of an open file that are not in holes, counted until there are ``enough``.

    The number of its blocks on the disk does not tell this: some file systems, such as ZFS, count those of a new file
    only after seconds. If the system does not tell where the holes are, there are none.
    """
    found, end, size = 0, 0, os.fstat(descriptor).st_size
    if not hasattr(os, "SEEK_DATA"):
        return size
    try:
        while found < enough and end < size:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            found += end - start
    except OSError as error:
        return found if error.errno == errno.ENXIO else size  # ENXIO: the rest is one hole
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return found


unlinked_file = partial(regular_file, follow_links=False)
"""The same, for a file in a folder that may come from a stranger."""


def opened(path: Path, *, most: float | None = None, follow_links: bool = False) -> BufferedReader:
    """Opens a regular file to read it.

    Args:
        path: the file.
        most: the largest number of bytes that it may have; None for no limit.
        follow_links: for a path that the user named for this file alone. Otherwise a symbolic link is an error.

    Raises:
        OSError: for anything but such a file, and if it cannot be opened.
    """
    return open(path, "rb", opener=partial(regular_file, follow_links=follow_links, most=most))


def read_file(path: Path, most: float = MOST_BYTES, *, follow_links: bool = False) -> bytes:
    """The content of a file; see ``opened``. What somebody adds to it meanwhile is not read."""
    with opened(path, most=most, follow_links=follow_links) as file:
        return file.read(os.fstat(file.fileno()).st_size)


_WATCHED: dict[int, dict[str, tuple[int, ...] | None]] = {}
"""For each context of ``unchanged``, what ``_stamp`` says about each path."""
SAME = "a file or folder that stays the same while it is read"
OTHER = "another one than before; read it again, when nobody writes there"


@contextmanager
def unchanged(paths: Iterable[Path]) -> Iterator[None]:
    """Requires that nobody changes files, or puts others in the place of files or folders, while they are read.

    Otherwise they may not belong together, although each of them is whole: as when a link to the newest run moves on.
    A file that is opened meanwhile has to be the one that was there at the start.

    Raises:
        DataError: when one of them is opened, or at the end of the context, if it is another one.
    """
    before = {os.fspath(path): _stamp_at(path) for path in paths}
    _WATCHED[id(before)] = before
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        raise DataError(str(error.filename), SAME, OTHER) from None
    finally:
        del _WATCHED[id(before)]
    for path, stamp in before.items():
        if _stamp_at(Path(path)) != stamp:
            raise DataError(path, SAME, OTHER)


def _stamp_at(path: Path) -> tuple[int, ...] | None:
    """That of the file or folder with this path; None if there is nothing."""
    name, folder = _placed(path)
    try:
        return _stamp(os.stat(name, dir_fd=folder))
    except OSError:
        return None


def _stamp(about: os.stat_result) -> tuple[int, ...]:
    """Which file or folder it is, and the last change of a file."""
    identity = about.st_dev, about.st_ino
    return identity if stat.S_ISDIR(about.st_mode) else (*identity, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def check_folder(folder: Path, expected: str, remedy: str = "") -> None:
    """Requires a folder that exists. One that is kept open does, whatever its name is now."""
    if not is_kept_open(folder) and not folder.is_dir():
        raise DataError(str(folder), expected, "a file" if folder.exists() else "nothing there", remedy)


def check_no_link(argument: str, path: Path) -> None:
    """Requires that a file or folder inside the one that the user named is no symbolic link."""
    if os.path.islink(path):
        raise InputError(argument, "a folder without links in it", f"the link {path}", "Remove the link.")


def check_no_links(argument: str, folder: Path, inner: str) -> None:
    """Requires that there are no symbolic links in a folder to write in, and in one inside it. They need not exist."""
    for path in (*folder.glob("*"), *folder.glob(f"{inner}/*")):
        check_no_link(argument, path)


_KEPT_OPEN: dict[str, int] = {}
"""The folders that ``kept_open`` keeps open: the descriptor of each by its path.

The paths of a command may be relative. They lead to the same folder if another user renames the working directory.
Those of Python calls are absolute, see ``check_lasting_path``."""
_USERS: Counter[str] = Counter()
"""The contexts that keep each of them open, perhaps in several threads. The last one closes it."""
_OPENING = threading.Lock()
"""Held while one is opened or closed."""
_NEW_FILES_ONLY: set[int] = set()
"""The descriptors of those in which no file may be replaced."""
_DESTINATIONS: dict[str, int] = {}
"""The files of ``kept_destination`` by their paths: the descriptor of the folder of each."""
_DEVICES: dict[str, os.stat_result] = {}
"""The devices and pipes of ``kept_destination`` by their paths: which one each is."""


@contextmanager
def kept_open(folder: Path, *, new_files_only: bool = False, follow_links: bool = True) -> Iterator[None]:
    """Keeps a folder open. Until the context ends, the functions of this module read and write in the open folder.

    Another user who can write to the folder above may rename this one at any moment, and put a link to another folder
    in its place. So files are opened relative to the open folder, and not by its name. Windows cannot open folders;
    there the names are used.

    Args:
        folder: the folder.
        new_files_only: whether to write a file that exists is an error.
        follow_links: whether the folder may be a link. Inside one that is kept open, it never may.
    """
    if os.open not in os.supports_dir_fd:
        yield
        return
    path = str(Path(folder))
    with _OPENING:
        if path not in _KEPT_OPEN:
            _KEPT_OPEN[path] = _opened_folder(folder, follow_links=follow_links)
        descriptor = _KEPT_OPEN[path]
        _USERS[path] += 1
        if new_files_only:
            _NEW_FILES_ONLY.add(descriptor)
    try:
        yield
    finally:
        with _OPENING:
            _USERS[path] -= 1
            if not _USERS[path]:
                _NEW_FILES_ONLY.discard(descriptor)
                del _KEPT_OPEN[path], _USERS[path]
                os.close(descriptor)


@contextmanager
def folder_to_write(argument: str, folder: Path, *, of_others: bool = False) -> Iterator[None]:
    """Makes a folder, and keeps it open (see ``kept_open``). A new folder that is empty at the end is removed.

    Args:
        argument: the name of the argument, for errors.
        folder: the folder.
        of_others: whether it may belong to another user, who can change what is in it at any time.

    Raises:
        InputError: names the argument, if it is no folder, or cannot be made or opened, or if it belongs to another
            user. What is in it, such as a checkpoint of that user, would become a part of the run.
    """
    is_new = not os.path.lexists(folder)
    with ExitStack() as stack:
        try:
            make_folder(folder)
            stack.enter_context(kept_open(folder))
            is_of_another = _is_of_another_user(folder)
        except OSError as error:
            raise _cannot_write(argument, folder, error) from None
        if is_of_another and not of_others:
            raise InputError(
                argument, "a folder of your own", f"{folder}, which another user made", "Use a new folder."
            )
        try:
            yield
        finally:
            if is_new:
                name, above = _placed(folder)
                with suppress(OSError):
                    os.rmdir(name, dir_fd=above)


def _is_of_another_user(folder: Path, *, is_private: bool = False) -> bool:
    """Whether a folder that is kept open belongs to another user than what this process makes there. Root may use it.

    On a network's disk, all files may have another owner than this process. So the owners of files are compared.

    Args:
        folder: the folder.
        is_private: whether nobody else may be able to use it, either. Some disks keep no permissions of files.
    """
    name, descriptor = _placed(path := folder / f".{secrets.token_hex(8)}.{TEMPORARY}")
    with removed_by_signals(partial(remove_file, path)):
        with open(name, "xb", opener=partial(os.open, mode=0o600, dir_fd=descriptor)) as file:
            own = os.fstat(file.fileno())
        remove_file(path)
    if descriptor is None:
        return False
    about = os.fstat(descriptor)
    if is_private and about.st_mode & 0o077 and not own.st_mode & 0o077:
        return True
    return about.st_uid != own.st_uid and os.geteuid() != 0


def _cannot_write(argument: str, path: Path, error: OSError) -> InputError:
    return InputError(argument, "a folder that can be written to", f"{path} ({error.strerror})")


def _opened_folder(folder: Path, *, follow_links: bool = True) -> int:
    """The descriptor of a folder. A user may name a link to it. Inside one that is kept open, no link is followed."""
    if (kept := _KEPT_OPEN.get(str(Path(folder)))) is not None:
        # Not a copy of the descriptor: listings of a copy would continue where another one stopped.
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=kept)
    name, above = _placed(folder)
    follow = 0 if above is None and follow_links else os.O_NOFOLLOW
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | follow, dir_fd=above)
    except OSError as error:
        is_link = follow and os.path.islink(folder)
        raise OSError(error.errno, LINK if is_link else error.strerror, str(folder)) from None


def check_not_removed(folder: Path) -> None:
    """Raises ``FileNotFoundError`` if a folder that is kept open was removed."""
    descriptor = _KEPT_OPEN.get(str(Path(folder)))
    if descriptor is not None and not os.fstat(descriptor).st_nlink:
        raise FileNotFoundError(errno.ENOENT, "It was removed, so nothing can be saved there", str(folder))


@contextmanager
def kept_destination(file: Path) -> Iterator[None]:
    """Keeps the folder of a file to write open, for this file alone: it is written there, wherever its path leads then.

    The file itself must not be a link. If it is a device or a pipe, anything else in its place is an error later.
    """
    if (about := device_at(file)) is not None:
        _DEVICES[str(file)] = about
        try:
            yield
        finally:
            del _DEVICES[str(file)]
        return
    if os.open not in os.supports_dir_fd:
        yield
        return
    descriptor = os.open(file.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
    _DESTINATIONS[str(file)] = descriptor
    try:
        yield
    finally:
        del _DESTINATIONS[str(file)]
        os.close(descriptor)


def device_at(path: Path) -> os.stat_result | None:
    """About a device, a pipe, or a file that this process has open, as ``/dev/stdout``: what must not be replaced.

    None for a regular file, and for a path where there is nothing. Links are followed, but not for a file of
    ``kept_destination``, which is what it was before.
    """
    if str(path) in _DESTINATIONS:
        return None
    if str(path) in _DEVICES:
        return _DEVICES[str(path)]
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(about.st_mode) and _own_descriptor(path) is None else about


def _own_descriptor(path: Path) -> int | None:
    """The number of the open file of this process that a path leads to, as ``/dev/stdout`` and ``/proc/self/fd/1`` do.

    To replace that file would leave the open one without a name.
    """
    while path.is_symlink():
        if os.path.realpath(path.parent) == f"/proc/{os.getpid()}/fd":
            return int(path.name)
        path = path.parent / os.readlink(path)
    return None


@contextmanager
def opened_device(path: Path, about: os.stat_result) -> Iterator[BinaryIO]:
    """Opens what ``device_at`` found at a path, to write at its end.

    Raises:
        OSError: if it is another one now.
    """

    def opener(name: str, flags: int) -> int:
        # Nothing is made or emptied, in case that another user has put a link there. A copy of an open descriptor
        # writes where that one has stopped.
        own = _own_descriptor(path)
        return os.open(name, flags & ~os.O_CREAT) if own is None else os.dup(own)

    with open(path, "ab", opener=opener) as file:
        if not os.path.samestat(os.fstat(file.fileno()), about):
            raise OSError(errno.EINVAL, "another file took its place meanwhile", str(path))
        yield file


def is_kept_open(folder: Path) -> bool:
    """Whether a folder is kept open, so that no link to it is followed any more."""
    return str(folder) in _KEPT_OPEN


def _placed(path: str | os.PathLike[str]) -> tuple[str, int | None]:
    """A path as the functions of ``os`` take it: a name, and the descriptor of its folder if that is kept open."""
    folder, name = os.path.split(Path(path))
    descriptor = _DESTINATIONS.get(str(Path(path)), _KEPT_OPEN.get(folder or os.curdir))
    return (os.fspath(path), None) if descriptor is None else (name, descriptor)


def make_folder(path: Path) -> None:
    """Makes a folder, unless it is there."""
    name, above = _placed(path)
    if above is None:
        path.mkdir(parents=True, exist_ok=True)
    else:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)


def names_in(folder: Path) -> list[str]:
    """The names of the files and folders in a folder."""
    if os.open not in os.supports_dir_fd:
        return os.listdir(folder)
    descriptor = _opened_folder(folder)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str | bytes, *, follow_links: bool = False) -> None:
    """Writes a file in one step: a reader sees the old file or the new file, never a part of it.

    Args:
        path: the file.
        content: bytes, or a text to be written as UTF-8.
        follow_links: as for ``opened_whole``.

    Raises:
        OSError: if it could not be written. The error names the file.
    """
    try:
        with opened_whole(path, follow_links=follow_links) as file:
            # A name in a file system need not be UTF-8. In a text, its other bytes become escapes such as \udce9.
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    except OSError as error:
        if error.errno is None:  # an error of Python, not of the system
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def opened_whole(path: Path, *, follow_links: bool = False) -> Iterator[BinaryIO]:
    """Opens a new file, which replaces the old one at the end. An interruption leaves the old one.

    The permissions of the old file are kept.

    Args:
        path: the file.
        follow_links: for a path that the user named for this file alone. Symbolic links are followed then, and a
            device, a pipe or another open file is written to directly, since replacing it would destroy it. Otherwise
            all of these are errors. They also are for a file of ``kept_destination``.
    """
    if follow_links and (device := device_at(path)) is not None:
        with opened_device(path, device) as file:
            yield file
        return
    is_link = follow_links and str(path) not in _DESTINATIONS and path.is_symlink()
    name, folder = _placed(os.path.realpath(path) if is_link else path)
    # The file's own name may be as long as the system allows, so the temporary name does not contain it.
    temporary = os.path.join(os.path.dirname(name), f".{secrets.token_hex(8)}.{TEMPORARY}")
    remove = partial(os.unlink, temporary, dir_fd=folder)
    try:
        old = _replaceable(name, folder)
        # The permissions of somebody else's file, such as of a stranger's page, could let him read the new one. He may
        # also have given the name to another file of the owner, as a hard link. Then they only limit those of the new.
        are_kept = old is not None and _is_own(old) and old.st_nlink == 1
        # Whoever has opened a file can read it, whatever its permissions become. So it begins with few of them.
        mode = 0o666 if old is None else old.st_mode & (0o600 if are_kept else 0o666)
        with removed_by_signals(remove):
            with open(temporary, "xb", opener=partial(os.open, mode=mode, dir_fd=folder)) as file:
                if old is not None and are_kept:
                    _keep_permissions(file.fileno(), old, name, folder)
                yield file
                # The content has to be on the disk before the name leads to it. Otherwise a loss of power could leave
                # an empty file in place of the old one.
                file.flush()
                os.fsync(file.fileno())
            if folder in _NEW_FILES_ONLY:
                _name_new_file(temporary, name, folder)
            else:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(FileNotFoundError):
            remove()


def _name_new_file(temporary: str, name: str, folder: int | None) -> None:
    """Gives a finished file its name. A file that has the name already is an error."""
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A disk without second names, such as a memory card.
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(temporary, dir_fd=folder)


def _replaceable(name: str, folder: int | None) -> os.stat_result | None:
    """About the regular file with this name; None if there is none.

    Raises:
        OSError: if it is a link, or something else that is no regular file.
    """
    try:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(about.st_mode):
        is_link = stat.S_ISLNK(about.st_mode)
        raise OSError(errno.ELOOP, LINK, name) if is_link else OSError(errno.EINVAL, "not a regular file", name)
    return about


def _is_own(about: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or about.st_uid == os.geteuid()


ACCESS = "system.posix_acl_access"
"""The name of the attribute with the access control list of a file on Linux."""


def _keep_permissions(descriptor: int, old: os.stat_result, name: str, folder: int | None) -> None:
    """Gives a new file, which only its owner can use, the group, the permissions and the access control list of the
    old one. The group comes first, so that its permissions are never those of another group."""
    access = None
    with suppress(OSError, AttributeError):  # it has none; Linux alone has this function
        path = name if folder is None else f"/proc/self/fd/{folder}/{name}"
        access = os.getxattr(path, ACCESS, follow_symlinks=False)
    with suppress(OSError, AttributeError):  # a new file may have one because of its folder
        os.removexattr(descriptor, ACCESS)
    with suppress(OSError, AttributeError):  # somebody else's group; Windows has neither of the two functions
        os.fchown(descriptor, -1, old.st_gid)
        if access is None:
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        else:
            os.setxattr(descriptor, ACCESS, access)  # it has the permissions


def _keep_permissions_of_folder(new: Path, old: os.stat_result, name: str, above: int | None) -> None:
    """The same for a new folder that is kept open, and the empty one of the same user that it will replace."""
    if (descriptor := _KEPT_OPEN.get(str(new))) is not None and stat.S_ISDIR(old.st_mode) and _is_own(old):
        with suppress(OSError):  # if the rest fails, nobody else can use it
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o700)
        _keep_permissions(descriptor, old, name, above)


@contextmanager
def temporary_folder(prefix: str, suffix: str = "", above: Path | None = None) -> Iterator[Path]:
    """A folder that is removed at the end, also if a signal ends the process: in the one above, or in the system's.

    It is kept open (see ``kept_open``). It is inside of another one, which nobody else can use. So nobody can put a
    folder of this user in its place, which would be removed at the end.
    """
    outer = (above or Path(gettempdir())) / f"{prefix}{secrets.token_hex(8)}{suffix}"
    folder = outer / "content"
    name, descriptor = _placed(outer)
    os.mkdir(name, 0o700, dir_fd=descriptor)
    with kept_open(outer, follow_links=False):
        if names_in(outer) or _is_of_another_user(outer, is_private=True):
            raise FileExistsError(errno.EEXIST, "Another folder took the place of a new one", str(outer))
        remove = partial(_remove_temporary, folder)
        with removed_by_signals(remove):
            make_folder(folder)
            try:
                with kept_open(folder):
                    yield folder
            finally:
                remove()


def _remove_temporary(folder: Path) -> None:
    """Removes a folder in one that is kept open, and then that one, if it is still at its place and empty."""
    name, descriptor = _placed(folder)
    with suppress(FileNotFoundError):
        rmtree(name, dir_fd=descriptor)
    name, above = _placed(folder.parent)
    with suppress(OSError):
        os.rmdir(name, dir_fd=above)


def remove_file(path: Path) -> None:
    """Removes a file, or a link but not what it leads to. There may be nothing, or a folder, which stays."""
    name, above = _placed(path)
    with suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(name, dir_fd=above)


@contextmanager
def new_folder(argument: str, value: object) -> Iterator[Path]:
    """A folder beside the one to write, which takes its place at the end: other programs never see a part of it.

    If an error is raised, nothing is left of it.

    Args:
        argument: the name of the argument, for errors.
        value: the path of a new or empty folder.

    Raises:
        InputError: names the argument, if there are files in the folder, or if it cannot be made.
    """
    folder = check_new_folder(argument, value)
    is_empty = folder.is_dir() and not folder.is_symlink() and not names_in(folder)
    if os.path.lexists(folder) and not is_empty:
        raise InputError(argument, "a new or empty folder", f"{folder}, which exists", "Files are never overwritten.")
    with (
        folder_to_write(argument, folder.parent, of_others=True),
        temporary_folder(".", f".{TEMPORARY}", folder.parent) as whole,
    ):
        yield whole
        name, above = _placed(folder)
        try:
            with suppress(FileNotFoundError):
                _keep_permissions_of_folder(whole, os.stat(name, dir_fd=above, follow_symlinks=False), name, above)
                os.rmdir(name, dir_fd=above)  # an empty one, which Windows does not replace
            move(whole, folder)
        except OSError as error:  # such as for a link that is there meanwhile
            raise _cannot_write(argument, folder, error) from None


def move(source: Path, target: Path) -> None:
    """Moves a file or a folder. A file that is there is replaced."""
    (name, above), (new_name, new_above) = _placed(source), _placed(target)
    os.replace(name, new_name, src_dir_fd=above, dst_dir_fd=new_above)


def remove_leftovers(parent: Path) -> None:
    """Removes half-written files of a killed process. No other process may be writing to the folder."""
    for name in fnmatch.filter(names_in(parent), HALF_WRITTEN) if parent.is_dir() else ():
        remove_file(parent / name)


def checksum_of(path: Path, most: float | None = None) -> str:
    """The SHA-256 of a file, which is not read into memory as a whole; see ``opened`` and ``read_file``."""
    found = hashlib.sha256()
    with opened(path, most=most) as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, PIECE):
            found.update(file.read(min(PIECE, size - start)))
    return found.hexdigest()


def synchronize(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk, if the system can do this."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = _opened_folder(folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def finite_json(value: object) -> JsonValue:
    """Converts a value for JSON: numbers that are not finite become None, and sequences become lists.

    >>> finite_json({"loss": float("nan"), "sizes": (1, 2)})
    {'loss': None, 'sizes': [1, 2]}
    """
    if isinstance(value, dict):
        return {key: finite_json(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [finite_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(argument: str, value: object) -> JsonValue:
    """The value as it would be read back from JSON.

    Raises:
        InputError: for a value that JSON cannot hold, and for keys such as 1 and "1", which are equal in JSON.
    """
    try:
        text = json.dumps(finite_json(value))
        found = json.loads(text)
        if json.dumps(found) != text:
            raise ValueError("two keys are equal as text")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(argument, "what JSON can hold", f"{type(value).__name__} ({error})") from None
    return found


def write_json(path: Path, value: object) -> None:
    """Writes JSON to a file that the user named, whole or not at all. A number that is not finite becomes null."""
    write_whole(path, json.dumps(finite_json(value), indent=2) + "\n", follow_links=True)


def signed_text(entries: Mapping[str, object], indent: int | None = 1) -> str:
    """JSON text with the SHA-256 of all entries as the last one. The same entries always give the same text.

    Without an indentation, it is one line.

    Raises:
        InputError: for so many entries that the text could not be read again, as those of a table of 400,000 columns.
    """
    plain = finite_json(entries)
    text = json.dumps(plain | {"sha256": hashlib.sha256(json.dumps(plain).encode()).hexdigest()}, indent=indent) + "\n"
    if (count := _number_of_entries(text.encode())) > MOST_ENTRIES:
        remedy = "Has the table too many columns, or the sweep too many members?"
        raise InputError("settings", f"at most {MOST_ENTRIES:,} entries", f"{count:,}", remedy)
    return text


def _number_of_entries(content: bytes) -> int:
    """About how many entries a JSON text has. One list inside of another needs no comma."""
    return max(content.count(b","), content.count(b"[") + content.count(b"{"))


def parsed(content: bytes) -> JsonValue:
    """The value of a JSON text from a file.

    Raises:
        ValueError: for any other text, and for one that has too many entries or is nested too deeply.
        RecursionError: for a text that is nested still more deeply.
    """
    if _number_of_entries(content) > MOST_ENTRIES:
        raise ValueError(f"more than {MOST_ENTRIES:,} entries")
    value = json.loads(content)
    levels, nested = 0, [value] if isinstance(value, dict | list) else []
    while nested:
        if (levels := levels + 1) > MOST_LEVELS:
            raise ValueError(f"more than {MOST_LEVELS} lists or objects inside of each other")
        entries = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in nested)
        nested = [entry for entry in entries if isinstance(entry, dict | list)]
    return value


def read_signed(content: bytes, schema: Schema = dict, indent: int | None = 1) -> JsonObject:
    """Reads the entries of a text that ``signed_text`` made.

    Raises:
        ValueError: for any other text, such as one with a flipped bit, and for entries that do not fit the schema.
        RecursionError: for a text that is nested too deeply.
    """
    text = content.decode()
    entries = parsed(content)
    check_fits(entries, dict)
    entries.pop("sha256", None)
    if text != signed_text(entries, indent):
        raise ValueError("its checksum does not match")
    check_fits(entries, schema)
    return entries


LOCK = ".functional_nn.lock"
MOST_BYTES_OF_LOCK = 20
"""A lock has the number of a process."""


@contextmanager
def one_writer(argument: str, folder: Path) -> Iterator[None]:
    """Makes a folder, keeps it open, and locks it for one writer. The folder has a lock file until the context ends.

    Raises:
        InputError: names the argument, if another writer, in this process or another, uses the folder, or if it cannot
            be written to.
    """
    with ExitStack() as stack:
        stack.enter_context(folder_to_write(argument, folder))
        try:
            stack.enter_context(_locked(folder / LOCK))
        except BlockingIOError as error:
            remedy = "Wait until it has ended, or use another folder."
            raise InputError(argument, "a folder that nobody else writes to", f"{folder}, {error}", remedy) from None
        except OSError as error:  # the file of a killed process of another user, for example
            raise _cannot_write(argument, folder / LOCK, error) from None
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file. Only one process at a time can hold it. The system releases the lock when the process dies.

    Raises:
        BlockingIOError: if another process holds it. Its text is about that process.
        OSError: if the file cannot be written.
    """
    # Whoever can read the file can hold the lock. So only its owner may, also in a folder that everyone reads.
    with open(unlinked_file(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii", errors="replace") as file:
        with suppress(OSError, AttributeError):  # an earlier version's file of another user; Windows has no fchmod
            os.fchmod(file.fileno(), 0o600)
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError):
            file.seek(0)
            number = shortened(file.read(MOST_BYTES_OF_LOCK))
            raise BlockingIOError(f"which {f'process {number}' if number else 'another process'} writes to") from None
        # Another process may have removed the file between the two calls. Then a third one can hold a new file.
        if not _is_at(path, file.fileno()):
            raise BlockingIOError("which another process used a moment ago")
        # The file is emptied only with the lock held, since others read the number of the holder in it.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                remove_file(path)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at this path."""
    name, folder = _placed(path)
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        # Nobody else can read a locked byte here, so a byte behind the number of the process is locked.
        os.lseek(descriptor, 64, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


Schema: TypeAlias = "type | Sequence[Schema] | Mapping[Any, Schema] | None"
"""A type: ``str``, ``bool``, ``int``, or ``float`` for any number; ``dict`` or ``list`` with anything in it; ``None``;
a tuple of alternatives; a list with the schema of each of its values; or the schemas of entries by name. There ``...``
stands for all other names. A missing entry counts as null, and an entry without a schema can be anything."""

PLAIN = (str, float, bool, None)
"""A text, a number, a boolean or null."""

LARGEST_INTEGER = 2**63 - 1
"""The largest integer. JSON has no limit, but arrays and files have."""


def misfit(value: JsonValue, schema: Schema, place: str = "") -> str:
    """The first entry of a JSON value that does not fit, with its place; empty if all do.

    >>> misfit({"seconds": {"train": "0.9"}}, {"seconds": {...: float}})
    "seconds/train '0.9'"
    """
    alternatives = schema if isinstance(schema, tuple) else (schema,)
    if any(_is_of_type(value, one) for one in alternatives):
        return ""
    within: Any = next((one for one in alternatives if type(one) is type(value)), None)
    if isinstance(within, dict):
        names = dict.fromkeys([*(name for name in within if name is not ...), *(value if ... in within else ())])
        parts = ((name, value.get(name), within.get(name, within.get(...))) for name in names)
    elif isinstance(within, list):
        parts = ((number, one, within[0]) for number, one in enumerate(value))
    else:
        return " ".join((place, "null" if value is None else shown(value))).lstrip()
    for name, part, of_part in parts:
        if found_in_part := misfit(part, of_part, f"{place}/{shortened(name)}".lstrip("/")):
            return found_in_part
    return ""


def check_fits(value: JsonValue, schema: Schema) -> None:
    """Raises a ``ValueError`` that names the first entry that does not fit; see ``misfit``."""
    if found := misfit(value, schema):
        raise ValueError(found)


def _is_of_type(value: JsonValue, schema: Schema) -> bool:
    if schema is float:
        # The limit is False for NaN, too. True and False are no numbers, although Python takes them for some.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if schema is int:
        return type(value) is int and abs(value) <= LARGEST_INTEGER
    return type(value) is (type(None) if schema is None else schema)
