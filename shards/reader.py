"""Features, audio and text of chosen utterances out of the shards, by the byte offsets of the index."""

import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from manifests import storage
from manifests.storefaults import shown
from shards.cache import Cache
from shards.content import numbers
from shards.index import ShardFile, ShardSet

MAPS = 128  # open at a time: each holds a file descriptor, and a process has 1,024 of them
# Pages that were read through a map count as this process's memory until it is closed. A closed one is opened again in
# 20 µs, and its pages are still in the system's cache.
MAPPED_BYTES = 256 << 20


class Reader:
    """Random access to a shard set, from any number of threads.

    Local shards are mapped into memory, others as the local files that the cache has of them. A shard that cannot be
    had raises OSError or EOFError that names it.
    """

    def __init__(self, shards: ShardSet, cache: Cache | None = None) -> None:
        """Raises ValueError when shards are not local and there is no cache."""
        for file in shards.files:
            if cache is None and not storage.is_local(file.url):
                raise ValueError(
                    f"{shown(file.url)}: is not on this machine; it is read through a cache, and none was given"
                )
        self._shards = shards
        self._cache = cache
        self._lock = threading.Lock()
        self._maps: dict[int, np.ndarray] = {}
        self._mapped_bytes = 0
        self._texts: pa.ChunkedArray | None = None

    def features(self, row: int) -> np.ndarray:
        """Log-mel [frames, mels] of a row: float16 or float32 as it is stored, read-only, or float32 out of uint8."""
        shards = self._shards
        assert shards.content.features, "this shard set has no features"
        data = self._data(row, int(shards.feature_offset[row]), int(shards.feature_length[row]))
        return numbers(data, shards.content.features, int(shards.frames[row]), shards.spec.mels)

    def audio(self, row: int) -> bytes:
        """The encoded audio file of a row."""
        shards = self._shards
        assert shards.content.audio, "this shard set has no audio"
        return self._data(row, int(shards.audio_offset[row]), int(shards.audio_length[row])).tobytes()

    def text(self, row: int) -> str:
        """The text of a row; out of the index where the shard has another one."""
        length = int(self._shards.text_length[row])
        if length:
            return self._data(row, int(self._shards.text_offset[row]), length).tobytes().decode()
        if self._texts is None:
            self._texts = self._shards.table(["text"]).column(0)
        return str(self._texts[row].as_py())

    def prefetch(self, positions: Sequence[int]) -> None:
        """Fetch in the background what is not local of these shards, in this order; they are positions in `files`."""
        files = [self._shards.files[position] for position in positions]
        remote = [file for file in files if not storage.is_local(file.url)]
        if self._cache is not None and remote:
            self._cache.prefetch(remote)

    def _data(self, row: int, offset: int, length: int) -> np.ndarray:
        """Bytes of the row's shard. They stay valid after the map has been closed."""
        position = int(self._shards.shard[row])
        shard = self._maps.get(position)
        if shard is None:
            shard = self._map(self._shards.files[position])
        data = shard[offset : offset + length]
        if len(data) != length:
            raise _cut_short(self._shards.files[position].url)
        with self._lock:
            self._mapped_bytes += length
            if self._mapped_bytes > MAPPED_BYTES or len(self._maps) >= MAPS:
                self._maps.clear()
                self._mapped_bytes = 0
            self._maps[position] = shard
        return data

    def _map(self, file: ShardFile) -> np.ndarray:
        """The whole shard. Outside of the lock: it may have to be fetched."""
        if storage.is_local(file.url):
            return _mapped(file.url, file.url)
        assert self._cache is not None
        while True:
            path = self._cache.path(file)
            try:
                return _mapped(path, file.url)
            except FileNotFoundError:  # another process made room in the cache just now
                continue


def _mapped(path: str, url: str) -> np.ndarray:
    if not storage.size_bytes(path):  # no bytes cannot be mapped
        raise _cut_short(url)
    return np.asarray(storage.memory_map(path))  # slices of a memmap take ten times as long


def _cut_short(url: str) -> EOFError:
    return EOFError(f"{shown(url)}: is shorter than its index says; the same write-shards command again mends it")
