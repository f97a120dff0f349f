"""Features of chosen utterances out of the shards, by the byte offsets of the index."""

import numpy as np

from manifests import storage
from shards.index import ShardSet


class Reader:
    """Random access to a shard set. Local shards are memory-mapped, others are read by range."""

    def __init__(self, shards: ShardSet) -> None:
        self._mels = shards.spec.mels
        self._shard = shards.column("shard")
        self._offset = shards.table.column("feature_offset").to_numpy()
        self._length = shards.table.column("feature_length").to_numpy()
        self._maps: dict[str, np.memmap] = {}

    def features(self, row: int) -> np.ndarray:
        """Log-mel [frames, mels] in float16 of one row of the index. Raises EOFError for a shard that is cut short."""
        url, offset, length = self._shard[row], int(self._offset[row]), int(self._length[row])
        if storage.is_local(url):
            data = self._map(url)[offset : offset + length]
            if len(data) != length:
                raise _cut_short(url)
        else:
            data = np.frombuffer(storage.read_range(url, offset, length), np.uint8)
        return data.view(np.float16).reshape(-1, self._mels)

    def _map(self, url: str) -> np.memmap:
        if url not in self._maps:
            if not storage.size_bytes(url):  # no bytes cannot be mapped
                raise _cut_short(url)
            self._maps[url] = storage.memory_map(url)
        return self._maps[url]


def _cut_short(url: str) -> EOFError:
    return EOFError(f"{url}: is shorter than its index says; the same write-shards command again mends it")
