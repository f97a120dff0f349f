"""One task writes one shard: the tar in one stream, then the rows that go into the index, and last a record of it.

A shard that has its record, and its tar in full length, is finished and left. All files are functions of the task's
inputs: written again after a kill, or twice at once by a worker that was thought dead, they have the same bytes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from configs.wording import counted
from manifests import parquet, storage
from manifests.schema import Dropped, utterances
from pipelines import identity
from pipelines.shard_example import QUARANTINED, Child, Example, Make, examples, make, unseen
from pipelines.shard_plan import Place, Task
from shards.index import SCHEMA
from shards.moments import Moments
from shards.writer import END, Packed, pack


class TooManyQuarantined(ValueError):
    """More utterances could not be read than may be."""


def too_many(count: int, limit: int, audio: str, detail: str) -> TooManyQuarantined:
    where = "" if audio in detail else f"{audio}: "
    return TooManyQuarantined(
        f"{counted(count, 'utterance')} could not be read, more than --max-quarantined {limit:,}; the first: "
        f"{where}{detail}; the same command tries them again"
    )


@dataclass(frozen=True, slots=True)
class Written:
    """What a task reports: a few numbers. `audio_s` is of the manifest's rows."""

    audio_s: float
    utterances: int
    dropped: int
    quarantined: int


def write_shard(task: Task, make: Make = make) -> Written:
    """Write what is missing of a shard.

    Raises ValueError when this machine does not see the folder of the shard set, TooManyQuarantined.
    """
    if not storage.exists(storage.join(task.place.out, identity.RECORD)):
        raise unseen(task.place.out)
    record = finished(task.place)
    if record is None:
        record = _write(task, make)
    return written(record)


def write_shard_carefully(task: Task, make: Make = make) -> Written:
    """The same for a shard over which workers died: each utterance is decoded in a process that may die alone."""
    child = Child(make)
    try:
        return write_shard(task, child)
    finally:
        child.close()


def finished(place: Place) -> dict[str, Any] | None:
    """The record of a finished shard; None where there is work to do."""
    try:
        record: dict[str, Any] = json.loads(storage.read_bytes(place.record_uri))
        whole = not record["bytes"] or storage.size_bytes(place.uri) == record["bytes"]
    except FileNotFoundError:
        return None
    return record if whole else None


def written(record: dict[str, Any]) -> Written:
    dropped = record["dropped"]
    quarantined = sum(row["reason"] == QUARANTINED for row in dropped)
    return Written(record["seconds"], record["utterances"], len(dropped), quarantined)


def _write(task: Task, make: Make) -> dict[str, Any]:
    table = task.table()
    tar = _Tar(task, table)
    with storage.atomic_write(task.place.uri) as file:
        for position, example in examples(tar.utterances, task.recipe, make):
            if isinstance(example, Dropped):
                tar.drop(example)
            else:
                file.write(tar.add(position, example).data)
        file.write(tar.end())
    if not tar.rows:
        storage.delete(task.place.uri)
    parquet.write(task.place.rows_uri, tar.index_rows())
    record = tar.record() | {"seconds": sum(table["duration_s"].to_pylist())}
    storage.write_text(task.place.record_uri, json.dumps(record, ensure_ascii=False))
    return record


class _Tar:
    """What becomes known of a tar while it is written."""

    def __init__(self, task: Task, table: pa.Table) -> None:
        self._task, self._table = task, table
        self.utterances = utterances(table)
        self.rows: list[dict[str, Any]] = []  # the index's columns that the manifest does not have
        self._positions: list[int] = []  # and which row of the manifest each is of
        self._dropped: list[Dropped] = []
        self._moments = Moments.zero(task.recipe.spec.mels)
        self._digest = hashlib.sha256()
        self._bytes = 0

    def add(self, position: int, example: Example) -> Packed:
        """The members of an example, to be written."""
        text = self.utterances[position].text
        packed = pack(example.id, example.feats_tf, example.flac, "flac", text, self._task.recipe.content)
        self._positions.append(position)
        self.rows.append({
            "id": example.id, "duration_s": example.duration_s, "frames": len(example.feats_tf), "copy": example.copy,
            "augmentation": example.augmentation, **packed.columns(self._bytes),
        })  # fmt: skip
        self._moments = self._moments.add(Moments.of(example.feats_tf))
        self._digest.update(packed.data)
        self._bytes += len(packed.data)
        return packed

    def drop(self, dropped: Dropped) -> None:
        self._dropped.append(dropped)
        if dropped.reason == QUARANTINED:
            quarantined = [row for row in self._dropped if row.reason == QUARANTINED]
            if len(quarantined) > self._task.max_quarantined:
                first = quarantined[0]
                raise too_many(len(quarantined), self._task.max_quarantined, first.audio, first.detail)

    def end(self) -> bytes:
        self._digest.update(END)
        self._bytes += len(END)
        return END

    def index_rows(self) -> pa.Table:
        """The rows of the index: those of the manifest, and what became of them."""
        tar, sha256 = storage.name(self._task.place.uri), self._digest.hexdigest()
        whole = {"shard": tar, "shard_bytes": self._bytes, "shard_sha256": sha256}
        kept = self._table.take(pa.array(self._positions, pa.int64()))
        columns = []
        for field in SCHEMA:
            if field.name in whole:
                columns.append(pa.array([whole[field.name]] * len(self.rows), field.type))
            elif self.rows and field.name in self.rows[0]:
                columns.append(pa.array([row[field.name] for row in self.rows], field.type))
            else:
                columns.append(kept[field.name] if field.name in kept.column_names else pa.array([], field.type))
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    def record(self) -> dict[str, Any]:
        return {
            "utterances": len(self.rows), "bytes": self._bytes if self.rows else 0, "sha256": self._digest.hexdigest(),
            "moments": self._moments.to_json(), "dropped": [asdict(row) for row in self._dropped],
        }  # fmt: skip
