"""The end of a shard set: index, statistics and lists, from what the writers of its shards left.

The rows of the index are copied shard by shard: a million are never in memory together.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from configs import cli
from configs.wording import counted
from manifests import parquet, storage
from manifests.schema import DROPPED_SCHEMA
from pipelines.shard_plan import Place, Recipe, Shard, safe_split
from shards import index
from shards.content import Content
from shards.moments import Moments
from shards.spec import FrontendSpec

GROUP_ROWS = 1 << 16  # of a row group: a column of a million rows is read in 16 pieces
READERS = 16  # files that are asked for at once: a store takes tens of milliseconds for each

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Planned = Sequence[tuple[Shard, Place]]


@dataclass(slots=True)
class Split:
    """What a split came to."""

    moments: Moments
    utterances: int = 0
    bytes: int = 0
    tars: list[str] = field(default_factory=list)  # their names, in order


@dataclass(slots=True)
class Totals:
    """What a shard set came to."""

    splits: dict[str, Split] = field(default_factory=dict)
    dropped: list[pa.Table] = field(default_factory=list)
    used: list[Place] = field(default_factory=list)  # shards that are not empty


def in_turn(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """`work` of each item, in order, READERS at a time: no more results than that wait."""
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(items), READERS):
            yield from pool.map(work, items[start : start + READERS])


def total(planned: Planned, recipe: Recipe) -> Totals:
    """Add up the records of finished shards."""
    totals = Totals()
    records = in_turn(_record, [place for _, place in planned])
    for (shard, place), record in zip(planned, records, strict=True):
        if record["dropped"]:
            totals.dropped.append(pa.Table.from_pylist(record["dropped"], schema=DROPPED_SCHEMA))
        if record["utterances"]:
            split = totals.splits.setdefault(shard.split, Split(Moments.zero(recipe.spec.mels)))
            split.moments = split.moments.add(Moments.from_json(record["moments"]))
            split.utterances += record["utterances"]
            split.bytes += record["bytes"]
            split.tars.append(storage.name(place.uri))
            totals.used.append(place)
    return totals


def _record(place: Place) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(storage.read_bytes(place.record_uri))
    return record


def is_whole(out: str) -> bool:
    """True when the index and all shards that it names are there, in their full length."""
    try:
        there = dict(storage.list_files(out, deep=False))
        files = index.open_shards(out).files
        lists = storage.join(out, index.URLS) in there
        return lists and all((there.get(f.url) or storage.size_bytes(f.url)) == f.size_bytes for f in files)
    except (ValueError, KeyError, OSError):
        return False


def write_index(out: str, totals: Totals, recipe: Recipe) -> None:
    """Everything that stands beside the tars."""
    with (
        storage.atomic_write(storage.join(out, index.INDEX)) as file,
        pq.ParquetWriter(file, index.SCHEMA, compression="zstd") as writer,
    ):
        for rows in _grouped(in_turn(lambda place: parquet.read(place.rows_uri), totals.used)):
            writer.write_table(rows, row_group_size=len(rows))
    write_beside(out, totals.splits, totals.dropped, recipe.spec, recipe.content)


def write_beside(
    out: str, splits: dict[str, Split], dropped: Sequence[pa.Table], spec: FrontendSpec, content: Content
) -> None:
    """What was dropped, the statistics and the lists of a set whose index.parquet is there."""
    parquet.write(storage.join(out, parquet.DROPPED), pa.concat_tables([*dropped, DROPPED_SCHEMA.empty_table()]))
    moments = {name: split.moments for name, split in splits.items()}
    stats = json.dumps(index.stats_json(spec, moments, content), indent=1)
    storage.write_text(storage.join(out, index.STATS), stats + "\n")
    for name, split in splits.items():
        _write_list(storage.join(out, f"urls-{safe_split(name)}.txt"), split.tars)
    _write_list(storage.join(out, index.URLS), [tar for split in splits.values() for tar in split.tars])


def _grouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least GROUP_ROWS, but for the last."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= GROUP_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _write_list(uri: str, names: list[str]) -> None:
    storage.write_text(uri, "".join(f"{name}\n" for name in names))


def summary(
    splits: dict[str, Split], dropped: Sequence[pa.Table], spec: FrontendSpec, content: Content
) -> dict[str, Any]:
    """What step.json keeps and --json prints."""
    reasons: dict[str, dict[str, float]] = {}
    for table in dropped:
        for row in table.select(["reason", "duration_s"]).to_pylist():
            reason = reasons.setdefault(row["reason"], {"utterances": 0, "hours": 0.0})
            reason["utterances"] += 1
            reason["hours"] += row["duration_s"] / 3600
    counts = {
        name: {
            "utterances": split.utterances,
            "hours": round(split.moments.frames * spec.frame_s / 3600, 4),
            "shards": len(split.tars),
            "bytes": split.bytes,
        }
        for name, split in splits.items()
    }
    return {"splits": counts, "dropped": reasons, "content": content.name, "fingerprint": spec.fingerprint}


def describe(summary: dict[str, Any], row: str) -> list[str]:
    """The same as lines for people; `row` is what the set has a row for: an utterance, or a sample."""
    table = [
        [split, f"{v['utterances']:,}", f"{v['hours']:.2f}", f"{v['shards']:,}", f"{v['bytes'] / 1e6:,.1f}"]
        for split, v in summary["splits"].items()
    ]
    lines = [cli.table(["split", "utterances", "hours", "shards", "MB"], table)]
    for reason, v in summary["dropped"].items():
        lines.append(f"dropped: {reason}: {counted(v['utterances'], row)}, {v['hours']:.2f} h (see dropped.parquet)")
    return lines
