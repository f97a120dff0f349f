"""Every byte of a shard set held against its index: what `inspect-shards --verify` does."""

import bisect
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.wording import counted
from manifests import storage
from manifests.schema import safe_id
from manifests.storefaults import shown
from manifests.tarstream import Damaged, TarStream
from shards import index
from shards.columns import IndexRows
from shards.index import ShardFile, ShardSet
from shards.writer import NpyHeader, npy_header

PIECE_BYTES = 4 << 20
REMOTE_READERS = 4  # shards that are streamed from a store at once; local ones are read one after the other
TOLD = 3  # utterances of a shard that are named; the others are counted

_HEAD_BYTES = {"npy": 256, "flac": 4, "txt": 1 << 20}  # of a member by its suffix: what tells what it is


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a shard, in words; nothing when it is as the index says."""

    url: str
    faults: tuple[str, ...]
    utterances: int
    frames: int


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    length: int
    head: bytes


@dataclass(slots=True)
class _Tar:
    url: str
    size_bytes: int = 0
    sha256: str = ""
    damage: str = ""
    members: list[_Member] = field(default_factory=list)

    def holding(self, offset: int, length: int) -> _Member | None:
        """The member in which these bytes lie."""
        i = bisect.bisect_right(self.members, offset, key=lambda member: member.offset) - 1
        if i < 0 or offset + length > self.members[i].offset + self.members[i].length:
            return None
        return self.members[i]


def verify(shards: ShardSet, advance: Callable[[float], None]) -> Iterator[Verdict]:
    """A verdict on each shard, in their order. `advance` is told bytes, of the sum of all shards' sizes."""
    lock = threading.Lock()

    def told(amount: float) -> None:
        with lock:
            advance(amount)

    table = shards.table(["id", "text", "audio_format"]).combine_chunks()
    order = np.argsort(shards.shard, kind="stable")
    ends = np.searchsorted(shards.shard[order], np.arange(len(shards.files)), side="right")
    owners = {file.sha256: file.url for file in shards.files}

    def look(i: int) -> Verdict:
        rows = order[ends[i - 1] if i else 0 : ends[i]]
        tar: _Tar | None = None
        try:
            tar = _read_through(shards.files[i].url, told)
            faults = list(_shard_faults(shards.files[i], tar, owners))
        except FileNotFoundError:
            faults = ["is missing"]
        except OSError as err:
            faults = [f"cannot be read: {err.strerror or err}"]
        told(max(0, shards.files[i].size_bytes - (tar.size_bytes if tar else 0)))
        if tar and not any(fault.startswith(_OTHER) for fault in faults):
            faults += _told(list(_all_row_faults(shards, rows, table.take(pa.array(rows)), tar)))
        return Verdict(shards.files[i].url, tuple(faults), len(rows), int(shards.frames[rows].sum(dtype=np.int64)))

    if all(storage.is_local(file.url) for file in shards.files):
        yield from map(look, range(len(shards.files)))
        return
    with ThreadPoolExecutor(REMOTE_READERS) as pool:
        yield from pool.map(look, range(len(shards.files)))


def _read_through(url: str, advance: Callable[[float], None]) -> _Tar:
    """One pass over the tar; of its members only what tells what they are is kept. Raises OSError."""
    tar, stream, digest = _Tar(url), TarStream(), hashlib.sha256()
    kept = b""  # the end of what was read, from the beginning of a member on whose head is not whole yet
    with storage.open_read(url) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            tar.size_bytes += len(piece)
            advance(len(piece))
            if not tar.damage:
                tar.damage = _fed(stream, piece)
                kept = _take_heads(tar, stream, kept + piece if kept else piece)
    if not tar.damage:
        try:
            stream.finish()
        except Damaged as err:
            tar.damage = str(err)
    tar.sha256 = digest.hexdigest()
    return tar


def _fed(stream: TarStream, piece: bytes) -> str:
    try:
        stream.feed(memoryview(piece))
    except Damaged as err:
        return str(err)
    return ""


def _take_heads(tar: _Tar, stream: TarStream, window: bytes) -> bytes:
    """Adds the members whose heads lie in `window`, the end of what was read, and gives what is still needed of it."""
    start = tar.size_bytes - len(window)
    while (i := len(tar.members)) < len(stream.names):
        name, offset, length = stream.names[i], stream.offsets[i], stream.lengths[i]
        wanted = min(length, _HEAD_BYTES.get(name.rpartition(".")[2].lower(), 0))
        if offset + wanted > tar.size_bytes:
            return window[offset - start :]
        tar.members.append(_Member(name, offset, length, window[offset - start :][:wanted]))
    return b""


_OTHER = "holds the bytes of"


def _shard_faults(file: ShardFile, tar: _Tar, owners: dict[str, str]) -> Iterator[str]:
    if tar.sha256 == file.sha256:
        return
    if tar.sha256 in owners:
        yield f"{_OTHER} {storage.name(owners[tar.sha256])}"
        return
    if tar.size_bytes != file.size_bytes:
        kind = "shorter" if tar.size_bytes < file.size_bytes else "longer"
        yield f"is {kind}: it has {tar.size_bytes:,} bytes, the index says {file.size_bytes:,}"
    else:
        yield f"its bytes differ: sha256 {tar.sha256[:12]}…, the index says {file.sha256[:12]}…"
    if tar.damage:
        last = f" (behind {tar.members[-1].name})" if tar.members else ""
        yield f"it is damaged as a tar: {tar.damage}{last}"


def _told(faults: Sequence[str]) -> list[str]:
    more = [f"and {counted(len(faults) - TOLD, 'more utterance')}"] if len(faults) > TOLD else []
    return [*faults[:TOLD], *more]


def _all_row_faults(shards: ShardSet, rows: np.ndarray, table: pa.Table, tar: _Tar) -> Iterator[str]:
    """At most one fault for each utterance, with its id."""
    columns = [table[name].to_pylist() for name in ("id", "text", "audio_format")]
    for row, id, text, audio_format in zip(rows.tolist(), *columns, strict=True):
        fault = next(_row_faults(shards, row, id, text, audio_format, tar), None)
        if fault:
            yield f"utterance {id}: {fault}"


def _row_faults(shards: ShardSet, row: int, id: str, text: str, audio_format: str, tar: _Tar) -> Iterator[str]:
    places = {name: int(getattr(shards, name)[row]) for name in index.PLACES}
    if shards.content.features:
        yield from _feature_faults(shards, int(shards.frames[row]), id, places, tar)
    if shards.content.audio:
        offset, length = places["audio_offset"], places["audio_length"]
        member = tar.holding(offset, length) if length else None
        if member is None or (member.offset, member.length) != (offset, length):
            yield f"no audio of {length} bytes is at byte {offset}"
        elif not _is_of(member.name, id, audio_format, tar):
            yield f"its audio is called {member.name}"
        elif audio_format == "flac" and not member.head.startswith(b"fLaC") and not _is_unchanged(shards, row, tar):
            yield "its audio is no FLAC"  # one made elsewhere may always have been called so wrongly
    if places["text_length"]:
        offset, length = places["text_offset"], places["text_length"]
        member = tar.holding(offset, length)
        if member is None:
            yield f"no text of {length} bytes is at byte {offset}"
        elif not _is_of(member.name, id, "txt", tar):
            yield f"its text is called {member.name}"
        elif (held := member.head[offset - member.offset :][:length]) != text.encode()[: len(held)]:
            yield "its text is not that of the index"


def _is_unchanged(shards: ShardSet, row: int, tar: _Tar) -> bool:
    return tar.sha256 == shards.files[shards.shard[row]].sha256


def _feature_faults(shards: ShardSet, frames: int, id: str, places: dict[str, int], tar: _Tar) -> Iterator[str]:
    kind, mels = str(shards.content.features), shards.spec.mels
    start, end = places["feature_offset"], places["feature_offset"] + places["feature_length"]
    wanted = [(end - frames * mels * np.dtype(kind).itemsize, end, (frames, mels), kind, "npy")]
    if kind == "uint8":
        wanted.append((start, start + 8 * mels, (2, mels), "float32", "scale.npy"))
    elif wanted[0][0] != start:
        yield f"{places['feature_length']} bytes of features are not {frames} frames of {mels} mels"
    for first, last, shape, dtype, suffix in wanted:
        member = tar.holding(first, last - first)
        if member is None or member.offset + member.length != last:
            yield f"no features end at byte {last}"
            return
        if not _is_of(member.name, id, suffix, tar):
            yield f"its features are called {member.name}"
        if npy_header(member.head) != NpyHeader(np.dtype(dtype).str, False, shape, first - member.offset):
            yield f"{member.name} is not {dtype} {list(shape)}"


def _is_of(name: str, id: str, suffix: str, tar: _Tar) -> bool:
    """Whether the member is the utterance's: called by its id, or in tars made elsewhere by what gave the id."""
    if name == f"{id}.{suffix}":
        return True
    key = name[: -len(suffix) - 1]
    named_by = key, f"{storage.name(tar.url).removesuffix('.tar')}/{key}"
    return name[len(key) :].lower() == f".{suffix}" and id in map(safe_id, named_by)


def set_faults(shards: ShardSet) -> list[str]:
    """What is wrong beside the shards, where all of an index is used: totals in stats.json, and the list of URLs."""
    return [fault for part in shards.parts if part.keep is None for fault in _folder_faults(part)]


def _folder_faults(part: IndexRows) -> Iterator[str]:
    folder = storage.parent(part.uri)
    table = part.table(["split", "frames", "shard"])
    in_index = {
        row["split"]: row["frames_sum"] for row in table.group_by("split").aggregate([("frames", "sum")]).to_pylist()
    }
    uri = storage.join(folder, index.STATS)
    stats = json.loads(storage.read_bytes(uri))
    said = {split: values["frames"] for split, values in stats["splits"].items()}
    for split in sorted(said.keys() | in_index.keys()):
        has, found = said.get(split, 0), in_index.get(split, 0)
        if has != found:
            yield f"{shown(uri)}: split {split} has {has:,} frames, in the index {found:,}"
    if (total := stats.get("frames", 0)) != sum(in_index.values()):
        yield f"{shown(uri)}: has {total:,} frames, the index {sum(in_index.values()):,}"
    uri = storage.join(folder, index.URLS)
    if storage.exists(uri):
        listed = sorted(line.strip() for line in storage.read_text(uri).splitlines() if line.strip())
        if listed != sorted(pc.unique(table["shard"]).to_pylist()):
            yield f"{shown(uri)}: lists other shards than the index"
