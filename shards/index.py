"""The index of a shard set: `index.parquet` has a row per utterance, `stats.json` says what is in the shards.

A shard set is a folder: <split>-00000.tar …, index.parquet, stats.json, urls.txt and urls-<split>.txt, dropped.parquet.
The tars of an index that was made for shards from elsewhere may lie anywhere.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import build
from manifests import storage
from manifests.schema import UTTERANCE_SCHEMA
from manifests.storefaults import shown
from shards.columns import REPEATED, IndexRows, Numbers, open_index
from shards.content import Content
from shards.lists import listed
from shards.moments import Moments
from shards.spec import FrontendSpec, check_same

INDEX = "index.parquet"
STATS = "stats.json"
URLS = "urls.txt"
VERSION = 3  # raise it with every change of SCHEMA or of what its columns mean

PLACES = ("feature_offset", "feature_length", "audio_offset", "audio_length", "text_offset", "text_length")

# Offsets and lengths are in bytes of the tar; both are 0 for a part that is not there. Features begin behind the header
# of the .npy; uint8 ones with the scale's numbers, and what lies between those and the codes is counted. Audio is the
# whole encoded file. Text is UTF-8 that equals the column `text`: where a tar has another one, its length is 0.
SCHEMA = pa.schema(
    [
        *UTTERANCE_SCHEMA,
        pa.field("frames", pa.int32(), nullable=False),  # of log-mel, also where there is only audio
        pa.field("shard", pa.string(), nullable=False),  # file name, beside the index; else a whole path or URL
        *(pa.field(name, pa.int64(), nullable=False) for name in PLACES[:4]),
        pa.field("audio_format", pa.string(), nullable=False),  # flac, wav, ...; "" without audio
        *(pa.field(name, pa.int64(), nullable=False) for name in PLACES[4:]),
        pa.field("copy", pa.int32(), nullable=False),  # 0: as it is; from 1 on: augmented
        pa.field("augmentation", pa.string(), nullable=False),  # a JSON list of what was done to it, or ""
        pa.field("shard_bytes", pa.int64(), nullable=False),
        pa.field("shard_sha256", pa.string(), nullable=False),
    ],
    metadata={"speechmill": f"index {VERSION}"},
)


def stats_json(spec: FrontendSpec, splits: dict[str, Moments], content: Content) -> dict[str, Any]:
    """The content of stats.json; mean and variance are of all frames, and of each split beside them."""
    total = Moments.zero(spec.mels)
    for moments in splits.values():
        total = total.add(moments)

    def values(moments: Moments) -> dict[str, Any]:
        hours = moments.frames * spec.frame_s / 3600
        mean, variance = moments.mean_f.round(6).tolist(), moments.variance_f.round(6).tolist()
        return {"frames": moments.frames, "hours": round(hours, 6), "mean": mean, "variance": variance}

    head = {"spec": spec.values(), "fingerprint": spec.fingerprint, "content": asdict(content)}
    return head | values(total) | {"splits": {name: values(splits[name]) for name in sorted(splits)}}


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One tar."""

    url: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class ShardSet:
    """The utterances of the chosen shards, row by row, in the order of the index.

    Numbers are here; any other column is read from the index when it is asked for.
    """

    spec: FrontendSpec
    content: Content
    moments: Moments
    files: tuple[ShardFile, ...]
    shard: np.ndarray  # int32 [rows], position in `files`
    frames: np.ndarray  # int32 [rows]
    feature_offset: np.ndarray  # int64 [rows], as all that follow; see SCHEMA
    feature_length: np.ndarray
    audio_offset: np.ndarray
    audio_length: np.ndarray
    text_offset: np.ndarray
    text_length: np.ndarray
    parts: tuple[IndexRows, ...]  # where the other columns are

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def hours(self) -> float:
        return float(self.frames.sum(dtype=np.int64)) * self.spec.frame_s / 3600

    def column(self, name: str) -> list:
        """A column of SCHEMA; `shard` with whole paths or URLs."""
        return self.table([name]).column(0).to_pylist()

    def table(self, names: Iterable[str]) -> pa.Table:
        """Columns of SCHEMA; `shard` with whole paths or URLs."""
        names = list(names)
        table = pa.concat_tables([part.table(names) for part in self.parts])
        if "shard" in names:
            urls = pa.array([file.url for file in self.files], pa.string())
            table = table.set_column(names.index("shard"), SCHEMA.field("shard"), urls.take(pa.array(self.shard)))
        return table

    def texts(self) -> Iterator[list[str]]:
        """The column `text` in order, some ten thousand at a time, so that they are never all in memory."""
        for part in self.parts:
            yield from (texts.to_pylist() for texts in part.batches("text"))

    @property
    def fingerprint(self) -> str:
        """12 hex digits of what is in here: the shards' hashes and the number of rows chosen of them."""
        seen = [len(self), *sorted({file.sha256 for file in self.files})]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:12]


def open_shards(source: str) -> ShardSet:
    """A shard set, or those of its shards that are listed.

    `source` is a shard folder, an index.parquet, a .tar beside one, or a text file with a shard's path or URL in each
    line (a relative one is meant from the list's own folder). Over http a folder cannot be listed; its index.parquet is
    asked for. Raises ValueError when shards lack an index, or were made with other features or contents.
    """
    source = storage.absolute(source)
    if source.startswith(("http://", "https://")) and "?" in source:
        raise ValueError(f"{shown(source)}: a URL with a query, as signed ones are, opens one file, and a set is many; "
                         "give an s3:// URL, or a folder of a web server")  # fmt: skip
    if source.endswith(".parquet"):
        if storage.name(source) != INDEX:
            raise ValueError(
                f"{shown(source)}: is not the {INDEX} of a set; give that, its folder, or a list of shards"
            )
        return _open([(storage.parent(source), None)])
    if source.endswith(".tar"):
        return _open([(storage.parent(source), [source])])
    if storage.is_folder(source) if storage.is_local(source) else not source.endswith(".txt"):
        return _open([(source, None)])
    if not storage.exists(source):
        lists = storage.exists(storage.join(storage.parent(source), URLS))
        hint = f"that folder has {URLS} and urls-<split>.txt" if lists else "write-shards --out makes one"
        raise ValueError(f"{shown(source)}: no such list, folder or index of shards; {hint}")
    return _open(_by_folder(source))


def _by_folder(urls_file: str) -> list[tuple[str, list[str]]]:
    """The listed shards by the folder of their index: that of the list when it knows them, else their own."""
    folder, urls = storage.parent(urls_file), listed(urls_file)
    known: set[str] = set()
    if any(storage.parent(url) != folder for url in urls) and storage.exists(storage.join(folder, INDEX)):
        known = {file.url for file in _open([(folder, None)]).files}
    groups: dict[str, list[str]] = {}
    for url in urls:
        groups.setdefault(folder if url in known else storage.parent(url), []).append(url)
    return list(groups.items())


def _open(chosen: Sequence[tuple[str, list[str] | None]]) -> ShardSet:
    """The rows of several indexes, of all their shards or of those named, one after the other."""
    first, heads = chosen[0][0], [_head(folder) for folder, _ in chosen]
    spec, content = heads[0].spec, heads[0].content
    for (folder, _), head in zip(chosen, heads, strict=True):
        check_same(spec, head.spec, shown(first), shown(folder), "Write one of them again with the other's --frontend.")
        if head.content != content:
            raise ValueError(f"{shown(first)} holds {content.name} and {shown(folder)} holds {head.content.name}; "
                             "write one of them again with the other's --content")  # fmt: skip
    held = {"frames": np.int32} | dict.fromkeys(_places(content), np.int64)
    numbers = Numbers(sum(head.rows for head in heads), held)
    moments, parts = Moments.zero(spec.mels), []
    for (folder, urls), head in zip(chosen, heads, strict=True):
        with _reading(folder) as file:
            keep, splits = numbers.add(file, folder, None if urls is None else set(urls))
        missing = sorted(set(urls or ()) - numbers.files.keys())
        if missing:
            raise ValueError(f"{shown(folder)}/{INDEX}: knows nothing of {storage.name(missing[0])}")
        if unknown := sorted(splits - head.splits.keys()):
            raise ValueError(f"{shown(folder)}/{STATS}: is not of this {INDEX}: it has no split {unknown[0]}")
        for split in sorted(splits):
            moments = moments.add(head.splits[split])
        parts.append(IndexRows(storage.join(folder, INDEX), keep))
    arrays = numbers.arrays()
    none = np.broadcast_to(np.int64(0), len(arrays["shard"]))  # takes no memory
    files = tuple(ShardFile(url, *facts) for url, facts in numbers.files.items())
    return ShardSet(spec, content, moments, files, **dict.fromkeys(PLACES, none) | arrays, parts=tuple(parts))


def _places(content: Content) -> list[str]:
    absent = [part for part, there in (("feature", content.features), ("audio", content.audio)) if not there]
    return [name for name in PLACES if name.partition("_")[0] not in absent]


@dataclass(frozen=True, slots=True)
class _Head:
    rows: int
    spec: FrontendSpec
    content: Content
    splits: dict[str, Moments]


def _head(folder: str) -> _Head:
    for name in (INDEX, STATS):
        if not storage.exists(storage.join(folder, name)):
            raise ValueError(f"{shown(folder)}: has no {name}, so it is not a finished shard set; repeat write-shards "
                             "for it, or for shards made elsewhere index-shards")  # fmt: skip
    with _reading(folder) as file:
        rows = file.metadata.num_rows
    stats_uri = storage.join(folder, STATS)
    try:
        stats = json.loads(storage.read_bytes(stats_uri))
        content = Content(**stats["content"])
        splits = {split: _moments(values) for split, values in stats["splits"].items()}
        spec = build(FrontendSpec, stats["spec"], shown(stats_uri))
        if any(moments.squares_f.shape != (spec.mels,) for moments in splits.values()):
            raise ValueError(f"its variances are not of {spec.mels} mels")
        return _Head(rows, spec, content, splits)
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(
            f"{shown(stats_uri)}: is damaged ({err}); the same write-shards command again mends it"
        ) from None


def _moments(values: dict[str, Any]) -> Moments:
    mean_f, variance_f, frames = np.array(values["mean"]), np.array(values["variance"]), values["frames"]
    return Moments(frames, mean_f * frames, (variance_f + mean_f**2) * frames)


@contextlib.contextmanager
def _reading(folder: str) -> Iterator[pq.ParquetFile]:
    """The index of a folder. Raises ValueError when it is damaged, or is not what this version writes."""
    uri = storage.join(folder, INDEX)
    try:
        with open_index(uri, REPEATED) as file:
            found = file.schema_arrow
            version = (found.metadata or {}).get(b"speechmill", b"").decode()
            if version.startswith("index ") and version != f"index {VERSION}":
                raise ValueError(f"{shown(uri)}: was written by another version ({version}, this one reads index "
                                 f"{VERSION}); write the shards again with write-shards --force")  # fmt: skip
            if not found.equals(_AS_READ):
                raise ValueError(f"{shown(uri)}: has other columns than this version; found {found.names}")
            yield file
    except pa.ArrowInvalid as err:
        raise ValueError(f"{shown(uri)}: is damaged ({err}); the same write-shards command again mends it") from None


_AS_READ = pa.schema([
    field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in REPEATED else field for field in SCHEMA
])  # fmt: skip
