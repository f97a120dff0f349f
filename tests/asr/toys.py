"""Shard sets of a few utterances made in the test, and their texts."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from manifests import parquet, storage
from manifests.schema import Utterance
from shards import index
from shards.content import Content
from shards.moments import Moments
from shards.spec import FrontendSpec
from shards.writer import END, pack

TEXTS = ["the cat sat on the mat", "the dog saw the cat", "a cat and a dog", "on a mat sat a dog", "the mat"]


@dataclass(frozen=True)
class Toy:
    """An utterance for `write_toys`."""

    id: str
    text: str
    feats_tf: np.ndarray  # float32
    flac: bytes | None = None
    corpus: str = "made"


def row_features(row: int, frames: int) -> np.ndarray:
    """Float32 [frames, 8]."""
    return (row % 4 + np.arange(frames)[:, None] / 64 + np.arange(8) / 512).astype(np.float32)


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def write_toys(folder: Path, toys: Sequence[Toy], spec: FrontendSpec, content_name: str, per_shard: int) -> None:
    """A shard set of these utterances: train-00000.tar and so on, an index, stats.json and urls.txt."""
    content = Content.named(content_name)
    rows: list[dict[str, Any]] = []
    names = []
    moments = Moments.zero(spec.mels)
    for start in range(0, len(toys), per_shard):
        names.append(f"train-{start // per_shard:05d}.tar")
        data = b""
        new: list[dict[str, Any]] = []
        for toy in toys[start : start + per_shard]:
            packed = pack(toy.id, toy.feats_tf, toy.flac, "flac", toy.text, content)
            duration_s = len(toy.feats_tf) * spec.frame_s
            utterance = Utterance(toy.id, toy.corpus, "train", "en", "s", "x.wav", 0.0, duration_s, 16000, 1, toy.text,
                                  toy.text, "", "")  # fmt: skip
            new.append(asdict(utterance) | packed.columns(len(data)) | {
                "frames": len(toy.feats_tf), "shard": names[-1], "copy": 0, "augmentation": ""})  # fmt: skip
            data += packed.data
            moments = moments.add(Moments.of(toy.feats_tf))
        data += END
        storage.write_bytes(str(folder / names[-1]), data)
        whole = {"shard_bytes": len(data), "shard_sha256": hashlib.sha256(data).hexdigest()}
        rows += [row | whole for row in new]
    parquet.write(str(folder / index.INDEX), pa.Table.from_pylist(rows, schema=index.SCHEMA))
    stats = index.stats_json(spec, {"train": moments}, content)
    storage.write_text(str(folder / index.STATS), json.dumps(stats))
    storage.write_text(str(folder / index.URLS), "".join(f"{name}\n" for name in names))
