"""Folders and manifests of checkpoints, changed as a stranger could: with checksums that fit."""

from pathlib import Path

from functional_nn.storage import run_folder
from functional_nn.storage.arrays import packed, texts_in, unpacked
from functional_nn.storage.checkpoints import MANIFEST
from functional_nn.storage.files import JsonObject, checksum_of, read_signed, signed_text


def manifest_of(path: Path) -> JsonObject:
    return read_signed(texts_in(path)[MANIFEST].encode())


def with_manifest(path: Path, manifest: JsonObject) -> None:
    arrays, _ = unpacked(path)
    path.write_bytes(packed(arrays, {MANIFEST: signed_text(manifest)}))


def sign_result(folder: Path, **entries: object) -> None:
    """Changes entries of the result of a run."""
    result = read_signed((folder / "result.json").read_bytes())
    (folder / "result.json").write_text(signed_text(result | entries))


def sign_run(folder: Path, **entries: object) -> None:
    """Changes entries of the configuration of a run. Any other file may have been changed before."""
    if entries:
        configuration = run_folder.read_configuration(folder)
        (folder / "config.json").write_text(signed_text(configuration | entries))
    sign_result(folder, files={name: checksum_of(folder / name) for name in run_folder.VERIFIED})
