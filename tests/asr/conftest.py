"""Small real parts: a vocab, a random model that has something to say, a bundle, a shard set."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from asr import tokenizer
from asr.checkpoint import Bundle
from asr.tokenizer import Tokenizer
from asr.transducer import BLANK, Transducer, TransducerConfig
from manifests import parquet, storage
from shards import index
from shards.index import Moments
from shards.spec import FrontendSpec
from shards.writer import BLOCK, END, HEADER_BYTES, member, npy

TEXTS = ["the cat sat on the mat", "the dog saw the cat", "a cat and a dog", "on a mat sat a dog", "the mat"]
MakeModel = Callable[..., Transducer]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def vocab() -> Tokenizer:
    size = tokenizer.smallest_size(TEXTS, byte_fallback=False) + 8
    return Tokenizer(tokenizer.train(TEXTS, "bpe", size, byte_fallback=False))


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A small random model in evaluation mode, its weights scaled so that it emits tokens of many kinds.

    `blank_bias` says how seldom: far below zero every frame is full of tokens.
    """

    def make(seed: int = 0, mels: int = 8, size: int = 12, blank_bias: float = 3.0, **options: Any) -> Transducer:
        torch.manual_seed(seed)
        encoder: dict[str, Any] = {"layers": 2, "hidden": 16, "projection": 12, "stack": 3, "reduce_after": [1]}
        config = TransducerConfig("lstm", encoder | options, 8, 1, 16, 12, joint=16)
        model = Transducer(config, mels, size)
        with torch.no_grad():
            for layer in (model.enc_joint, model.pred_joint, model.output):
                layer.weight.mul_(6)
            model.output.bias[BLANK] += blank_bias
        return model.eval()

    return make


@pytest.fixture(scope="session")
def bundle(vocab: Tokenizer, make_model: MakeModel) -> Bundle:
    """Of random weights. Tests leave it as it is."""
    spec = FrontendSpec(mels=16)
    model = make_model(mels=16, size=vocab.size)
    model.set_normalisation(torch.full((16,), -4.0), torch.full((16,), 4.0))
    return Bundle(model, vocab, spec, {"step": 7, "config": {"seed": 3}})


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of 24 utterances in three shards, 8 mels.

    The frames of row r are numbered: mel f of frame t is r + t / 64 + f / 1024, small enough to be exact in float16.
    """
    folder = tmp_path_factory.mktemp("shards")
    spec = FrontendSpec(mels=8)
    lengths = np.random.default_rng(5).integers(30, 60, 24)
    rows: list[dict[str, Any]] = []
    for shard in range(3):
        rows += _write_shard(folder / f"train-{shard:05d}.tar", lengths, range(shard * 8, shard * 8 + 8))
    parquet.write(str(folder / index.INDEX), pa.Table.from_pylist(rows, schema=index.SCHEMA))
    frames = np.concatenate([row_features(r, n) for r, n in enumerate(lengths)]).astype(np.float64)
    moments = Moments(len(frames), frames.sum(0), (frames**2).sum(0))
    storage.write_text(str(folder / index.STATS), json.dumps(index.stats_json(spec, {"train": moments})))
    return folder


def row_features(row: int, frames: int) -> np.ndarray:
    """Float16 [frames, 8]."""
    return (row % 4 + np.arange(frames)[:, None] / 64 + np.arange(8) / 1024).astype(np.float16)


def _write_shard(path: Path, lengths: np.ndarray, numbers: range) -> list[dict[str, Any]]:
    data = b""
    rows = []
    for number in numbers:
        frames = int(lengths[number])
        text = TEXTS[number % len(TEXTS)]
        features, words = (
            member(f"u{number}.npy", npy(row_features(number, frames))),
            member(f"u{number}.txt", text.encode()),
        )
        rows.append({
            "id": f"u{number}", "corpus": "made", "split": "train", "language": "en", "speaker": "s", "audio": "x.wav",
            "offset_s": 0.0, "duration_s": frames / 100, "sample_rate": 16000, "channels": 1, "text_raw": text,
            "text": text, "licence": "", "source": "", "frames": frames, "shard": path.name,
            "feature_offset": len(data) + BLOCK + HEADER_BYTES, "feature_length": frames * 16,
            "text_offset": len(data) + len(features) + BLOCK, "text_length": len(text),
        })  # fmt: skip
        data += features + words
    storage.write_bytes(str(path), data + END)
    whole = {"shard_bytes": len(data + END), "shard_sha256": hashlib.sha256(data + END).hexdigest()}
    return [row | whole for row in rows]
