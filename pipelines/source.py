"""The files of a corpus as it was distributed: an unpacked tree, or archives that are read without unpacking them."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from manifests import archive, storage

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


@dataclass(frozen=True, slots=True)
class File:
    """`path` is its place in the corpus, with slashes; `uri` is where its bytes are (a file or a member of a tar)."""

    path: str
    uri: str
    size_bytes: int


def files(root: str) -> Iterator[File]:
    """Every file of the corpus at `root`: a folder, an object store's prefix, or a tar that this project indexed.

    The members of an indexed tar inside a folder come under their own names, as if it had been unpacked right there.
    Raises ValueError for a root that is missing, or is an archive that was not taken in yet.
    """
    root = storage.absolute(root)
    if root.lower().endswith(PACKED):
        raise ValueError(f"--root {root}: is an archive; say --archive {root} and let --root be a folder for its index")
    if root.endswith(".tar"):
        yield from _members(root)
        return
    if not storage.is_folder(root):
        raise ValueError(f"--root {root}: no such folder")
    tars = set(archive.find(root))
    for tar in sorted(tars):
        yield from _members(tar)
    start = len(root.rstrip("/")) + 1
    for uri, size_bytes in storage.list_files(root):
        if uri not in tars and not archive.is_our_own(uri):
            yield File(uri[start:], uri, size_bytes)


def _members(tar: str) -> Iterator[File]:
    table = archive.members(tar)
    for batch in table.to_batches(max_chunksize=65536):
        for name, offset, length in zip(*(batch.column(i).to_pylist() for i in range(3)), strict=True):
            yield File(posixpath.normpath(name), storage.member_uri(tar, offset, length, name), length)
