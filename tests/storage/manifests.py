"""Manifests of checkpoints, changed as a stranger could: with checksums that fit."""

from pathlib import Path

from functional_nn.storage.arrays import packed, texts_in, unpacked
from functional_nn.storage.checkpoints import MANIFEST
from functional_nn.storage.files import JsonObject, read_signed, signed_text


def manifest_of(path: Path) -> JsonObject:
    return read_signed(texts_in(path)[MANIFEST].encode())


def with_manifest(path: Path, manifest: JsonObject) -> None:
    arrays, _ = unpacked(path)
    path.write_bytes(packed(arrays, {MANIFEST: signed_text(manifest)}))
