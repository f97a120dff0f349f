"""Archives that are never unpacked: a .tar.gz becomes, in one pass, a plain tar and an index of its members.

`<name>.tar` has the bytes that gunzip would give; `<name>.tar.index.parquet` has a row for each file in it, in the
tar's order: name, offset and length in bytes of its data. Both appear only when the archive was whole and its hash
right, the index last: a tar without its index is not there.
"""

import errno
import gzip
import hashlib
import io
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
from zlib_ng import gzip_ng, zlib_ng

from manifests import parquet, storage
from manifests.tarstream import Damaged, TarStream

INDEX = ".index.parquet"  # after the tar's whole name
FETCHING = ".fetching-"  # start of the name of a folder with the parts of an archive that is still arriving
REJECTED = ".rejected"  # end of the name of a folder with an archive that was not what it should be
SCHEMA = pa.schema([("name", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])

PIECE_BYTES = 1 << 20
# A tar may be this many times as large as its gzip, beyond the first bytes: text reaches 10, and gzip itself 1032.
EXPANSION_LIMIT = 100
EXPANSION_FREE_BYTES = 16 << 20
BACKLOG = 8  # chunks that may wait for the thread that hashes

_BAD_GZIP: Any = (gzip.BadGzipFile, zlib_ng.error)
_NOT_READ = {b"bzh": "bzip2", b"\xfd7zxz": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"pk\x03\x04": "zip", b"<": "a web page"}


@dataclass(frozen=True, slots=True)
class Received:
    """What `receive` found. `left_out`: how many members are no files, by what they are."""

    files: int
    archive_bytes: int
    archive_sha256: str
    tar_bytes: int
    left_out: dict[str, int]


def receive(
    chunks: Iterable[bytes], tar_uri: str, *, name: str, size_bytes: int | None, sha256: str | None, md5: str | None
) -> Received:
    """Write `tar_uri` and its index from the bytes of a .tar.gz or .tar that come in chunks of any size.

    `name` is what messages call it. Hashes are hexadecimal; with a `sha256` the `md5` is not looked at. Raises Damaged
    (a ValueError of one line) when size or hash are not these, for what is neither gzip nor tar, for an archive that is
    cut short, for one that grows without bounds, and for members that TarStream refuses; OSError for a full disk. What
    `chunks` raises comes through. After an error nothing new is visible, and an index that was there is gone.
    """
    storage.delete(index_uri(tar_uri))
    with _Digests("sha256", *(["md5"] if md5 and not sha256 else [])) as digests, storage.atomic_write(tar_uri) as file:
        incoming = _Incoming(chunks, digests)
        try:
            tar = _copy(incoming, file, tar_uri, size_bytes)
            _check_hashes(incoming.count, digests, size_bytes, sha256, md5)
            tar.finish()
            if not tar.ended and not (sha256 or md5):
                raise Damaged("it was cut short: it has no end mark")
        except Damaged as err:
            raise Damaged(f"{name}: {err}") from None
        received = Received(len(tar.names), incoming.count, digests.hex("sha256"), tar.position, dict(tar.left_out))
    parquet.write(index_uri(tar_uri), _table(tar, received, name))
    return received


def index_uri(tar_uri: str) -> str:
    return tar_uri + INDEX


def is_there(tar_uri: str) -> bool:
    """True for a finished tar."""
    return storage.exists(index_uri(tar_uri)) and storage.exists(tar_uri)


def find(folder: str) -> list[str]:
    """The finished tars right in a folder or under a prefix, in name order."""
    there = {uri for uri, _ in storage.list_files(folder, deep=False)}
    return sorted(uri for uri in there if uri.endswith(".tar") and index_uri(uri) in there)


def is_our_own(uri: str) -> bool:
    """True for what this module and the download keep beside a corpus: indexes, unfinished and rejected archives."""
    *folders, last = uri.split("/")
    return last.endswith(".tar" + INDEX) or any(f.startswith(FETCHING) or f.endswith(REJECTED) for f in folders)


def members(tar_uri: str) -> pa.Table:
    """The index of a tar: name (string), offset, length (int64; bytes), in the order of the tar; see `SCHEMA`.

    Raises ValueError for a tar that has none, or that is no longer as long as when it was indexed.
    """
    if not storage.exists(index_uri(tar_uri)):
        raise ValueError(f"{tar_uri}: has no index beside it; --archive {tar_uri} makes one")
    try:
        table = parquet.read(index_uri(tar_uri))
        said_bytes = int((table.schema.metadata or {})[b"tar_bytes"])
        if table.schema != SCHEMA:
            raise KeyError("other columns")
    except (pa.ArrowException, KeyError):
        raise ValueError(
            f"{index_uri(tar_uri)}: is no index of a tar; delete it and take the archive in again"
        ) from None
    if (size_bytes := storage.size_bytes(tar_uri)) != said_bytes:
        raise ValueError(f"{tar_uri}: has {size_bytes} bytes, but had {said_bytes} when it was indexed; delete both")
    return table


def _table(tar: TarStream, received: Received, name: str) -> pa.Table:
    metadata = {
        "archive": name,
        "archive_bytes": str(received.archive_bytes),
        "archive_sha256": received.archive_sha256,
        "tar_bytes": str(received.tar_bytes),
        "left_out": json.dumps(received.left_out),
    }
    columns = [pa.array(tar.names, pa.string()), pa.array(tar.offsets), pa.array(tar.lengths)]
    return pa.table(columns, schema=SCHEMA.with_metadata(metadata))


def _copy(incoming: "_Incoming", file: IO[bytes], tar_uri: str, size_bytes: int | None) -> TarStream:
    """Gunzip what comes in to the file while its members are found."""
    room_bytes = _free_bytes(tar_uri)
    tar = TarStream()
    for piece in _plain(incoming):
        tar.feed(memoryview(piece))
        _check_growth(tar, incoming, size_bytes)
        if max(tar.position, tar.next_header) > room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tar_uri)
        file.write(piece)
    return tar


def _free_bytes(tar_uri: str) -> int:
    """What the tar may have at most. An object store has no end."""
    if not storage.is_local(tar_uri):
        return 1 << 62
    return shutil.disk_usage(os.path.dirname(storage.absolute(tar_uri))).free


def _check_growth(tar: TarStream, incoming: "_Incoming", size_bytes: int | None) -> None:
    """Refuse a tar that is, or says it will be, longer than a corpus in so small an archive can be."""
    times, free = (EXPANSION_LIMIT, EXPANSION_FREE_BYTES) if incoming.is_gzip else (1, 0)
    grown = tar.position > times * incoming.count + free
    if grown or (size_bytes is not None and tar.next_header > times * size_bytes + free):
        most = f"more than {times} times its own size" if incoming.is_gzip else "more than it has bytes"
        raise Damaged(f"it holds, or says so, {most}: a trap, or damaged")


def _check_hashes(count: int, digests: "_Digests", size_bytes: int | None, sha256: str | None, md5: str | None) -> None:
    if size_bytes is not None and count != size_bytes:
        raise Damaged(f"it has {count} bytes, but the published one has {size_bytes}")
    kind, published = ("sha256", sha256) if sha256 else ("md5", md5)
    if published and digests.hex(kind) != published.lower():
        raise Damaged(f"its {kind} is {digests.hex(kind)}, but {published.lower()} was published")


class _Digests:
    """Hashes that a thread of their own computes: SHA-256 costs more than gunzipping audio, see tests/bench/gunzip."""

    def __init__(self, *kinds: str) -> None:
        self._hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "_Digests":
        self._thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def update(self, chunk: bytes) -> None:
        self._waiting.append(self._thread.submit(self._update, chunk))
        if len(self._waiting) > BACKLOG:
            self._waiting.popleft().result()

    def _update(self, chunk: bytes) -> None:
        for digest in self._hashes.values():
            digest.update(chunk)

    def hex(self, kind: str) -> str:
        """Of all chunks so far."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._hashes[kind].hexdigest()


class _Incoming(io.RawIOBase):
    """The chunks as a file, hashed and counted when they arrive."""

    def __init__(self, chunks: Iterable[bytes], digests: _Digests) -> None:
        self.count = 0  # bytes
        self._chunks = filter(None, chunks)
        self._digests = digests
        self.head = b""
        while len(self.head) < 6 and (chunk := self._next()):
            self.head += chunk
        self._ahead = memoryview(self.head)
        self.is_gzip = self.head.startswith(b"\x1f\x8b")

    def _next(self) -> bytes:
        chunk = next(self._chunks, b"")
        self.count += len(chunk)
        self._digests.update(chunk)
        return chunk

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ahead:
            self._ahead = memoryview(self._next())
        taken = self._ahead[: len(buffer)]
        buffer[: len(taken)] = taken
        self._ahead = self._ahead[len(taken) :]
        return len(taken)


def _plain(incoming: _Incoming) -> Iterator[bytes]:
    """The bytes of the tar."""
    for magic, what in _NOT_READ.items():
        if incoming.head[:6].lower().startswith(magic):
            raise Damaged(f"it is {what}, neither a .tar.gz nor a .tar")
    # gzip_ng reads several gzips in a row, as pigz and bgzip write them, and checks the length and sum of each
    file: Any = gzip_ng.GzipNGFile(fileobj=incoming, mode="rb") if incoming.is_gzip else incoming
    while True:
        try:
            piece = file.read(PIECE_BYTES)
        except EOFError:
            raise Damaged(f"it was cut short: its gzip goes on after {incoming.count} bytes") from None
        except _BAD_GZIP as err:
            raise Damaged(f"it is damaged within its first {incoming.count} bytes ({err})") from None
        if not piece:
            return
        yield piece
