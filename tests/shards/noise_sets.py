"""Shard sets as the commands leave them, made of noise with the parts that the commands use."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from asr.frontend import logmel
from manifests import parquet
from manifests.schema import Utterance
from shards import index
from shards.content import Content
from shards.moments import Moments
from shards.spec import FrontendSpec
from shards.writer import END, pack


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance as it went into a set."""

    id: str
    text: str
    feats_tf: np.ndarray
    flac: bytes


def make_set(
    folder: Path,
    content: str = "logmel",
    splits: Mapping[str, Sequence[int]] | None = None,
    spec: FrontendSpec | None = None,
) -> list[Spoken]:
    """Write a set; `splits` says for each how many utterances its shards have."""
    spec = spec or FrontendSpec()
    folder.mkdir(parents=True, exist_ok=True)
    spoken: list[Spoken] = []
    rows: list[dict[str, Any]] = []
    moments: dict[str, Moments] = {}
    for split, shards in (splits or {"train": (4, 3)}).items():
        moments[split] = Moments.zero(spec.mels)
        for number, count in enumerate(shards):
            utterances = [noise(f"{split}-{number}-{i}", spec) for i in range(count)]
            for utterance in utterances:
                moments[split] = moments[split].add(Moments.of(utterance.feats_tf))
            rows += write_shard(folder / f"{split}-{number:05d}.tar", utterances, split, Content.named(content))
            spoken += utterances
    parquet.write(str(folder / index.INDEX), pa.Table.from_pylist(rows, schema=index.SCHEMA))
    stats = index.stats_json(spec, moments, Content.named(content))
    (folder / index.STATS).write_text(json.dumps(stats))
    names = {row["shard"]: row["split"] for row in rows}
    for split in moments:
        listed = "".join(f"{name}\n" for name, of in names.items() if of == split)
        (folder / f"urls-{split}.txt").write_text(listed)
    (folder / index.URLS).write_text("".join(f"{name}\n" for name in names))
    return spoken


def noise(id: str, spec: FrontendSpec) -> Spoken:
    rng = np.random.default_rng(list(id.encode()))
    samples = (rng.normal(0, 0.1, rng.integers(4000, 9000)).clip(-1, 1) * 32767).round() / 32768
    file = io.BytesIO()
    soundfile.write(file, samples, spec.sample_rate, format="FLAC", subtype="PCM_16")
    return Spoken(id, f"words é of {id}", logmel(samples.astype(np.float32), spec), file.getvalue())


def write_shard(path: Path, utterances: Sequence[Spoken], split: str, content: Content) -> list[dict[str, Any]]:
    data = b""
    rows: list[dict[str, Any]] = []
    for u in utterances:
        packed = pack(u.id, u.feats_tf, u.flac, "flac", u.text, content)
        seconds = len(u.feats_tf) / 100
        row = Utterance(u.id, "noise", split, "en", "s", "", 0.0, seconds, 16000, 1, u.text, u.text, "", "")
        rows.append(asdict(row) | packed.columns(len(data)) | {
            "frames": len(u.feats_tf), "shard": path.name, "copy": 0, "augmentation": "",
        })  # fmt: skip
        data += packed.data
    path.write_bytes(data + END)
    whole = {"shard_bytes": len(data + END), "shard_sha256": hashlib.sha256(data + END).hexdigest()}
    return [row | whole for row in rows]
