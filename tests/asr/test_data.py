"""Batches hold what the plan says, resume exactly, and pass on what goes wrong while they are read."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from toys import TEXTS, Toy, flac, row_features, write_toys

from asr import data
from asr.augment import AugmentConfig
from asr.corpus import Corpus, usable
from asr.data import AHEAD, Batch, Feed
from asr.device_waveform import WaveformAugment
from asr.formats.source import AudioError
from asr.frontend import logmel
from asr.missing import Missing
from asr.tokenizer import Tokenizer
from asr.waveform_config import Level, Noise
from manifests import storage
from shards.cache import Cache
from shards.index import open_shards
from shards.plan import Budget, Lengths, plan_epoch
from shards.spec import FrontendSpec

STRONG = AugmentConfig(speed=0.1, vocal_tract=0.1, gain_db=6.0, noise_db=10.0, gap_s=0.2)
MASKS = AugmentConfig(time_masks=2, mel_masks=1)
SEED = (3, 1)
CPU = torch.device("cpu")


@pytest.fixture
def corpus(shard_folder: Path, vocab: Tokenizer) -> Corpus:
    return Corpus(open_shards(str(shard_folder)), vocab)


def feed_of(
    corpus: Corpus,
    rows: np.ndarray | None = None,
    augment: AugmentConfig | None = None,
    world_size: int = 1,
    rank: int = 0,
    splice: int = 2,
    examples: int = 4,
    allowed: int = 0,
    waveform: WaveformAugment | None = None,
    splice_frames: int = 130,
) -> Feed:
    rows = np.arange(len(corpus.shards)) if rows is None else rows
    budget = Budget(batch_frames=400, batch_examples=examples, splice=splice, splice_frames=splice_frames)
    frames, shard = corpus.shards.frames[rows], corpus.shards.shard[rows]
    plan = plan_epoch(
        Lengths(frames, np.ones(len(rows), np.int32), shard), budget, seed=1, epoch=0, world_size=world_size
    )
    return Feed(corpus, rows, plan, rank, augment, SEED, Missing(corpus.shards.files, allowed), CPU, waveform)


def same(one: Batch, other: Batch) -> bool:
    tensors = [(getattr(one, n), getattr(other, n)) for n in ("feats_btf", "lens_b", "targets_bu", "target_lens_b")]
    return all(torch.equal(a, b) for a, b in tensors) and all(map(np.array_equal, one.rows, other.rows))


def rows_in(batches: list[Batch]) -> list[int]:
    return [row for batch in batches for rows in batch.rows for row in rows.tolist()]


def test_features_are_those_in_the_shards(corpus: Corpus) -> None:
    for row, frames in enumerate(corpus.shards.frames):
        feats_tf = corpus.features(row)
        assert feats_tf.dtype == np.float32
        np.testing.assert_array_equal(feats_tf, row_features(row, frames))


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_what_the_plan_says(corpus: Corpus, world_size: int) -> None:
    rows = np.arange(2, 24)  # positions in the plan are not rows of the index
    seen: list[int] = []
    for rank in range(world_size):
        feed = feed_of(corpus, rows, world_size=world_size, rank=rank)
        batches = list(data.batches(feed, 0))
        assert len(batches) == feed.plan.steps
        for step, batch in enumerate(batches):
            expected = [rows[positions].tolist() for positions in feed.plan.batch(step, rank)]
            assert [r.tolist() for r in batch.rows] == expected
        seen += rows_in(batches)
    assert sorted(seen) == rows.tolist()


def test_spliced_examples_join_features_and_tokens_in_order(corpus: Corpus, vocab: Tokenizer) -> None:
    spliced = 0
    for batch in data.batches(feed_of(corpus, splice=3), 0):
        feats_btf, lens_b = batch.features(CPU, corpus.spec)
        assert feats_btf.dtype == torch.float32
        for b, rows in enumerate(batch.rows):
            feats_tf = np.concatenate([corpus.features(r) for r in rows])
            tokens_u = np.concatenate([vocab.encode(TEXTS[r % len(TEXTS)]) for r in rows])
            assert (int(lens_b[b]), int(batch.target_lens_b[b])) == (len(feats_tf), len(tokens_u))
            np.testing.assert_array_equal(feats_btf[b, : len(feats_tf)], feats_tf)
            np.testing.assert_array_equal(batch.targets_bu[b, : len(tokens_u)], tokens_u)
            assert not feats_btf[b, len(feats_tf) :].any() and not batch.targets_bu[b, len(tokens_u) :].any()
            spliced += len(rows) > 1
    assert spliced > 2


def test_features_stay_in_half_precision_until_they_are_on_the_device(corpus: Corpus) -> None:
    """Half the bytes to copy; with masks alone, which are made on the device, too."""
    for augment in (None, MASKS):
        batch = next(data.batches(feed_of(corpus, augment=augment), 0))
        assert batch.feats_btf is not None and batch.feats_btf.dtype == torch.float16


def test_gaps_go_before_between_and_after(corpus: Corpus) -> None:
    """The pieces themselves are unchanged and in order; what is between them is background, at most gap_s each."""
    feed = feed_of(corpus, augment=AugmentConfig(share=0.0, gap_s=0.2), splice=3)
    lengths = []
    for batch in data.batches(feed, 0):
        assert batch.feats_btf is not None
        for rows, example_tf, length in zip(batch.rows, batch.feats_btf.numpy(), batch.lens_b.tolist(), strict=True):
            at, gaps = 0, []
            for row in rows:
                piece_tf = corpus.features(row)
                places = range(at, length - len(piece_tf) + 1)
                found = next(p for p in places if np.array_equal(example_tf[p : p + len(piece_tf)], piece_tf))
                gaps.append(found - at)
                at = found + len(piece_tf)
            lengths += [*gaps, length - at]
    assert all(0 <= gap <= 20 for gap in lengths) and sum(gap > 0 for gap in lengths) > 24


def test_pauses_come_in_some_batches_and_then_in_all_of_their_examples(corpus: Corpus) -> None:
    config = AugmentConfig(share=0.0, pause_s=2.0)
    added = []
    for seed in range(40):
        for batch in data.batches(replace(feed_of(corpus, augment=config), seed=(seed, 0)), 0):
            spoken = [sum(len(corpus.features(row)) for row in rows) for rows in batch.rows]
            added.append((batch.lens_b - torch.tensor(spoken)).tolist())
    paused = [extra for extra in added if any(extra)]
    assert 0.04 < len(paused) / len(added) < 0.2
    everywhere = [frames for extra in paused for frames in extra]
    assert max(everywhere) <= 200 and 60 < sum(everywhere) / len(everywhere) < 140


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("augment", [None, STRONG], ids=["plain", "augmented"])
def test_resuming_gives_the_same_batches_whatever_the_threads(
    corpus: Corpus, augment: AugmentConfig | None, threads: int
) -> None:
    feed = feed_of(corpus, augment=augment)
    whole = list(data.batches(feed, 0))
    assert feed.plan.steps > 3
    for first_step in (0, 1, feed.plan.steps - 1, feed.plan.steps):
        rest = list(data.batches(feed, first_step, threads))
        assert len(rest) == feed.plan.steps - first_step
        assert all(map(same, rest, whole[first_step:]))


def test_augmentation_differs_by_seed(corpus: Corpus) -> None:
    feed = feed_of(corpus, augment=STRONG)
    one, other = (next(data.batches(replace(feed, seed=(3, epoch)), 0)) for epoch in (1, 2))
    assert not same(one, other)


def assert_ended(threads: set[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("taken", [1, AHEAD])
def test_a_consumer_that_stops_leaves_no_thread(corpus: Corpus, taken: int, threads: int) -> None:
    before = set(threading.enumerate())
    feed = feed_of(corpus, splice=1, examples=2)
    assert feed.plan.steps > AHEAD + threads  # so there is work that is never asked for
    batches = data.batches(feed, 0, threads)
    for _ in range(taken):
        next(batches)
    assert len(set(threading.enumerate()) - before) == threads
    batches.close()
    assert_ended(set(threading.enumerate()) - before)


@pytest.fixture
def cut_set(shard_folder: Path, tmp_path: Path) -> Path:
    """A copy, for tests to damage."""
    return Path(shutil.copytree(shard_folder, tmp_path / "set"))


@pytest.mark.parametrize("kept_bytes", [0, 1000])
def test_a_shard_that_is_cut_short_is_named(cut_set: Path, vocab: Tokenizer, kept_bytes: int) -> None:
    shard = cut_set / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:kept_bytes])
    feed = feed_of(Corpus(open_shards(str(cut_set)), vocab))
    before = set(threading.enumerate())
    for attempt in (lambda: feed.missing.look(0), lambda: list(data.batches(feed, 0))):
        with pytest.raises(EOFError, match=rf"{shard}: is shorter than its index says; the same write-shards command"):
            attempt()
    assert_ended(set(threading.enumerate()) - before)


def test_a_shard_that_is_gone_is_named(cut_set: Path, vocab: Tokenizer) -> None:
    (cut_set / "train-00002.tar").unlink()
    feed = feed_of(Corpus(open_shards(str(cut_set)), vocab))
    for attempt in (lambda: feed.missing.look(0), lambda: list(data.batches(feed, 0))):
        with pytest.raises(FileNotFoundError, match=r"train-00002\.tar"):
            attempt()


@pytest.mark.parametrize("look", [True, False], ids=["at the start", "while reading"])
def test_allowed_missing_shards_are_left_out_and_counted(
    cut_set: Path, vocab: Tokenizer, capsys: pytest.CaptureFixture[str], look: bool
) -> None:
    """All other batches stay what they were: the plan does not change."""
    whole = list(data.batches(feed_of(Corpus(open_shards(str(cut_set)), vocab)), 0))
    (cut_set / "train-00001.tar").unlink()
    feed = feed_of(Corpus(open_shards(str(cut_set)), vocab), allowed=1)
    if look:
        feed.missing.look(0)
    batches = list(data.batches(feed, 0, threads=2))
    gone = set(range(8, 16))
    for before, after in zip(whole, batches, strict=True):
        assert rows_in([after]) == [row for row in rows_in([before]) if row not in gone]
        assert after.missing == len(rows_in([before])) - len(rows_in([after]))
    assert sum(batch.missing for batch in batches) == 8
    assert feed.missing.lost.tolist() == [False, True, False]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "train-00001.tar: cannot be read, its utterances are left out" in said[0]


def test_more_missing_shards_than_allowed_stop_with_a_name(cut_set: Path, vocab: Tokenizer) -> None:
    (cut_set / "train-00001.tar").unlink()
    (cut_set / "train-00002.tar").unlink()
    feed = feed_of(Corpus(open_shards(str(cut_set)), vocab), allowed=1)
    with pytest.raises(ValueError, match=r"train-0000[12]\.tar: is one of 2 shards that cannot be read; .* allows 1"):
        list(data.batches(feed, 0))


def test_a_set_without_any_shard_is_refused_however_many_may_be_missing(cut_set: Path, vocab: Tokenizer) -> None:
    for shard in cut_set.glob("*.tar"):
        shard.unlink()
    with pytest.raises(ValueError, match=r"train-0000\d\.tar: cannot be read, and neither can any other shard"):
        Missing(open_shards(str(cut_set)).files, allowed=9).look(0)


def test_a_batch_that_lost_everything_has_no_weight(cut_set: Path, vocab: Tokenizer) -> None:
    (cut_set / "train-00000.tar").unlink()
    feed = feed_of(Corpus(open_shards(str(cut_set)), vocab), np.arange(8), allowed=1)
    for batch in data.batches(feed, 0):
        assert batch.weight == 0 and batch.rows == [] and batch.missing > 0
        feats_btf, lens_b = batch.features(CPU, feed.corpus.spec)
        assert feats_btf.shape == (1, 1, 8) and lens_b.tolist() == [1] and batch.target_lens_b.tolist() == [0]


def test_batches_from_an_object_store_are_those_of_the_disk(
    shard_folder: Path, vocab: Tokenizer, bucket: str, tmp_path: Path
) -> None:
    for file in shard_folder.iterdir():
        storage.write_bytes(f"{bucket}/set/{file.name}", file.read_bytes())
    cache = Cache(str(tmp_path / "cache"))
    remote = Corpus(open_shards(f"{bucket}/set/index.parquet"), vocab, cache)
    local = Corpus(open_shards(str(shard_folder)), vocab)
    ours, theirs = (list(data.batches(feed_of(corpus), 0, threads=2)) for corpus in (remote, local))
    assert len(ours) == len(theirs) > 3 and all(map(same, ours, theirs))
    cache.close()
    storage.delete(f"{bucket}/set/train-00001.tar")
    missing = Missing(remote.shards.files, allowed=1)
    missing.look(0)
    assert missing.lost.tolist() == [False, True, False]


def test_rows_that_cannot_be_trained_on_are_counted() -> None:
    frames, tokens = np.array([51, 50, 40, 40, 8, 60, 0, 0]), np.array([2, 13, 10, 11, 0, 30, 0, 1])
    rows, left_out = usable(frames, tokens, lambda frames: -(-frames // 4), max_frames=50)
    assert rows.tolist() == [1, 2, 4]
    assert left_out == {"no frames": 2, "too long": 2, "more tokens than encoder frames": 1}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory, hum: np.ndarray) -> Path:
    """Shard sets of the same six utterances, a folder for each content."""
    folder = tmp_path_factory.mktemp("spoken")
    toys = []
    for i in range(6):
        samples = np.round(hum[: 8000 + 3217 * i] * 32767) / 32768
        feats_tf = logmel(samples.astype(np.float32), FrontendSpec())
        toys.append(Toy(f"u{i}", TEXTS[i % len(TEXTS)], feats_tf, flac(samples)))
    for content in ("logmel", "logmel8", "audio", "logmel+audio"):
        write_toys(folder / content, toys, FrontendSpec(), content, per_shard=3)
    return folder


def test_all_contents_give_the_same_features(spoken: Path, vocab: Tokenizer) -> None:
    """Audio within the rounding of half precision, uint8 within half a step of each mel."""
    reference = Corpus(open_shards(str(spoken / "logmel")), vocab)
    for content, off in (("logmel+audio", 0), ("audio", 0.01), ("logmel8", 0.05)):
        corpus = Corpus(open_shards(str(spoken / content)), vocab)
        for augment in (None, AugmentConfig(share=0, gap_s=0.2)):
            batches = [next(data.batches(feed_of(c, augment=augment, splice=1), 0)) for c in (reference, corpus)]
            (ours, lens_b), (theirs, their_lens_b) = (batch.features(CPU, FrontendSpec()) for batch in batches)
            assert torch.equal(lens_b, their_lens_b)
            inside = torch.arange(ours.shape[1]) < lens_b[:, None]
            if augment is None:
                torch.testing.assert_close(ours[inside], theirs[inside], atol=off, rtol=0)


def test_audio_goes_to_the_device_as_it_is_unless_its_features_are_changed(spoken: Path, vocab: Tokenizer) -> None:
    corpus = Corpus(open_shards(str(spoken / "audio")), vocab)
    plain = next(data.batches(feed_of(corpus, splice=1), 0))
    assert plain.samples_bn is not None and plain.feats_btf is None
    joined = [b for b in data.batches(feed_of(corpus, splice=2, splice_frames=250), 0) if max(map(len, b.rows)) > 1]
    assert joined
    changed = next(data.batches(feed_of(corpus, augment=STRONG, splice=1), 0))
    for batch in (changed, *joined):
        assert batch.samples_bn is None and batch.feats_btf is not None and batch.feats_btf.dtype == torch.float32


LOUDER = WaveformAugment(level=Level(1.0, (3, 6)))


@pytest.mark.parametrize("content", ["audio", "logmel+audio"])
@pytest.mark.parametrize("splice", [1, 3])
def test_with_a_waveform_batches_are_samples_and_their_features_are_of_the_changed_ones(
    spoken: Path, vocab: Tokenizer, content: str, splice: int
) -> None:
    """Also where there are features in the shards, and where utterances are joined."""
    corpus = Corpus(open_shards(str(spoken / content)), vocab)
    most = 0
    feed = feed_of(corpus, augment=MASKS, splice=splice, waveform=LOUDER, splice_frames=250)
    for batch in data.batches(feed, 0):
        assert batch.samples_bn is not None and batch.sample_lens_b is not None and batch.recordings is not None
        for samples_t, n, rows in zip(batch.samples_bn, batch.sample_lens_b.tolist(), batch.rows, strict=True):
            joined = np.concatenate([corpus.samples(row) for row in rows])
            assert n == len(joined) and np.array_equal(samples_t[:n], joined) and not samples_t[n:].any()
        plain_btf, lens_b = batch.features(CPU, corpus.spec)
        changed_btf, changed_lens_b = batch.features(CPU, corpus.spec, LOUDER, seed=4)
        assert torch.equal(lens_b, batch.lens_b) and torch.equal(lens_b, changed_lens_b)
        moved_db = (changed_btf - plain_btf)[plain_btf > -9] * 10 / np.log(10)  # where both are louder than the floor
        assert 3 <= moved_db.mean() <= 6 and len(moved_db) > 1000
        assert torch.equal(batch.features(CPU, corpus.spec, LOUDER, seed=4)[0], changed_btf)
        assert not torch.equal(batch.features(CPU, corpus.spec, LOUDER, seed=5)[0], changed_btf)
        most = max(most, *map(len, batch.rows))
    assert (most > 1) == (splice > 1)


def test_recordings_are_read_ahead_and_a_resumed_step_gets_the_same(
    spoken: Path, vocab: Tokenizer, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 48000), 16000)
    noisy = WaveformAugment(noise=Noise(0.8, (0, 5), files=(f"{tmp_path}/noise.wav",)))
    feed = feed_of(Corpus(open_shards(str(spoken / "audio")), vocab), splice=1, examples=2, waveform=noisy)
    whole = list(data.batches(feed, 0, threads=2))
    (tmp_path / "noise.wav").rename(tmp_path / "moved.wav")  # the device's side opens no files
    features = [batch.features(CPU, FrontendSpec(), noisy, seed)[0] for seed, batch in enumerate(whole)]
    assert len(whole) > 2 and not any(map(torch.equal, features, (b.features(CPU, FrontendSpec())[0] for b in whole)))
    with pytest.raises(AudioError, match=r"noise\.wav"):
        feed.batch(1)
    (tmp_path / "moved.wav").rename(tmp_path / "noise.wav")
    for step in (1, len(whole) - 1):
        batch = feed.batch(step)
        assert torch.equal(batch.features(CPU, FrontendSpec(), noisy, step)[0], features[step])


def test_a_batch_that_lost_everything_has_nothing_to_change(spoken: Path, vocab: Tokenizer, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(spoken / "audio", tmp_path / "set"))
    (folder / "train-00000.tar").unlink()
    corpus = Corpus(open_shards(str(folder)), vocab)
    batch = next(data.batches(feed_of(corpus, np.arange(3), allowed=1, waveform=LOUDER), 0))
    assert batch.rows == [] and batch.features(CPU, corpus.spec, LOUDER, 0)[0].shape == (1, 1, corpus.spec.mels)
