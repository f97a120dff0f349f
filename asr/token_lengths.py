"""How many tokens each text of a shard set has: counted once, and kept in the run's folder for a resume.

Plan and filter need the lengths of all texts before the first step. 260,000 short texts are tokenised in a second, so
that millions take longer than all else that a resume does.
"""

import io
import json

import numpy as np

from asr.tokenizer import Tokenizer
from manifests import storage
from shards.index import ShardSet

LENGTHS = "token-lengths.npy"
KEY = "token-lengths.json"  # of which shards and vocabulary; written last


def count(shards: ShardSet, tokenizer: Tokenizer) -> np.ndarray:
    """Int32 [rows]. Texts are read a part at a time and not kept."""
    lengths = np.empty(len(shards), np.int32)
    start = 0
    for texts in shards.texts():
        lengths[start : start + len(texts)] = [len(ids) for ids in tokenizer.encode_batch(texts)]
        start += len(texts)
    assert start == len(lengths), (start, len(lengths))
    return lengths


def load(folder: str, shards: ShardSet, tokenizer: Tokenizer) -> np.ndarray | None:
    """What `save` left, if it is of this vocabulary and these rows; else None."""
    lengths, key = (storage.join(folder, name) for name in (LENGTHS, KEY))
    if not (storage.exists(lengths) and storage.exists(key)):
        return None
    if json.loads(storage.read_bytes(key)) != _key(shards, tokenizer):
        return None
    return np.load(io.BytesIO(storage.read_bytes(lengths)), allow_pickle=False)


def save(folder: str, lengths: np.ndarray, shards: ShardSet, tokenizer: Tokenizer) -> None:
    data = io.BytesIO()
    np.save(data, lengths, allow_pickle=False)
    storage.delete(storage.join(folder, KEY))
    storage.write_bytes(storage.join(folder, LENGTHS), data.getvalue())
    storage.write_text(storage.join(folder, KEY), json.dumps(_key(shards, tokenizer)) + "\n")


def _key(shards: ShardSet, tokenizer: Tokenizer) -> dict[str, str | int]:
    return {"shards": shards.fingerprint, "vocab": tokenizer.fingerprint, "utterances": len(shards)}
