"""A sweep in parts, and the parts put together."""

import json
import os
import re
import shutil

import numpy as np
import optax
import pytest
from tests.bits import contents, without_times

import functional_nn as fnn
from functional_nn.core.errors import DataError, InputError
from functional_nn.storage.arrays import packed, unpacked
from functional_nn.sweeps import parts as parts_module
from functional_nn.sweeps import store
from functional_nn.sweeps.parts import read_sweep

GRID = fnn.grid(rate=[0.1, 0.2, 0.3], width=[2, 3], seed=range(2))


def model(h):
    return fnn.chain(fnn.dense(h["width"]), fnn.dense(3))


def rule(h):
    return optax.sgd(h["rate"])


def sweep(data, grid=GRID, **options):
    return fnn.sweep(model, rule, grid, data, **{"epochs": 1, "batch_size": 25, "progress": False, **options})


@pytest.fixture(scope="module")
def folders(blobs, tmp_path_factory):
    """The folder of the whole sweep, and those of its three parts."""
    folder = tmp_path_factory.mktemp("parts")
    sweep(blobs, out=folder / "whole")
    for part in (1, 2, 3):
        result = sweep(blobs, out=folder / f"{part}", part=(part, 3))
        assert [member.number for member in result.members] == [part - 1, part + 2, part + 5, part + 8]
        assert {member.status for member in result.members} == {"finished"}
    return folder / "whole", [folder / "1", folder / "2", folder / "3"]


def rows(result):
    return list(map(without_times, result.rows()))


def test_an_unfinished_part_is_named_by_its_members(folders, tmp_path):
    _, parts = folders
    shutil.copytree(parts[1], tmp_path / "cut")
    # A damaged file counts as missing, although its texts have a sense.
    file = sorted((tmp_path / "cut" / "batches").iterdir())[0]
    file.write_bytes(file.read_bytes().replace(b'seconds\\": ', b'seconds\\":1'))
    with (
        pytest.warns(UserWarning, match="count as not run"),
        pytest.raises(InputError, match=r"without 1 member \(1\)\.?$"),
    ):
        fnn.sweeps.merge([parts[0], tmp_path / "cut", parts[2]], tmp_path / "merged")


@pytest.mark.parametrize("kind", ["curve", "test"])
def test_members_with_metrics_of_their_own_are_refused(folders, tmp_path, kind):
    """Tables and pages have a place for each metric of each member."""
    whole = shutil.copytree(folders[0], tmp_path / "whole")
    for file in (whole / "batches").iterdir():
        arrays, about = unpacked(file)
        members = json.loads(about["members"])
        for place, member in enumerate(members):
            own = [f"{member['number']}_{number}" for number in range(10)]
            member["metrics" if kind == "curve" else "test_metrics"] += own
            arrays |= {f"{place}/{kind}/{name}": np.ones(1) for name in own}
        file.write_bytes(packed(arrays, about | {"members": json.dumps(members)}))
    with pytest.raises(DataError, match=r"with the same metrics, got 12\d metrics in all, and a member with 1\d"):
        read_sweep(whole)


def test_a_part_with_one_member_does_not_hide_that_another_one_used_vmap(blobs, tmp_path):
    grid = fnn.grid(rate=[0.1, 0.2, 0.3], width=[2])
    parts = [tmp_path / f"{part}" for part in (1, 2)]
    at_once = [
        sweep(blobs, grid=grid, plan="vmap", part=(part, 2), out=folder).plan["members_at_once"]
        for part, folder in enumerate(parts, 1)
    ]
    assert at_once == [2, 1]
    for merged, order in ((tmp_path / "one", parts), (tmp_path / "other", parts[::-1])):
        fnn.sweeps.merge(order, merged)
        with pytest.raises(InputError, match='members_at_once "merged parts" instead of 1'):
            sweep(blobs, grid=grid, plan="sequential", out=merged)


def test_parts_of_two_divisions_do_not_mix(blobs, folders, tmp_path):
    """Here both have a file of the same name with other members."""
    grid = fnn.grid(rate=[0.1, 0.2, 0.3, 0.4], width=[2])
    for name, part in {"1/4": (1, 4), "1/2": (1, 2), "2/2": (2, 2)}.items():
        sweep(blobs, grid=grid, plan="vmap", part=part, out=tmp_path / name.replace("/", "-"))
    with pytest.raises(InputError, match="folders: expected parts of one division"):
        fnn.sweeps.merge([tmp_path / "1-4", tmp_path / "1-2", tmp_path / "2-2"], tmp_path / "merged")


def test_parts_of_other_sweeps_are_refused_with_the_difference(blobs, folders, tmp_path):
    _, parts = folders
    sweep(blobs, out=tmp_path / "other", part=(1, 3), epochs=2)
    with pytest.raises(InputError, match=r"expected parts of one sweep, got .*other, .* epochs 2 instead of 1"):
        fnn.sweeps.merge([*parts, tmp_path / "other"], tmp_path / "merged")


def test_members_of_another_sweep_do_not_get_into_a_merged_one(blobs, folders, tmp_path, monkeypatch):
    """A link to the newest part moves on when its settings were read."""
    _, parts = folders
    other = fnn.grid(rate=[1.0, 2.0, 3.0], width=[2, 3], seed=range(2))
    sweep(blobs, other, out=tmp_path / "other", part=(2, 3))
    (tmp_path / "latest").symlink_to(parts[1])
    (tmp_path / "next").symlink_to(tmp_path / "other")
    read = store.read_settings

    def read_and_move(folder):
        found = read(folder)
        if folder == tmp_path / "latest" and (tmp_path / "next").is_symlink():
            (tmp_path / "next").replace(tmp_path / "latest")
        return found

    monkeypatch.setattr(store, "read_settings", read_and_move)
    with pytest.raises(InputError, match="a sweep without 4 members"):
        fnn.sweeps.merge([parts[0], tmp_path / "latest", parts[2]], tmp_path / "merged")


def test_a_folder_with_the_whole_sweep_is_only_read(folders, tmp_path):
    """A merge that was killed before the command wrote its tables has left such a folder, so it is not refused."""
    whole = shutil.copytree(folders[0], tmp_path / "whole")
    before = contents(whole)
    times = {whole / name: (whole / name).stat().st_mtime_ns for name in before}
    assert rows(fnn.sweeps.merge(folders[1], whole)) == rows(read_sweep(whole)[0])
    assert contents(whole) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_killed_merge_goes_on(folders, tmp_path):
    """Its folder has a lock, some of the batches, and half-written files."""
    whole, parts = folders
    merged = tmp_path / "merged"
    (merged / "batches").mkdir(parents=True)
    first = sorted((whole / "batches").iterdir())[0]
    shutil.copy(first, merged / "batches")
    for left in (".functional_nn.lock", ".1.functional_nn.tmp", "batches/.2.functional_nn.tmp"):
        (merged / left).write_text("1")
    fnn.sweeps.merge(parts, merged)
    assert contents(merged) == contents(whole)


def test_a_sweep_of_python_has_no_network_to_load(folders):
    with pytest.raises(InputError, match=r"a folder of functional-nn sweep, got .*whole, which fnn.sweep or"):
        fnn.exchange.load(folders[0])


@pytest.mark.parametrize(
    "name", ["notes.txt", "batches/notes.txt", "batches/0-0-end.safetensors", "other/.functional_nn.lock"]
)
def test_a_merge_does_not_go_on_among_other_files(folders, tmp_path, name):
    """A batch of another sweep is one of them."""
    path = tmp_path / "merged" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(packed({}, {"fingerprint": "of another sweep"}))
    before = contents(tmp_path)
    with pytest.raises(InputError, match="out: expected a new or empty folder"):
        fnn.sweeps.merge(folders[1], tmp_path / "merged")
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_no_link_in_the_folder_of_a_sweep_is_followed(folders, tmp_path):
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    path = sorted((copy / "batches").iterdir())[0]
    assert unpacked(path)[0]
    path.rename(tmp_path / "batch")
    path.symlink_to(tmp_path / "batch")
    with pytest.raises(DataError, match="a symbolic link, which is not followed"):
        unpacked(path)
    assert unpacked(path, follow_links=True)[0]
    with pytest.warns(UserWarning, match="is left out, so its members count as not run"):
        assert read_sweep(copy)[0].members[0].status == "not run"
    (copy / "batches").rename(tmp_path / "batches")
    (copy / "batches").symlink_to(folders[0] / "batches")
    with pytest.raises(InputError, match="a folder without links in it, got the link"):
        read_sweep(copy)


@pytest.mark.parametrize("part", [(0, 3), (4, 3), (1, 13), (1, 2, 3), "1/3", 2, (1.0, 2), (True, 2)])
def test_no_such_part(blobs, part):
    with pytest.raises(InputError, match="part: expected"):
        sweep(blobs, part=part)


def test_an_error_names_the_plan_that_continues_a_folder(blobs, tmp_path):
    grid = fnn.grid(rate=[0.1, 0.2, 0.3], width=[2])
    sweep(blobs, grid=grid, plan="vmap:2", out=tmp_path)
    with pytest.raises(InputError, match=r"members_at_once 2 instead of 1\. Use the plan vmap:2, or another folder"):
        sweep(blobs, grid=grid, plan="map", out=tmp_path)
    with pytest.raises(InputError, match=r"\. Use another folder"):
        sweep(blobs, grid=fnn.grid(rate=[0.1, 0.2], width=[2]), plan="map", out=tmp_path)


def test_other_words_about_the_members_of_one_part_are_refused(folders, tmp_path):
    _, parts = folders
    shutil.copytree(parts[0], tmp_path / "other")
    path = next((tmp_path / "other" / "batches").iterdir())
    arrays, about = unpacked(path)
    about = {name: about[name] for name in ("fingerprint", "members")}
    path.write_bytes(packed(arrays, about | {"members": about["members"].replace('"finished"', '"non-finite"')}))
    with pytest.raises(InputError, match=r"one result of each part, got .*other, whose results differ from those in"):
        fnn.sweeps.merge([*parts, tmp_path / "other"], tmp_path / "again")


def test_two_results_of_one_part_are_refused(folders, tmp_path):
    """The last one would win without a word."""
    _, parts = folders
    shutil.copytree(parts[0], tmp_path / "other")
    fnn.sweeps.merge([*parts, tmp_path / "other"], tmp_path / "merged")
    path = next((tmp_path / "other" / "batches").iterdir())
    arrays, about = unpacked(path)
    path.write_bytes(packed({name: array + 1 for name, array in arrays.items()}, about))
    with pytest.raises(InputError, match=r"one result of each part, got .*other, whose results differ from those in"):
        fnn.sweeps.merge([*parts, tmp_path / "other"], tmp_path / "again")


def test_a_part_does_not_bring_another_result_of_a_member_under_another_name(folders, tmp_path):
    """A stranger's part could otherwise replace the numbers of one's own."""
    _, parts = folders
    copied = shutil.copytree(parts[1], tmp_path / "other")
    path = next((parts[0] / "batches").iterdir())
    shutil.copy(path, copied / "batches" / f"0{path.name}")
    with pytest.raises(InputError, match=r"folders: expected parts of one division"):
        fnn.sweeps.merge([parts[0], copied, *parts[2:]], tmp_path / "merged")


def test_a_part_that_changes_meanwhile_replaces_no_result(folders, tmp_path, monkeypatch):
    """It may belong to another user, who can write to it after all parts were checked."""
    whole, parts = folders
    check_parts, copied = parts_module._check_parts, shutil.copytree(parts[1], tmp_path / "other")
    arrays, about = unpacked(own := next((parts[0] / "batches").iterdir()))
    forged = packed({name: array + 1 for name, array in arrays.items()}, about)

    def changing(file, content):
        def check(paths):
            checked = check_parts(paths)
            file.write_bytes(content)
            return checked

        monkeypatch.setattr(parts_module, "_check_parts", check)

    given = [parts[0], copied, *parts[2:]]
    changing(copied / "batches" / own.name, forged)
    assert rows(fnn.sweeps.merge(given, tmp_path / "merged")) == rows(read_sweep(whole)[0])
    (copied / "batches" / own.name).unlink()
    file = next((copied / "batches").iterdir())
    arrays, about = unpacked(file)
    about["members"] = re.sub(r'"number": \d+', '"number": 0', about["members"])
    changing(file, packed(arrays, about))
    with pytest.raises(InputError, match=r"expected parts that nobody changes meanwhile, got .*other.*, which changed"):
        fnn.sweeps.merge(given, tmp_path / "again")
