"""Shards that cannot be read. One stops the training, unless --max-missing-shards says that so many may be missing.

The epoch's plan stays as it is, so that all ranks and a resumed run agree on it. The utterances of a missing shard are
left out of the batches that they are in, and counted; the shard is named once. A shard with damaged audio or text in it
counts as one that cannot be read, from when the damage is met.
"""

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.distributed as dist

from asr.formats.source import AudioError
from configs.wording import counted
from manifests import storage
from manifests.storefaults import shown
from shards.index import ShardFile

LOOKERS = 32  # requests at a time; of an object store each takes a round trip


class Missing:
    """Which shards the training does without. Safe to use from many threads."""

    def __init__(
        self, files: Sequence[ShardFile], allowed: int = 0, world: int = 1, device: torch.device | None = None
    ) -> None:
        """`device` is where ranks exchange tensors."""
        self.allowed = allowed
        self.lost = np.zeros(len(files), bool)
        self.left_out = 0  # utterances that this rank has met and left out since the ranks agreed
        self._files = files
        self._world, self._device = world, device
        self._lock = threading.Lock()

    def add(self, position: int, err: OSError | EOFError | AudioError) -> None:
        """A shard could not be read.

        Raises `err` where none may be missing, or where this machine has failed and not the shard, such as the disk of
        the cache; ValueError when it is one too many.
        """
        url = self._files[position].url
        ours = not storage.is_local(url) and isinstance(err, OSError) and err.errno is not None
        with self._lock:
            if self.lost[position]:
                return
            if ours or not self.allowed:
                raise err
            self.lost[position] = True
            self._check(position)
            text = f"{shown(url)}: cannot be read, its utterances are left out: {err}"
            print(text, file=sys.stderr, flush=True)

    def look(self, rank: int) -> None:
        """Whether the shards are there and as long as their index says. Each rank looks at its share of them; all must
        call it. Raises as `add` does.
        """
        share = range(rank, len(self._files), self._world)
        pool = ThreadPoolExecutor(LOOKERS, "look")
        try:
            for position, err in zip(share, pool.map(_fault, (self._files[i] for i in share)), strict=True):
                if err is not None:
                    self.add(position, err)
        finally:  # after an error or Ctrl-C no store is waited for
            pool.shutdown(wait=False, cancel_futures=True)
        self.agree()

    def agree(self) -> int:
        """Utterances left out since the last time, over all ranks, which do without the same shards from now on.

        All ranks must call it. Raises ValueError when the shards are too many together.
        """
        total, self.left_out = self.left_out, 0
        if self._world > 1 and self.allowed:
            sums = torch.tensor([total, *self.lost.tolist()], dtype=torch.int64, device=self._device)
            dist.all_reduce(sums)
            total, *lost = sums.tolist()
            with self._lock:
                self.lost |= np.array(lost) > 0
                self._check(int(np.argmax(self.lost)))
        return total

    def _check(self, position: int) -> None:
        if self.lost.all():
            raise ValueError(f"{shown(self._files[position].url)}: cannot be read, and neither can any other shard")
        if self.lost.sum() > self.allowed:
            raise ValueError(f"{shown(self._files[position].url)}: is one of {counted(int(self.lost.sum()), 'shard')} "
                             f"that cannot be read; --max-missing-shards allows {self.allowed}")  # fmt: skip


def _fault(file: ShardFile) -> OSError | EOFError | None:
    try:
        size_bytes = storage.size_bytes(file.url)
    except OSError as err:
        return err
    if size_bytes == file.size_bytes:
        return None
    differs = "shorter" if size_bytes < file.size_bytes else "longer"
    return EOFError(
        f"{shown(file.url)}: is {differs} than its index says; the same write-shards command again mends it"
    )
