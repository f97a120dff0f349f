"""Batches hold what the plan says, resume exactly, and pass on what goes wrong while they are read."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from asr import data
from asr.augment import AugmentConfig
from asr.data import AHEAD, Batch, Corpus
from asr.tokenizer import Tokenizer
from shards.index import open_shards
from shards.plan import Budget, Plan, plan_epoch

STRONG = AugmentConfig(speed=0.1, vocal_tract=0.1, gain_db=6.0, noise_db=10.0, gap_s=0.2)
SEED = (3, 1)


@pytest.fixture
def corpus(shard_folder: Path, vocab: Tokenizer) -> Corpus:
    return Corpus(open_shards(str(shard_folder)), vocab)


def plan_of(corpus: Corpus, usable: np.ndarray, world_size: int = 1, splice: int = 2) -> Plan:
    budget = Budget(batch_frames=400, batch_examples=4, splice=splice, splice_frames=130)
    return plan_epoch(corpus.shards.frames[usable], budget, seed=1, epoch=0, world_size=world_size)


def all_rows(corpus: Corpus) -> np.ndarray:
    return np.arange(len(corpus.shards))


def same(one: Batch, other: Batch) -> bool:
    tensors = [(getattr(one, n), getattr(other, n)) for n in ("feats_btf", "lens_b", "targets_bu", "target_lens_b")]
    return all(torch.equal(a, b) for a, b in tensors) and all(map(np.array_equal, one.rows, other.rows))


def test_features_are_those_in_the_shards(corpus: Corpus, shard_folder: Path) -> None:
    for row, frames in enumerate(corpus.shards.frames):
        expected = row % 4 + np.arange(frames)[:, None] / 64 + np.arange(8) / 1024
        feats_tf = corpus.features(row)
        assert feats_tf.dtype == np.float32
        np.testing.assert_array_equal(feats_tf, expected.astype(np.float16).astype(np.float32))


def test_tokens_give_the_texts_back(corpus: Corpus, vocab: Tokenizer) -> None:
    assert [vocab.decode(ids.tolist()) for ids in corpus.tokens] == corpus.texts
    assert corpus.token_lens.tolist() == [len(ids) for ids in corpus.tokens]


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_what_the_plan_says(corpus: Corpus, world_size: int) -> None:
    usable = np.arange(2, 24)  # positions in the plan are not rows of the index
    plan = plan_of(corpus, usable, world_size)
    seen: list[int] = []
    for rank in range(world_size):
        batches = list(data.batches(corpus, usable, plan, rank, 0, None, SEED))
        assert len(batches) == plan.steps
        for step, batch in enumerate(batches):
            expected = [usable[rows].tolist() for rows in plan.batch(step, rank)]
            assert [rows.tolist() for rows in batch.rows] == expected
            seen += [row for rows in expected for row in rows]
    assert sorted(seen) == usable.tolist()


def test_spliced_examples_join_features_and_tokens_in_order(corpus: Corpus) -> None:
    plan = plan_of(corpus, all_rows(corpus), splice=3)
    spliced = 0
    for batch in data.batches(corpus, all_rows(corpus), plan, 0, 0, None, SEED):
        for b, rows in enumerate(batch.rows):
            feats_tf = np.concatenate([corpus.features(r) for r in rows])
            tokens_u = np.concatenate([corpus.tokens[r] for r in rows])
            assert (int(batch.lens_b[b]), int(batch.target_lens_b[b])) == (len(feats_tf), len(tokens_u))
            np.testing.assert_array_equal(batch.feats_btf[b, : len(feats_tf)], feats_tf)
            np.testing.assert_array_equal(batch.targets_bu[b, : len(tokens_u)], tokens_u)
            assert not batch.feats_btf[b, len(feats_tf) :].any() and not batch.targets_bu[b, len(tokens_u) :].any()
            spliced += len(rows) > 1
    assert spliced > 2


def test_gaps_go_before_between_and_after(corpus: Corpus) -> None:
    """The pieces themselves are unchanged and in order; what is between them is background, at most gap_s each."""
    rows = np.array([4, 9, 2])
    config = AugmentConfig(share=0.0, gap_s=0.2)
    batch = corpus.batch([rows], config, np.random.default_rng(8))
    (feats_tf,) = batch.feats_btf.numpy()
    at, gaps = 0, []
    for row in rows:
        piece_tf = corpus.features(row)
        places = range(at, len(feats_tf) - len(piece_tf) + 1)
        found = next(p for p in places if np.array_equal(feats_tf[p : p + len(piece_tf)], piece_tf))
        gaps.append(found - at)
        at = found + len(piece_tf)
    gaps.append(len(feats_tf) - at)
    assert all(0 <= gap <= 20 for gap in gaps) and sum(gap > 0 for gap in gaps) >= 3


@pytest.mark.parametrize("config", [None, STRONG], ids=["plain", "augmented"])
def test_resuming_gives_the_same_batches(corpus: Corpus, config: AugmentConfig | None) -> None:
    plan = plan_of(corpus, all_rows(corpus))
    whole = list(data.batches(corpus, all_rows(corpus), plan, 0, 0, config, SEED))
    assert plan.steps > 3
    for first_step in (1, plan.steps - 1, plan.steps):
        rest = list(data.batches(corpus, all_rows(corpus), plan, 0, first_step, config, SEED))
        assert len(rest) == plan.steps - first_step
        assert all(map(same, rest, whole[first_step:]))


def test_augmentation_differs_by_seed(corpus: Corpus) -> None:
    plan = plan_of(corpus, all_rows(corpus))
    one, other = (next(data.batches(corpus, all_rows(corpus), plan, 0, 0, STRONG, (3, epoch))) for epoch in (1, 2))
    assert not same(one, other)


@pytest.mark.parametrize("taken", [1, AHEAD])
def test_a_consumer_that_stops_leaves_no_thread(corpus: Corpus, taken: int) -> None:
    before = set(threading.enumerate())
    plan = plan_of(corpus, all_rows(corpus), splice=1)
    assert plan.steps > AHEAD + 1  # so the thread is held up by a full queue
    batches = data.batches(corpus, all_rows(corpus), plan, 0, 0, None, SEED)
    for _ in range(taken):
        next(batches)
    assert len(set(threading.enumerate()) - before) == 1
    batches.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("kept_bytes", [0, 1000])
def test_a_shard_that_is_cut_short_is_named(
    shard_folder: Path, vocab: Tokenizer, tmp_path: Path, kept_bytes: int
) -> None:
    shutil.copytree(shard_folder, tmp_path / "set")
    shard = tmp_path / "set" / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:kept_bytes])
    cut = Corpus(open_shards(str(tmp_path / "set")), vocab)
    before = set(threading.enumerate())
    with pytest.raises(EOFError, match=rf"{shard}: is shorter than its index says; the same write-shards command"):
        list(data.batches(cut, all_rows(cut), plan_of(cut, all_rows(cut)), 0, 0, None, SEED))
    assert set(threading.enumerate()) <= before


def test_a_shard_that_is_gone_is_named(shard_folder: Path, vocab: Tokenizer, tmp_path: Path) -> None:
    shutil.copytree(shard_folder, tmp_path / "set")
    (tmp_path / "set" / "train-00002.tar").unlink()
    cut = Corpus(open_shards(str(tmp_path / "set")), vocab)
    with pytest.raises(FileNotFoundError, match=r"train-00002\.tar"):
        list(data.batches(cut, all_rows(cut), plan_of(cut, all_rows(cut)), 0, 0, None, SEED))


def test_rows_that_cannot_be_trained_on_are_counted(corpus: Corpus) -> None:
    rows, left_out = corpus.usable(lambda frames: -(-frames // 4), max_frames=50)
    frames, tokens = corpus.shards.frames, corpus.token_lens
    assert rows.tolist() == [r for r in range(24) if frames[r] <= 50 and tokens[r] <= -(-frames[r] // 4)]
    assert 0 < len(rows) < 24
    assert len(rows) + sum(left_out.values()) == 24
    assert left_out["too long"] == sum(frames > 50)
    assert corpus.usable(lambda frames: frames, max_frames=60)[1] == {
        "too long": 0,
        "more tokens than encoder frames": 0,
    }


def test_the_fingerprint_is_of_the_shards_and_the_rows(corpus: Corpus, shard_folder: Path, vocab: Tokenizer) -> None:
    again = Corpus(open_shards(str(shard_folder)), vocab)
    part = Corpus(open_shards(str(shard_folder / "train-00000.tar")), vocab)
    assert corpus.fingerprint == again.fingerprint != part.fingerprint
