"""The parts of a shard set: planned from the manifest alone, written one by one, joined to shards.

The manifest decides which utterance goes to which part of which shard, so any number of workers, in any order and
after any number of kills, writes the same bytes. A part (about 32 utterances) is one task and one file under `parts/`;
when all parts of a shard are there they are joined to its tar and deleted.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from asr import audio
from asr.frontend import logmel
from manifests import storage
from manifests.schema import Dropped, Utterance
from shards.index import Moments
from shards.spec import FrontendSpec
from shards.writer import BLOCK, END, HEADER_BYTES, member, member_bytes, npy

PARTS = "parts"  # of unfinished work inside the shard set; below it a folder for each set of inputs
PART_UTTERANCES = 32  # one file a task lost 20-30 % to Ray's overhead, chunks of 32 nothing measurable


@dataclass(frozen=True)
class Part:
    """A run of utterances in a shard: one task's work."""

    uri: str  # of the tar members; the rows are beside it in .json
    utterances: tuple[Utterance, ...]
    spec: FrontendSpec


@dataclass(frozen=True)
class Shard:
    """A tar and the parts that it is joined from."""

    uri: str
    split: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Written:
    """What a task reports: numbers only."""

    audio_s: float
    utterances: int
    dropped: int


def plan_shards(
    utterances: Sequence[Utterance], spec: FrontendSpec, shard_bytes: int, out: str, parts_folder: str
) -> list[Shard]:
    """Shards of at most about `shard_bytes`, one split each, utterances in an order that mixes speakers.

    The order is by a hash of the id: training then meets all speakers in any stretch of a shard, and it is the same
    order wherever the manifest is read. `parts_folder` is for parts of these inputs alone: those found in it count as
    done. Raises ValueError for two splits whose shards would have the same names.
    """
    shards: list[Shard] = []
    splits = sorted({u.split for u in utterances})
    for first, second in itertools.combinations(splits, 2):
        if safe_split(first) == safe_split(second):
            raise ValueError(f"splits {first!r} and {second!r}: their shards would share names; choose with --splits")
    for split in splits:
        mixed = sorted((u for u in utterances if u.split == split), key=lambda u: _hash(u.id))
        for number, group in enumerate(_cut(mixed, spec, shard_bytes)):
            name = f"{safe_split(split)}-{number:05d}"
            parts = tuple(
                Part(storage.join(parts_folder, f"{name}-{start // PART_UTTERANCES:05d}"), tuple(run), spec)
                for start in range(0, len(group), PART_UTTERANCES)
                for run in [group[start : start + PART_UTTERANCES]]
            )
            shards.append(Shard(storage.join(out, f"{name}.tar"), split, parts))
    return shards


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def safe_split(split: str) -> str:
    """`split` as it stands in file names."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in split) or "all"


def _cut(utterances: list[Utterance], spec: FrontendSpec, shard_bytes: int) -> list[list[Utterance]]:
    groups: list[list[Utterance]] = []
    room = 0
    for utterance in utterances:
        frames = spec.num_frames(round(utterance.duration_s * spec.sample_rate))
        size = member_bytes(HEADER_BYTES + frames * spec.mels * 2) + member_bytes(len(utterance.text.encode()))
        if not groups or size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(utterance)
        room -= size
    return groups


def write_part(part: Part) -> Written:
    """Featurise the utterances of a part. Its .json is written last; a part that has one is finished and left."""
    record_uri = part.uri + ".json"
    if not storage.exists(record_uri):
        _write_part(part)
    record = json.loads(storage.read_bytes(record_uri))
    return Written(sum(r["duration_s"] for r in record["rows"]), len(record["rows"]), len(record["dropped"]))


def _write_part(part: Part) -> None:
    rows: list[dict] = []
    dropped: list[dict] = []
    moments = Moments.zero(part.spec.mels)
    position = 0
    with storage.atomic_write(part.uri) as file:
        for utterance in part.utterances:
            feats_tf = _features_or_reason(utterance, part.spec)
            if isinstance(feats_tf, Dropped):
                dropped.append(asdict(feats_tf))
                continue
            data = npy(feats_tf.astype(np.float16))
            text = utterance.text.encode()
            members = [member(f"{utterance.id}.npy", data), member(f"{utterance.id}.txt", text)]
            file.write(b"".join(members))
            moments = moments.add(_moments(feats_tf))
            rows.append(asdict(utterance) | {
                "frames": len(feats_tf),
                "feature_offset": position + BLOCK + HEADER_BYTES, "feature_length": len(data) - HEADER_BYTES,
                "text_offset": position + len(members[0]) + BLOCK, "text_length": len(text),
            })  # fmt: skip
            position += sum(map(len, members))
    record = {"rows": rows, "dropped": dropped, "moments": moments.to_json(), "bytes": position}
    storage.write_text(part.uri + ".json", json.dumps(record, ensure_ascii=False))


def _features_or_reason(utterance: Utterance, spec: FrontendSpec) -> np.ndarray | Dropped:
    """Log-mel [frames, mels], or why there are none."""
    u = utterance
    drop = (u.id, u.corpus, u.split, u.audio, u.duration_s, u.text_raw)
    try:
        samples = audio.read(u.audio, spec.sample_rate, u.offset_s, u.duration_s, channel=u.channel)
        if u.dc_offset or u.gain_db:
            samples = (samples - np.float32(u.dc_offset)) * np.float32(10 ** (u.gain_db / 20))
        feats_tf = logmel(samples, spec)
    except (audio.AudioError, FileNotFoundError) as err:
        return Dropped(*drop, "undecodable", str(err))
    if not len(feats_tf):
        return Dropped(*drop, "too short", f"{u.duration_s:g} s hold no frame of {spec.window_samples} samples")
    return feats_tf


def _moments(feats_tf: np.ndarray) -> Moments:
    wide = feats_tf.astype(np.float64)
    return Moments(len(wide), wide.sum(0), (wide * wide).sum(0))


def join_shard(shard: Shard) -> None:
    """Join the parts of a shard to its tar, write its rows to rows_uri, and delete the parts.

    The rows are written after the tar: a shard that has them is finished and left.
    """
    if storage.exists(rows_uri(shard)):
        return
    rows: list[dict] = []
    dropped: list[dict] = []
    moments = Moments.zero(shard.parts[0].spec.mels)
    digest = hashlib.sha256()
    position = 0
    with storage.atomic_write(shard.uri) as file:
        for part in shard.parts:
            record = json.loads(storage.read_bytes(part.uri + ".json"))
            data = storage.read_bytes(part.uri)
            assert len(data) == record["bytes"], f"{part.uri} is not the file that its record describes"
            for row in record["rows"]:
                moved = {key: row[key] + position for key in ("feature_offset", "text_offset")}
                rows.append(row | moved)
            dropped += record["dropped"]
            moments = moments.add(Moments.from_json(record["moments"]))
            file.write(data)
            digest.update(data)
            position += len(data)
        file.write(END)
        digest.update(END)
    ours = {"shard": storage.name(shard.uri), "shard_bytes": position + len(END), "shard_sha256": digest.hexdigest()}
    joined = {"rows": [row | ours for row in rows], "dropped": dropped, "moments": moments.to_json()}
    storage.write_text(rows_uri(shard), json.dumps(joined, ensure_ascii=False))
    for part in shard.parts:
        storage.delete(part.uri)
        storage.delete(part.uri + ".json")


def rows_uri(shard: Shard) -> str:
    """Where the rows, drops and moments of a joined shard are until the index is made."""
    return storage.join(storage.parent(shard.parts[0].uri), storage.name(shard.uri) + ".json")
