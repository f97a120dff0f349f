"""The index of a shard set: `index.parquet` has a row per utterance, `stats.json` says what the features are.

A shard set is a folder: <split>-00000.tar …, index.parquet, stats.json, urls.txt and urls-<split>.txt, dropped.parquet.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import build
from manifests import parquet, storage
from manifests.schema import UTTERANCE_SCHEMA
from shards.spec import FrontendSpec, check_same

INDEX = "index.parquet"
STATS = "stats.json"
URLS = "urls.txt"

SCHEMA = pa.schema(
    [
        *UTTERANCE_SCHEMA,
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # file name, beside the index
        pa.field("feature_offset", pa.int64(), nullable=False),  # of the numbers themselves, behind the .npy header
        pa.field("feature_length", pa.int64(), nullable=False),
        pa.field("text_offset", pa.int64(), nullable=False),
        pa.field("text_length", pa.int64(), nullable=False),
        pa.field("shard_bytes", pa.int64(), nullable=False),
        pa.field("shard_sha256", pa.string(), nullable=False),
    ],
    metadata={"speechmill": "index 2"},
)


@dataclass
class Moments:
    """Sums from which mean and variance follow, so that parts can be added up in any grouping."""

    frames: int
    sum_f: np.ndarray  # float64
    squares_f: np.ndarray

    @classmethod
    def zero(cls, mels: int) -> "Moments":
        return cls(0, np.zeros(mels), np.zeros(mels))

    def add(self, other: "Moments") -> "Moments":
        return Moments(self.frames + other.frames, self.sum_f + other.sum_f, self.squares_f + other.squares_f)

    def to_json(self) -> dict[str, Any]:
        return {"frames": self.frames, "sum": self.sum_f.tolist(), "squares": self.squares_f.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Moments":
        return cls(values["frames"], np.array(values["sum"]), np.array(values["squares"]))

    @property
    def mean_f(self) -> np.ndarray:
        return self.sum_f / max(1, self.frames)

    @property
    def variance_f(self) -> np.ndarray:
        return np.maximum(self.squares_f / max(1, self.frames) - self.mean_f**2, 0.0)


@dataclass(frozen=True)
class ShardSet:
    """The utterances of the chosen shards, row by row, in the order of the index."""

    table: pa.Table  # SCHEMA, with `shard` as a full URL
    spec: FrontendSpec
    moments: Moments

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> list:
        return self.table.column(name).to_pylist()

    @property
    def frames(self) -> np.ndarray:
        return self.table.column("frames").to_numpy()

    @property
    def hours(self) -> float:
        return float(self.frames.sum(dtype=np.int64)) * self.spec.frame_s / 3600


def stats_json(spec: FrontendSpec, splits: dict[str, Moments]) -> dict[str, Any]:
    """The content of stats.json; mean and variance are of all frames, and of each split beside them."""
    total = Moments.zero(spec.mels)
    for moments in splits.values():
        total = total.add(moments)

    def values(moments: Moments) -> dict[str, Any]:
        hours = moments.frames * spec.frame_s / 3600
        mean, variance = moments.mean_f.round(6).tolist(), moments.variance_f.round(6).tolist()
        return {"frames": moments.frames, "hours": round(hours, 6), "mean": mean, "variance": variance}

    head = {"spec": asdict(spec), "fingerprint": spec.fingerprint}
    return head | values(total) | {"splits": {name: values(splits[name]) for name in sorted(splits)}}


def open_shards(source: str) -> ShardSet:
    """A shard set, or those of its shards that are listed.

    `source` is a shard folder, an index.parquet, or a text file with a shard's path or URL in each line (a relative
    one is meant from the list's own folder). Raises ValueError when shards lack an index or were made with different
    features.
    """
    source = storage.absolute(source)
    if source.endswith(".parquet"):
        if storage.name(source) != INDEX:
            raise ValueError(f"{source}: is not the {INDEX} of a shard set; give that, its folder, or a list of shards")
        return _one(storage.parent(source), None)
    if source.endswith(".tar"):
        return _one(storage.parent(source), [source])
    if storage.is_folder(source):
        return _one(source, None)
    if not storage.exists(source):
        listed = storage.exists(storage.join(storage.parent(source), URLS))
        hint = f"that folder has {URLS} and urls-<split>.txt" if listed else "write-shards --out makes one"
        raise ValueError(f"{source}: no such list, folder or index of shards; {hint}")
    return _join([_one(folder, urls) for folder, urls in _by_folder(source)])


def _by_folder(urls_file: str) -> list[tuple[str, list[str]]]:
    folder = storage.parent(urls_file)
    groups: dict[str, list[str]] = {}
    for line in storage.read_text(urls_file).splitlines():
        if line.strip():
            url = storage.absolute(line.strip() if "://" in line else storage.join(folder, line.strip()))
            groups.setdefault(storage.parent(url), []).append(url)
    if not groups:
        raise ValueError(f"{urls_file}: lists no shards")
    return list(groups.items())


def _one(folder: str, urls: list[str] | None) -> ShardSet:
    for name in (INDEX, STATS):
        if not storage.exists(storage.join(folder, name)):
            raise ValueError(f"{folder}: has no {name}, so it is not a finished shard set; repeat write-shards for it")
    try:
        table = parquet.read(storage.join(folder, INDEX))
    except pa.ArrowInvalid as err:
        raise ValueError(
            f"{folder}/{INDEX}: is damaged ({err}); the same write-shards command again mends it"
        ) from None
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{folder}/{INDEX}: has other columns than this version; found {table.schema.names}")
    stats = json.loads(storage.read_bytes(storage.join(folder, STATS)))
    names = [storage.name(url) for url in urls] if urls is not None else pc.unique(table["shard"]).to_pylist()
    missing = sorted(set(names) - set(pc.unique(table["shard"]).to_pylist()))
    if missing:
        raise ValueError(f"{folder}/{INDEX}: knows nothing of {missing[0]}")
    if urls is not None:
        table = table.filter(pc.is_in(table["shard"], pa.array(names)))
    splits = pc.unique(table["split"]).to_pylist()
    moments = Moments.zero(len(stats["mean"]))
    for values in (stats["splits"][s] for s in splits):
        mean, variance, frames = np.array(values["mean"]), np.array(values["variance"]), values["frames"]
        moments = moments.add(Moments(frames, mean * frames, (variance + mean**2) * frames))
    full = pc.binary_join_element_wise(pa.scalar(folder), table["shard"], "/")
    table = table.set_column(table.schema.get_field_index("shard"), SCHEMA.field("shard"), full)
    return ShardSet(table, build(FrontendSpec, stats["spec"], f"{folder}/{STATS}"), moments)


def _join(sets: list[ShardSet]) -> ShardSet:
    first, *others = sets
    for other in others:
        names = [s.table["shard"][0].as_py() for s in (first, other)]
        check_same(first.spec, other.spec, names[0], names[1], "Write one of them again with the other's --frontend.")
    moments = first.moments
    for other in others:
        moments = moments.add(other.moments)
    return ShardSet(pa.concat_tables([s.table for s in sets]), first.spec, moments)
