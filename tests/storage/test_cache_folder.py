"""The cache is used only where nobody else can put anything."""

import os
from pathlib import Path

import pytest

from functional_nn.storage.cache_folder import UnsafeCache, cache_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and permissions of POSIX")
OTHER = 54321
"""Another user's number, which no account needs to have."""

as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The folder that the cache is to lie in."""
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path / "base"))
    return tmp_path / "base"


def refused(words: str) -> None:
    with pytest.raises(UnsafeCache, match=words):
        cache_folder("compiled")


def test_it_is_made_for_its_user_alone(base):
    folder = cache_folder("compiled")
    assert folder == base / "functional_nn" / "compiled"
    for part in (folder, folder.parent, base):
        assert part.stat().st_mode & 0o777 == 0o700
    (folder / "program").write_text("mine")
    assert cache_folder("compiled") == folder
    assert cache_folder() == base / "functional_nn"


def test_a_folder_that_others_can_read_becomes_private(base):
    """Otherwise they could open a program in the moment in which it is written with the permissions of the umask."""
    folder = cache_folder("compiled")
    folder.chmod(0o755)
    cache_folder("compiled")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_only_files_in_a_folder_of_the_cache_are_removed_and_nothing_beside_it(base):
    """The cache may be in a folder with a checkout of the same name, whose files the group may write."""
    checkout = base / "functional_nn"
    checkout.mkdir(parents=True)
    checkout.chmod(0o755)
    (checkout / "README.md").touch()
    (checkout / "README.md").chmod(0o664)
    assert cache_folder() == checkout
    program = cache_folder("compiled") / "program"
    program.touch()
    program.chmod(0o664)
    cache_folder("compiled")
    assert (checkout / "README.md").is_file()
    assert checkout.stat().st_mode & 0o777 == 0o755
    assert not program.exists()


def test_the_environment_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCTIONAL_NN_CACHE", str(tmp_path / "one"))
    assert cache_folder("compiled") == tmp_path / "one/functional_nn/compiled"
    monkeypatch.delenv("FUNCTIONAL_NN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert cache_folder("compiled") == tmp_path / "two/functional_nn/compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "three"))
    assert cache_folder("compiled") == tmp_path / "three/.cache/functional_nn/compiled"


@pytest.mark.parametrize("path", ["cache", "./cache", "~nobody_of_this_name/cache", "", "/a\0b", "/a\udcffb"])
def test_a_path_that_is_not_absolute_or_no_text_is_not_used(monkeypatch, path):
    monkeypatch.setattr(
        "functional_nn.storage.cache_folder.os.environ", {"FUNCTIONAL_NN_CACHE": path, "HOME": "relative"}
    )
    refused("is not an absolute path|null byte|nul|codec can't decode byte 0xff")


def test_without_a_home_there_is_no_cache(monkeypatch):
    """In a container: no HOME, no entry in the list of users. The path would be the literal ``~/.cache``."""
    for name in ("FUNCTIONAL_NN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    refused("'~/.cache' is not an absolute path")
    assert not Path("~").exists()


@pytest.mark.parametrize("which", ["functional_nn", "functional_nn/compiled"])
def test_a_link_in_the_place_of_the_cache_is_not_followed(base, tmp_path, which):
    (tmp_path / "download" / "compiled").mkdir(parents=True)
    (base / which).parent.mkdir(parents=True)
    (base / which).symlink_to(tmp_path / "download")
    refused("is not a folder")


def test_a_link_in_the_cache_is_not_followed(base, tmp_path):
    folder = cache_folder("compiled")
    (folder / "program").symlink_to(tmp_path / "elsewhere")
    refused("program is a symbolic link")


def test_the_users_own_link_to_another_disk_is_followed(base, tmp_path):
    (tmp_path / "disk").mkdir()
    base.symlink_to(tmp_path / "disk")
    assert cache_folder("compiled") == tmp_path / "disk" / "functional_nn" / "compiled"


@pytest.mark.parametrize("which", ["", "functional_nn", "functional_nn/compiled"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_not_used(base, which, mode):
    cache_folder("compiled")
    (base / which).chmod(mode)
    refused("other users may write to")


@pytest.mark.parametrize("mode", [0o660, 0o606])
def test_a_file_that_others_can_write_to_is_removed(base, mode):
    folder = cache_folder("compiled")
    for name in ("mine", "theirs"):
        (folder / name).write_text(name)
    (folder / "theirs").chmod(mode)
    (folder / "mine").chmod(0o644)
    assert cache_folder("compiled") == folder
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_a_shared_folder_in_which_everybody_removes_only_their_own_is_as_good(base):
    """As ``/tmp`` is."""
    base.mkdir()
    base.chmod(0o1777)
    assert cache_folder("compiled")


@as_root
@pytest.mark.parametrize("which", ["", "functional_nn", "functional_nn/compiled", "functional_nn/compiled/program"])
def test_what_belongs_to_another_user_is_not_used(base, which):
    (cache_folder("compiled") / "program").write_text("theirs")
    os.chown(base / which, OTHER, OTHER)
    refused("belongs to another user")


@as_root
def test_a_folder_above_that_is_another_users_is_not_used(base, tmp_path):
    """Root with a user's HOME, and a place in another user's folder: its owner can swap what is in it."""
    cache_folder("compiled")
    os.chown(tmp_path, OTHER, OTHER)
    try:
        refused("belongs to another user")
    finally:
        os.chown(tmp_path, os.getuid(), os.getgid())


def test_nothing_is_made_where_the_folders_above_are_not_safe(base, tmp_path):
    tmp_path.chmod(0o777)
    refused("other users may write to")
    assert not base.exists()
    tmp_path.chmod(0o700)
