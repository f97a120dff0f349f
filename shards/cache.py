"""Shards of a store as files on this machine: fetched once, verified, and deleted again, least recently used first.

    <folder>/<first two hex digits>/<sha256>.tar                a whole shard; its mtime is when it was last asked for
    <folder>/<first two hex digits>/<sha256>.tar.<bytes>.part   one that is coming; who fetches it holds a lock on it

Any number of processes may share a folder. A shard's hash is checked while it comes, and later only its length.
"""

import atexit
import errno
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Protocol

from manifests import storage, transfer
from manifests.storefaults import shown
from manifests.transfer import Source
from shards.eviction import make_room

DEFAULT_BYTES = 50 << 30
THREADS = 2  # that fetch ahead: one connection seldom fills a line
AHEAD = 0.5  # of the limit, at most, is for shards that were fetched ahead and not asked for yet
JOIN_S = 60.0
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or what one user may have of it

_SHA256 = re.compile(r"[0-9a-f]{64}")


class File(Protocol):
    """What shards.index.ShardFile is."""

    @property
    def url(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def default_folder(folder: str | None = None) -> str:
    """Where copies are kept: `folder`, else $SPEECHMILL_CACHE, else ~/.cache/speechmill.

    Raises ValueError for a URL.
    """
    folder = folder or os.environ.get("SPEECHMILL_CACHE") or "~/.cache/speechmill"
    if not storage.is_local(folder):
        raise ValueError(f"{shown(folder)}: a cache is a folder on this machine")
    return storage.absolute(folder)


class _Closed(Exception):
    pass


class Cache:
    """The local files of shards that lie in stores.

    `retries`: broken transfers that were continued so far. `limit_bytes`: what the files of the folder may have
    together. Only where more processes fetch at a time than it has room for is it exceeded, by a shard for each.
    """

    def __init__(self, folder: str | None = None, limit_bytes: int = DEFAULT_BYTES) -> None:
        """See `default_folder` for the folder. Raises ValueError for one in a store."""
        self.folder = default_folder(folder)
        self.limit_bytes = limit_bytes
        self.retries = 0
        self._changed = threading.Condition()
        self._queue: deque[File] = deque()
        self._ahead: dict[str, int] = {}  # bytes by hash, of what is or was fetched ahead and not asked for yet
        self._errors: dict[str, Exception] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False

    def path(self, file: File) -> str:
        """The local path of the whole shard, which is fetched where it is not here.

        Raises OSError that names the URL for one that cannot be had, or not be kept as the disk is full, and ValueError
        for one that is larger than the limit.
        """
        with self._changed:
            self._queue = deque(other for other in self._queue if other.sha256 != file.sha256)
            if error := self._errors.pop(file.sha256, None):
                raise error
        path = self._bring(file, lambda: None)
        with self._changed:
            self._errors.pop(file.sha256, None)  # of a thread that gave up while we waited for it
            self._ahead.pop(file.sha256, None)
            self._changed.notify_all()
        return path

    def prefetch(self, files: Sequence[File]) -> None:
        """Fetch these in the background, in this order, in place of what earlier calls named and was not begun.

        It waits when those that it has fetched, and that were not asked for by `path` yet, fill half of the limit. An
        error is kept, and raised by `path` for that file.
        """
        assert not self._closed
        with self._changed:
            wanted = {file.sha256 for file in files}
            self._ahead = {sha256: size for sha256, size in self._ahead.items() if sha256 in wanted}
            self._queue = deque(file for file in files if file.sha256 not in self._ahead)
            self._changed.notify_all()
            if self._queue and not self._threads:
                self._threads = [
                    threading.Thread(target=self._run, name="fetches ahead", daemon=True) for _ in range(THREADS)
                ]
                atexit.register(self.close)  # a thread that comes back from obstore into an ended interpreter aborts it
                for thread in self._threads:
                    thread.start()

    def close(self) -> None:
        """End fetching ahead. What has come of a shard stays, and whoever asks for it next goes on from there."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(JOIN_S)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while (file := self._next()) is not None:
            try:
                if self._touch(file):  # no room is taken for it: it may be one that was asked for before
                    with self._changed:
                        self._ahead.pop(file.sha256, None)
                    continue
                self._bring(file, self._check_open)
            except _Closed:
                return
            except (OSError, ValueError) as err:
                with self._changed:
                    self._errors[file.sha256] = err
                    self._ahead.pop(file.sha256, None)

    def _next(self) -> File | None:
        """The first of the queue, as soon as there is room for it; None at the end."""

        def may_go_on() -> bool:
            if self._closed or not self._queue:
                return self._closed
            ahead = sum(self._ahead.values())
            return not ahead or ahead + self._queue[0].size_bytes <= AHEAD * self.limit_bytes

        with self._changed:
            self._changed.wait_for(may_go_on)
            if self._closed:
                return None
            file = self._queue.popleft()
            self._ahead[file.sha256] = file.size_bytes
            return file

    def _check_open(self) -> None:
        if self._closed:
            raise _Closed

    def _bring(self, file: File, on_piece: Callable[[], None]) -> str:
        assert not storage.is_local(file.url), "a local shard is read where it lies"
        if file.size_bytes > self.limit_bytes:
            raise ValueError(
                f"{self.folder}: may have {self.limit_bytes} bytes, less than the {file.size_bytes} of the one shard "
                f"{shown(file.url)}; allow the cache more (--cache-gb)"
            )
        path = _place(self.folder, file)
        while not self._touch(file):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            part_path = transfer.part_of(path, file.size_bytes)
            with storage.open_locked(part_path) as part:
                if transfer.is_there(path, file.size_bytes):  # another process was faster
                    os.unlink(part_path)
                    continue
                make_room(self.folder, part_path, file.size_bytes, self.limit_bytes)
                self._fetch(file, part, on_piece)
                os.replace(part_path, path)
        return path

    def _touch(self, file: File) -> bool:
        """Note that a shard is used now. False when it is not there, or not whole."""
        path = _place(self.folder, file)
        try:
            if os.stat(path).st_size != file.size_bytes:
                return False
            os.utime(path, ns=(time.time_ns(), time.time_ns()))  # the kernel's own time stands still for 4 ms
        except FileNotFoundError:
            return False
        return True

    def _fetch(self, file: File, part: IO[bytes], on_piece: Callable[[], None]) -> None:
        """Complete a part; on a full disk at the cost of other shards."""

        def on_retry(_: str) -> None:
            with self._changed:
                self.retries += 1
            on_piece()

        while True:
            try:
                transfer.complete(Source(file.url, file.size_bytes, file.sha256, on_retry, on_piece), part)
                return
            except OSError as err:
                if err.errno not in FULL:
                    raise
                full = err
            missing = file.size_bytes - os.fstat(part.fileno()).st_size
            if not make_room(self.folder, part.name, file.size_bytes, self.limit_bytes, at_least_bytes=missing):
                os.unlink(part.name)
                raise OSError(  # its number tells it from a shard that is not to be had
                    full.errno,
                    f"the disk is full, and no other shard is left to delete there for {shown(file.url)}; free some "
                    "space, or give another folder by SPEECHMILL_CACHE",
                    self.folder,
                )


def _place(folder: str, file: File) -> str:
    if not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{shown(file.url)}: its index has no SHA-256 of it, by which a cache could keep it")
    return storage.join(folder, file.sha256[:2], f"{file.sha256}.tar")
