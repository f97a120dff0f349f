"""Which utterance goes into which shard: decided from the manifest's Arrow table alone, before any audio is read.

So any number of workers, in any order and after any number of kills, writes the same bytes. One shard is one task, and
its rows travel to it as Arrow's bytes. Nothing here is a Python object per utterance that lives longer than a loop.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asr.waveform_config import WaveformConfig
from manifests import storage
from manifests.schema import is_held_out, safe_id
from shards.content import Content
from shards.spec import FrontendSpec
from shards.writer import packed_bytes

AUDIO_BYTES = 1.08  # of FLAC for one sample: the 62 MB an hour that LibriSpeech's own files have
# A task is a shard: there should be enough of them for the processors of a cluster, but no crumbs.
AIM_SHARDS = 64
LEAST_BYTES, MOST_BYTES = 16_000_000, 512_000_000
_COPY_ID = re.compile(r"-copy\d+$")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is made of an utterance. `copies` changed ones stand beside each, but not where it is held out."""

    spec: FrontendSpec
    content: Content
    augment: WaveformConfig | None = None
    copies: int = 0

    def copies_of(self, split: str) -> int:
        return 0 if is_held_out(split) else self.copies

    def inputs(self) -> dict[str, Any]:
        """All of it as plain values, for the fingerprint of a shard set."""
        augment = None if self.augment is None else json.loads(json.dumps(asdict(self.augment)))  # no tuples
        return {
            "frontend": self.spec.values(), "content": self.content.name, "augment": augment, "copies": self.copies,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A tar to be written: its name without `.tar`, and the rows of the manifest in its order."""

    name: str
    split: str
    rows: np.ndarray


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of a shard are: its tar, and in `parts` what is left there until the index is made."""

    name: str
    out: str
    parts: str

    @property
    def uri(self) -> str:
        return storage.join(self.out, f"{self.name}.tar")

    @property
    def rows_uri(self) -> str:
        return storage.join(self.parts, f"{self.name}.parquet")

    @property
    def record_uri(self) -> str:
        """Written last: a shard that has it is finished."""
        return storage.join(self.parts, f"{self.name}.json")


@dataclass(frozen=True, slots=True)
class Task:
    """All that the writer of one shard needs to know, and small enough to travel."""

    place: Place
    recipe: Recipe
    max_quarantined: int  # it gives up beyond so many: then it is not the utterances that are at fault
    rows: bytes  # of the manifest, as an Arrow stream

    def table(self) -> pa.Table:
        return pa.ipc.open_stream(self.rows).read_all()


class Tasks(Sequence[Task]):
    """The tasks of some shards. Each is made when it is asked for: all rows at once would be the manifest again."""

    def __init__(
        self, table: pa.Table, shards: Sequence[tuple[Shard, Place]], recipe: Recipe, max_quarantined: int
    ) -> None:
        self._batches = table.to_batches()
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches[:-1])])
        self._shards = shards
        self._recipe = recipe
        self._max_quarantined = max_quarantined

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, position: int) -> Task: ...
    @overload
    def __getitem__(self, position: slice) -> list[Task]: ...
    def __getitem__(self, position: int | slice) -> Task | list[Task]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        shard, place = self._shards[position]
        sink = pa.BufferOutputStream()
        table = self._take(shard.rows)
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return Task(place, self._recipe, self._max_quarantined, sink.getvalue().to_pybytes())

    def _take(self, rows: np.ndarray) -> pa.Table:
        """These rows in this order. Batch by batch: Table.take joins all chunks of a column anew at each call."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(owner, kind="stable")
        taken = [
            self._batches[batch].take(pa.array(rows[owner == batch] - self._starts[batch]))
            for batch in np.unique(owner)
        ]
        return pa.Table.from_batches(taken).take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()


def plan_shards(table: pa.Table, recipe: Recipe, shard_bytes: int | None = None) -> list[Shard]:
    """Shards of at most about `shard_bytes`, one split each, utterances in an order that mixes speakers.

    Without a size there are about AIM_SHARDS of them, between LEAST_BYTES and MOST_BYTES.

    The order is by a hash of the id: training then meets all speakers in any stretch of a shard, and it is the same
    order however the manifest is sorted. An utterance and its copies stand together. Raises ValueError for two splits
    whose shards would have the same names.
    """
    shards: list[Shard] = []
    splits = sorted(pc.unique(table["split"]).to_pylist())
    for first, second in itertools.combinations(splits, 2):
        if safe_split(first) == safe_split(second):
            raise ValueError(f"splits {first!r} and {second!r}: their shards would share names; choose with --splits")
    keys, sizes = _keys(table["id"]), _planned_bytes(table, recipe)
    rows_of = {split: np.flatnonzero(pc.equal(table["split"], split).to_numpy()) for split in splits}
    for split, rows in rows_of.items():
        sizes[rows] *= 1 + recipe.copies_of(split)
    if shard_bytes is None:
        shard_bytes = min(MOST_BYTES, max(LEAST_BYTES, int(sizes.sum()) // AIM_SHARDS))
    for split, rows in rows_of.items():
        rows = rows[np.lexsort((keys[rows, 1], keys[rows, 0]))]
        for number, group in enumerate(_cut(np.cumsum(sizes[rows]), shard_bytes)):
            shards.append(Shard(f"{safe_split(split)}-{number:05d}", split, rows[group]))
    return shards


def _keys(ids: pa.ChunkedArray) -> np.ndarray:
    """128 bits of each id's hash [rows, 2], to sort by."""
    digests = (hashlib.sha256(id_.encode()).digest()[:16] for chunk in ids.chunks for id_ in chunk.to_pylist())
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)


def _planned_bytes(table: pa.Table, recipe: Recipe) -> np.ndarray:
    """What each utterance takes in a tar; of audio it is an estimate, for no file is opened yet."""
    spec = recipe.spec
    samples = np.rint(table["duration_s"].to_numpy() * spec.sample_rate).astype(np.int64)
    # typed as Any: packed_bytes is arithmetic, and does for arrays what it does for numbers
    frames: Any = spec.num_frames(samples)
    audio: Any = (samples * AUDIO_BYTES).astype(np.int64)
    text: Any = pc.binary_length(table["text"]).to_numpy().astype(np.int64)
    return np.asarray(packed_bytes(recipe.content, frames, spec.mels, audio, text))


def _cut(ends: np.ndarray, limit: int) -> Iterator[slice]:
    """Runs of things that end at `ends`, each run as long as fits the limit, but at least one thing."""
    start, begin = 0, 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, begin + limit, side="right")))
        yield slice(start, stop)
        start, begin = stop, int(ends[stop - 1])


def safe_split(split: str) -> str:
    """`split` as it stands in file names."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in split) or "all"


def copy_id(id_: str, copy: int) -> str:
    """The id of a changed copy; copy 0 is the utterance itself."""
    return safe_id(f"{id_}-copy{copy}") if copy else id_


def check_copy_ids(table: pa.Table, recipe: Recipe) -> None:
    """Raises ValueError when an utterance already has the name that another's copy would get."""
    ids = table["id"].to_pylist() if recipe.copies else []
    suspects = {id_ for id_ in ids if _COPY_ID.search(id_)}
    if suspects:
        taken = (copy_id(id_, n) for id_ in ids for n in range(1, recipe.copies + 1))
        if twice := next((id_ for id_ in taken if id_ in suspects), None):
            raise ValueError(f"utterance {twice} has the name of another one's copy; leave --augment or it out")


def content_hash(table: pa.Table) -> str:
    """16 hex digits of what stands in the table's columns, whatever chunks and buffers it lies in."""
    whole = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        valid, lengths, values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        for chunk in column.chunks:
            valid.update(chunk.is_valid().to_numpy(zero_copy_only=False))
            if pa.types.is_string(chunk.type):
                lengths.update(pc.binary_length(chunk).to_numpy(zero_copy_only=False))
                offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
                data = chunk.buffers()[2]
                values.update(b"" if data is None else memoryview(data)[offsets[0] : offsets[-1]])
            else:
                values.update(chunk.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
        whole.update(f"{name} {column.type}\n".encode() + valid.digest() + lengths.digest() + values.digest())
    return whole.hexdigest()[:16]
