"""Features, audio and text of chosen utterances out of the shards, by the byte offsets of the index."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from manifests import storage
from manifests.storefaults import shown
from shards.cache import Cache
from shards.content import dequantise
from shards.index import ShardFile, ShardSet


class Reader:
    """Random access to a shard set, from any number of threads.

    Shards that are not local are read as the files that the cache has of them. A shard that cannot be had raises
    OSError or EOFError that names it. Files are read, not mapped into memory: a map of a file that is cut short, or of
    a disk that fails, ends the process without a word, and its pages count as this process's memory. That costs 10 µs
    an utterance.
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
        self._mels = shards.spec.mels
        self._texts: pa.ChunkedArray | None = None

    def features(self, row: int) -> np.ndarray:
        """Log-mel [frames, mels] of a row: float16 or float32 as it is stored, read-only, or float32 out of uint8."""
        shards = self._shards
        assert shards.content.features, "this shard set has no features"
        data = self._bytes(row, int(shards.feature_offset[row]), int(shards.feature_length[row]))
        if shards.content.features != "uint8":
            return np.frombuffer(data, shards.content.features).reshape(-1, self._mels)
        scale_2f = np.frombuffer(data, np.float32, 2 * self._mels).reshape(2, self._mels)
        codes_tf = np.frombuffer(data, np.uint8)[-int(shards.frames[row]) * self._mels :].reshape(-1, self._mels)
        return dequantise(codes_tf, scale_2f)

    def audio(self, row: int) -> bytes:
        """The encoded audio file of a row."""
        shards = self._shards
        assert shards.content.audio, "this shard set has no audio"
        return self._bytes(row, int(shards.audio_offset[row]), int(shards.audio_length[row]))

    def text(self, row: int) -> str:
        """The text of a row; out of the index where the shard has another one."""
        length = int(self._shards.text_length[row])
        if length:
            return self._bytes(row, int(self._shards.text_offset[row]), length).decode()
        if self._texts is None:
            self._texts = self._shards.table(["text"]).column(0)
        return str(self._texts[row].as_py())

    def prefetch(self, positions: Sequence[int]) -> None:
        """Fetch in the background what is not local of these shards, in this order; they are positions in `files`."""
        files = [self._shards.files[position] for position in positions]
        remote = [file for file in files if not storage.is_local(file.url)]
        if self._cache is not None and remote:
            self._cache.prefetch(remote)

    def _bytes(self, row: int, offset: int, length: int) -> bytes:
        file = self._shards.files[int(self._shards.shard[row])]
        try:
            if storage.is_local(file.url):
                return storage.read_range(file.url, offset, length)
            return self._cached_bytes(file, offset, length)
        except EOFError:
            raise EOFError(
                f"{shown(file.url)}: is shorter than its index says; the same write-shards command again mends it"
            ) from None

    def _cached_bytes(self, file: ShardFile, offset: int, length: int) -> bytes:
        assert self._cache is not None
        while True:
            path = self._cache.path(file)
            try:
                return storage.read_range(path, offset, length)
            except FileNotFoundError:  # another process made room in the cache just now
                continue
