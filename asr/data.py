"""From planned batches to tensors: read, augment, splice, pad, in a thread that works ahead of the trainer."""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr import augment
from asr.augment import AugmentConfig
from asr.tokenizer import Tokenizer
from shards.index import ShardSet
from shards.plan import Plan
from shards.reader import Reader

AHEAD = 4  # batches ready before they are asked for


@dataclass
class Batch:
    """The index rows of padded examples, their raw features [b, t, f] and tokens [b, u], and the lengths of both."""

    rows: list[np.ndarray]
    feats_btf: Tensor
    lens_b: Tensor
    targets_bu: Tensor
    target_lens_b: Tensor


class Corpus:
    """A shard set with its texts as tokens, and only those of its rows that a model can be trained on."""

    def __init__(self, shards: ShardSet, tokenizer: Tokenizer) -> None:
        self.shards = shards
        self.spec = shards.spec
        self.texts: list[str] = shards.column("text")
        self.tokens = [np.array(ids, np.int64) for ids in tokenizer.encode_batch(self.texts)]
        self.token_lens = np.array([len(ids) for ids in self.tokens], np.int64)
        self._reader = Reader(shards)

    @property
    def fingerprint(self) -> str:
        """12 hex digits of what is trained on: the shards' hashes and the rows chosen of them."""
        table = self.shards.table
        seen = [table.num_rows, *sorted(set(table.column("shard_sha256").to_pylist()))]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:12]

    def usable(self, encoder_frames: Callable[[np.ndarray], np.ndarray], max_frames: int) -> tuple[np.ndarray, dict]:
        """Rows to train on, and how many are left out for which reason. `encoder_frames` is of feature frames."""
        frames = self.shards.frames
        too_long = frames > max_frames
        crowded = (self.token_lens > encoder_frames(frames)) & ~too_long
        rows = np.flatnonzero(~too_long & ~crowded)
        return rows, {"too long": int(too_long.sum()), "more tokens than encoder frames": int(crowded.sum())}

    def features(self, row: int) -> np.ndarray:
        """Float32 [t, f]."""
        return self._reader.features(row).astype(np.float32)

    def batch(self, examples: list[np.ndarray], config: AugmentConfig | None, rng: np.random.Generator) -> Batch:
        """Examples to tensors; each is the rows that are spliced to it. No config means no augmentation."""
        feats = [self._example(rows, config, rng) for rows in examples]
        tokens = [np.concatenate([self.tokens[r] for r in rows]) for rows in examples]
        lens, target_lens = (np.array([len(x) for x in xs], np.int64) for xs in (feats, tokens))
        feats_btf = np.zeros((len(feats), lens.max(), self.spec.mels), np.float32)
        targets_bu = np.zeros((len(feats), max(1, target_lens.max())), np.int64)
        for b, (f, t) in enumerate(zip(feats, tokens, strict=True)):
            feats_btf[b, : len(f)] = f
            targets_bu[b, : len(t)] = t
        padded = (torch.from_numpy(x) for x in (feats_btf, lens, targets_bu, target_lens))
        return Batch(examples, *padded)

    def _example(self, rows: np.ndarray, config: AugmentConfig | None, rng: np.random.Generator) -> np.ndarray:
        if config is None:
            return np.concatenate([self.features(r) for r in rows])
        pieces = [augment.utterance(self.features(r), config, self.spec, rng) for r in rows]
        if config.gap_s:
            gaps = [augment.gap(p, config.gap_s, self.spec, rng) for p in [pieces[0], *pieces]]
            pieces = [gaps[0], *(x for pair in zip(pieces, gaps[1:], strict=True) for x in pair)]
        return np.concatenate(pieces)


def batches(
    corpus: Corpus,
    usable: np.ndarray,
    plan: Plan,
    rank: int,
    first_step: int,
    config: AugmentConfig | None,
    seed: tuple,
) -> Iterator[Batch]:
    """The batches of one rank from `first_step` on. An error in the reading thread is raised here.

    Plan rows are positions in `usable`. Augmentation of a step is seeded by (seed, step, rank) and nothing else.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(first_step, plan.steps):
                if stop.is_set():
                    return
                rng = np.random.default_rng([*seed, step, rank])
                put(corpus.batch([usable[rows] for rows in plan.batch(step, rank)], config, rng))
            put(None)
        except BaseException as err:
            put(err)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
