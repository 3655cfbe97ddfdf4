"""TensorFlow Datasets without TensorFlow: written, read back, downloaded from a server of our own."""

import http.server
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import pytest
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tests.data.prepared import prepare_arrays

from functional_nn import load_dataset
from functional_nn.core.errors import DataError, InputError
from functional_nn.data import tfds, write_idx
from functional_nn.data.tfds import reachable

FEATURES = tensorflow_datasets.features


def arrays(number: int = 30) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(number)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        images = generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
        return images, generator.integers(0, 10, count).astype(np.uint8)

    return *split(number), *split(number // 5)


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """Every image with its label, in their order."""
    return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


def assert_same_arrays(dataset, given) -> None:
    """The same pixels and labels in the same order, so that training on them gives the same bits."""
    train_images, train_labels, test_images, test_labels = given
    assert pairs(dataset.train_images, dataset.train_labels) == pairs(train_images, train_labels)
    assert pairs(dataset.test_images, dataset.test_labels) == pairs(test_images, test_labels)


def own_builder(
    splits: dict, *, features=None, supervised_keys=("image", "label"), name="own_images", **more: bytes
) -> type:
    """The builder of a set of our own, whose images are given as arrays. ``more`` is in each of its examples."""

    def examples(images):
        for index, image in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            yield index, {"image": png.getvalue(), "label": index % 2} | more

    class Own(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            kinds = features or {
                "image": FEATURES.Image(shape=(None, None, 3)),
                "label": FEATURES.ClassLabel(num_classes=7),
            }
            return self.dataset_info_from_configs(
                features=FEATURES.FeaturesDict(kinds), supervised_keys=supervised_keys
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(images) for split, images in splits.items()}

        def _generate_examples(self, images):
            return examples(images)

    Own.name = name
    return Own


def prepare_own(folder: Path, splits: dict, **options) -> None:
    own_builder(splits, **options)(data_dir=str(folder)).download_and_prepare(file_format="array_record")


def colors(number: int, side: int = 6) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (number, side, side + 1, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_a_prepared_set_is_read(name, tmp_path):
    given = arrays()
    prepared = prepare_arrays(name, given, tmp_path / "prepared")
    for folder in (tmp_path / "prepared", prepared):
        dataset = load_dataset(name, folder)
        assert_same_arrays(dataset, given)
        assert dataset.classes == 10
        assert name in dataset.source


def test_the_default_folder_is_used():
    given = arrays(50)
    prepare_arrays("mnist", given, tfds.default_folder())
    assert_same_arrays(load_dataset("mnist"), given)


@pytest.mark.timeout(60)
def test_what_is_no_prepared_set_is_not_read_by_tfds():
    """TFDS would wait for the other end of a pipe, and follow links."""
    folder = tfds.default_folder() / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "dataset_info.json")
    with pytest.raises(DataError, match="no network"):
        load_dataset("mnist")


def test_a_color_set_with_validation_for_want_of_test(tmp_path):
    prepare_own(tmp_path, {"train": colors(8), "validation": colors(4)})
    dataset = load_dataset("own_images", tmp_path)
    assert dataset.train_images.shape == (8, 6, 7, 3)
    assert dataset.classes == 7
    assert "validation" in dataset.source


def test_a_set_that_somebody_puts_beside_the_folder_of_a_prepared_one_is_not_read(tmp_path):
    """In a shared folder where files are removed by their owners only, nobody else can change the prepared one."""
    prepare_arrays("mnist", given := arrays(10), tmp_path)
    other = prepare_arrays("mnist", arrays(20), tmp_path / "other")
    shutil.copytree(other, tmp_path, dirs_exist_ok=True)
    assert_same_arrays(load_dataset("mnist", tmp_path), given)
    assert len(load_dataset("mnist", other).train_labels) == 20  # the innermost folder may be given


def test_the_newest_version_of_one_configuration_is_read(tmp_path):
    prepared = prepare_arrays("mnist", arrays(20), tmp_path)
    newer = prepare_arrays("mnist", arrays(10), tmp_path / "other").rename(tmp_path / "mnist" / "10.0.0")
    assert tfds.find_prepared("mnist", tmp_path) == newer
    (tmp_path / "mnist" / "rotated").mkdir()
    prepared.rename(tmp_path / "mnist" / "rotated" / "1.0.0")
    with pytest.raises(DataError, match=r"expected one configuration, got mnist/10\.0\.0, mnist/rotated/1\.0\.0"):
        load_dataset("mnist", tmp_path)


def test_more_bytes_than_the_limit_are_refused(tmp_path, monkeypatch):
    """Files of images that pack well can be thousands of times as small as the images."""
    prepare_own(tmp_path, {"train": colors(8), "test": colors(4)})
    monkeypatch.setattr(tfds, "MAXIMUM_BYTES", 11 * 6 * 7 * 3)
    with pytest.raises(DataError, match=r"-test, image 0: expected at most .* in all splits, got 4 images of 126"):
        load_dataset("own_images", tmp_path)


def test_a_set_without_a_test_split_is_refused(tmp_path):
    prepare_own(tmp_path, {"train": colors(8)})
    with pytest.raises(DataError, match=r"a split train and one of test, validation, got \['train'\]"):
        load_dataset("own_images", tmp_path)


def test_images_of_unequal_sizes_are_refused(tmp_path):
    prepare_own(tmp_path, {"train": [*colors(3), *colors(1, 9)], "test": colors(2)})
    with pytest.raises(DataError, match=r"own_images-train, image \d: expected images of one size, \(\d, \d+, 3\)"):
        load_dataset("own_images", tmp_path)


def test_images_of_other_formats_start_no_program(tmp_path, monkeypatch):
    """Pillow starts Ghostscript for EPS."""
    started = []
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(subprocess, "check_call", lambda command, **_: started.append(command))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\nshowpage\n%%EOF\n"
    splits = {"train": colors(2), "test": colors(2)}
    prepare_own(tmp_path / "image", splits, image=eps)
    with pytest.raises(DataError, match="image 0: expected an image file, got another kind of file"):
        load_dataset("own_images", tmp_path / "image")
    kinds = {"image": FEATURES.Image(), "label": FEATURES.ClassLabel(num_classes=2), "other": FEATURES.Image()}
    prepare_own(tmp_path / "other", splits, features=kinds, other=eps)
    assert len(load_dataset("own_images", tmp_path / "other").train_images) == 2
    assert started == []


def test_another_set_in_the_folder_is_never_taken(tmp_path):
    prepared = prepare_arrays("mnist", arrays(20), tmp_path)
    with pytest.raises(DataError, match="the prepared set kmnist, got 'mnist'"):
        load_dataset("kmnist", prepared)
    with pytest.raises(DataError, match="neither IDX files nor a prepared TFDS set"):
        load_dataset("kmnist", tmp_path)


def test_tfrecord_without_tensorflow_says_what_it_needs(tmp_path, monkeypatch):
    prepared = prepare_arrays("mnist", arrays(20), tmp_path)
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    for file in prepared.glob("*.array_record-*"):
        file.rename(file.with_name(file.name.replace("array_record", "tfrecord")))
    monkeypatch.setattr(tfds, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"array_record, got tfrecord\. .*pip install tensorflow"):
        load_dataset("mnist", tmp_path)


def test_the_file_format_names_no_other_folder(tmp_path):
    prepared = prepare_arrays("mnist", arrays(20), tmp_path / "there")
    (prepared.parent / "elsewhere").mkdir()
    (prepared / "mnist-train.x").mkdir()
    (prepared.parent / "elsewhere" / "a-link").symlink_to("nowhere")
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', f'"x/../../elsewhere/*{"y" * 1000}"'))
    with pytest.raises(DataError, match=r"expected the file format array_record, got x/[./a-z*]{70,80}…yyyy\."):
        load_dataset("mnist", prepared)


@pytest.mark.parametrize("which", ["mnist", "mnist/3.0.1"])
def test_a_folder_of_a_prepared_set_that_is_a_link_is_not_followed(tmp_path, which):
    prepare_arrays("mnist", arrays(20), tmp_path)
    (tmp_path / which).rename(tmp_path / "private")
    (tmp_path / which).symlink_to(tmp_path / "private")
    with pytest.raises(DataError, match="a symbolic link, which is not followed"):
        load_dataset("mnist", tmp_path)


def test_records_are_those_of_the_files_that_were_checked(tmp_path, monkeypatch):
    """Another user gives their names to links in the moment before they are read."""
    given = arrays(20)
    prepared = prepare_arrays("mnist", given, tmp_path)
    private = prepare_arrays("mnist", (255 - given[0], *given[1:]), tmp_path / "private")
    read = tfds.read_records

    def swap_and_read(*arguments):
        for file in prepared.glob("mnist-train*"):
            file.unlink()
            file.symlink_to(private / file.name)
        return read(*arguments)

    monkeypatch.setattr(tfds, "read_records", swap_and_read)
    with pytest.raises(DataError, match="another one than before"):
        load_dataset("mnist", tmp_path)


def test_splits_of_two_versions_are_not_mixed(tmp_path, monkeypatch):
    prepared = prepare_arrays("mnist", arrays(20), tmp_path)
    newer, read = prepare_arrays("mnist", arrays(20), tmp_path / "newer"), tfds._read_split

    def read_and_replace(*about):
        found = read(*about)
        for file in newer.glob("mnist-test*"):
            file.replace(prepared / file.name)
        return found

    monkeypatch.setattr(tfds, "_read_split", read_and_replace)
    with pytest.raises(DataError, match="another one than before"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("pattern", ["dataset_info.json", "features.json", "mnist-train*", "mnist-test*"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten"])
def test_a_damaged_prepared_set_is_an_error(pattern, damage, tmp_path):
    prepared = prepare_arrays("mnist", arrays(20), tmp_path)
    (file,) = prepared.glob(pattern)
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + b"\xff" * 40 + content[middle + 40 :])
    with pytest.raises(DataError):
        load_dataset("mnist", tmp_path)


@pytest.fixture
def server(tmp_path):
    """A server of the folder ``served``: its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", folder
        running.shutdown()
        thread.join()


@pytest.fixture
def online(server, monkeypatch):
    """KMNIST comes from our server, which the real probe reaches."""
    address, folder = server
    monkeypatch.setattr(tensorflow_datasets.builder_cls("kmnist"), "URL", address)
    monkeypatch.setattr(tfds, "reachable", reachable)
    return folder


def serve(folder: Path, given: tuple[np.ndarray, ...]) -> None:
    for file, array in zip(tfds.IDX_NAMES, given, strict=True):
        write_idx(folder / file, array.squeeze())


def test_a_missing_set_is_downloaded_and_prepared_without_tensorflow(online, tmp_path, capfd):
    given = arrays(50)
    serve(online, given)
    assert_same_arrays(load_dataset("kmnist"), given)
    assert capfd.readouterr().out == ""
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["kmnist"]
    for file in online.iterdir():
        file.unlink()
    for data_dir in (None, tmp_path / "tfds", tmp_path / "tfds" / "kmnist"):
        assert_same_arrays(load_dataset("kmnist", data_dir), given)


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_download_follows_no_link_that_another_user_made(online, tmp_path, monkeypatch, moment):
    """He can write to the folder of the sets, too. Files in the link's folder would be replaced."""
    serve(online, arrays(50))
    (tmp_path / "mine").mkdir()
    (tmp_path / "tfds").mkdir(exist_ok=True)
    read = tfds.read_idx_folder

    def link():
        (tmp_path / "tfds" / "kmnist").symlink_to(tmp_path / "mine")

    def read_and_link(folder, *rest):
        if folder.name == "complete":
            link()
        return read(folder, *rest)

    if moment == "before":
        link()
    monkeypatch.setattr(tfds, "read_idx_folder", read_and_link)
    with pytest.raises(InputError if moment == "during" else DataError, match="a symbolic link, which is not followed"):
        load_dataset("kmnist")
    assert list((tmp_path / "mine").iterdir()) == []
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["kmnist"]


def test_a_downloaded_set_of_images_is_decoded_once(tmp_path, monkeypatch):
    splits = {"train": colors(8), "test": colors(4)}
    builders = {"own_images": own_builder(splits), "mnist": tensorflow_datasets.builder_cls("mnist")}
    monkeypatch.setattr(tensorflow_datasets, "list_builders", lambda **_: [*builders])
    monkeypatch.setattr(tensorflow_datasets, "builder_cls", builders.get)
    monkeypatch.setattr(tfds, "reachable", lambda url: True)
    datasets = [load_dataset("own_images")]
    monkeypatch.setattr(tfds, "_read", pytest.fail)
    datasets.append(load_dataset("own_images"))
    for dataset in datasets:
        given = splits["train"], np.arange(8) % 2, splits["test"], np.arange(4) % 2
        assert {*pairs(*given[:2])} == {*pairs(dataset.train_images, dataset.train_labels)}
        assert {*pairs(*given[2:])} == {*pairs(dataset.test_images, dataset.test_labels)}
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["own_images"]


def test_a_damaged_download_leaves_nothing_and_can_be_fetched_again(online, tmp_path):
    given = arrays(50)
    serve(online, given)
    file = online / tfds.IDX_NAMES[2]
    content = file.read_bytes()
    file.unlink()
    for damaged in (None, content[:-10], b"<html>Sign in</html>"):
        if damaged is not None:
            file.write_bytes(damaged)
        with pytest.raises(DataError):
            load_dataset("kmnist")
        assert list((tmp_path / "tfds").rglob("*.*")) == []
    file.write_bytes(content)
    assert_same_arrays(load_dataset("kmnist"), given)


@pytest.mark.parametrize("error", [ImportError("No module named 'tensorflow'"), ConnectionError("reset")])
def test_a_failing_builder_gives_the_three_ways(error, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(tfds, "reachable", lambda url: True)
    monkeypatch.setattr(tensorflow_datasets.builder_cls("cifar10"), "download_and_prepare", fail)
    with pytest.raises(DataError, match=f"{error}.*Three ways.*pip install tensorflow"):
        load_dataset("cifar10")


def test_a_set_that_is_no_image_classification_is_refused_before_any_download(monkeypatch):
    monkeypatch.setattr(tfds, "reachable", pytest.fail)
    with pytest.raises(DataError, match="expected a set of images of bytes with a class label each"):
        load_dataset("ag_news_subset")


@pytest.mark.timeout(60)
def test_the_probe_answers_in_time(server):
    address, _ = server
    assert reachable(address + "missing")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not reachable(f"http://127.0.0.1:{port}/", seconds=0.3)
    assert not reachable(f"http://127.0.0.1:{port}/", seconds=0.3)


@pytest.mark.parametrize(("size", "together"), [(2**24 + 1, 1), (2**20, 1500)])
def test_records_that_are_much_larger_than_their_file_are_refused(size, together, tmp_path):
    """Records are compressed. Those of this test take more memory than is allowed, one by one or together."""
    prepared = prepare_arrays("mnist", arrays(20), tmp_path)
    (file,) = prepared.glob("mnist-train*")
    writer = ArrayRecordWriter(str(file), f"group_size:{together}")
    for _ in range(together):
        writer.write(bytes(size))
    writer.close()
    assert file.stat().st_size < 500_000
    with pytest.raises(DataError, match="damaged records, or some of more than 16,777,216 bytes in memory"):
        load_dataset("mnist", tmp_path)


def test_records_that_are_nearly_all_alike_are_refused(tmp_path, monkeypatch):
    """A file of 1 MB can have millions of tiny images, which take minutes to decode."""
    monkeypatch.setattr(tfds, "FEW_BYTES", 2**14)
    prepared = prepare_arrays("mnist", arrays(20), tmp_path)
    (file,) = prepared.glob("mnist-train*")
    (record,) = list(tfds.read_records([str(file)]))[:1]
    writer = ArrayRecordWriter(str(file), "group_size:4000,zstd:3")
    for _ in range(4000):
        writer.write(record)
    writer.close()
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace('"20"', '"4000"'))
    # Neither holes nor second names count as bytes of files.
    with open(prepared / "mnist-train.array_record-hole", "wb") as hole:
        hole.truncate(2**26)
    for name in range(9):
        (prepared / f"mnist-train.array_record-{name}").hardlink_to(prepared / "mnist-train.array_record-hole")
    with pytest.raises(DataError, match="expected images of at most 10 times the bytes of the set's files"):
        load_dataset("mnist", tmp_path)


def test_records_are_read_if_the_user_limits_the_memory(tmp_path):
    """The process that reads them cannot take away a hard limit, as ``ulimit -v`` sets it."""
    pytest.importorskip("resource")
    writer = ArrayRecordWriter(str(tmp_path / "records"), "group_size:1")
    writer.write(b"a record")
    writer.close()
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))\n"
    code += "from functional_nn.data.records import read_records; print(*read_records(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(tmp_path / "records")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "b'a record'\n"
