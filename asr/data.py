"""From planned batches to tensors: read, augment, splice, pad, in threads that work ahead of the trainer.

Legend of shape suffixes: b examples, n samples, t frames, f mels, u tokens.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr import augment, device_waveform, waveform_recordings
from asr.augment import AugmentConfig
from asr.corpus import Corpus
from asr.device_frontend import logmel
from asr.device_waveform import WaveformAugment
from asr.formats.source import AudioError
from asr.missing import Missing
from asr.waveform_recordings import Recordings
from manifests import storage
from shards.plan import Plan
from shards.spec import FrontendSpec

AHEAD = 4  # batches ready before they are asked for, beside the one that each thread works on
PREFETCH_SHARDS = 256  # at most, named to the cache at a time; it fetches as far ahead as it has room
PREFETCH_STEPS = 200  # after which the cache is told anew what comes next
PAUSED = 0.1  # share of the batches that get augment.pause_s
CPU = torch.device("cpu")
_DTYPES = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32, np.dtype(np.int64): torch.int64}


@dataclass
class Batch:
    """Padded examples. Of `feats_btf` (float16 or float32, not normalised) and `samples_bn` one is there.

    A batch that has lost all its examples to missing shards has no `rows` and no weight; it holds a frame of zeros.
    """

    rows: list[np.ndarray]  # of the index; of each example those that are spliced to it
    lens_b: Tensor  # frames
    targets_bu: Tensor
    target_lens_b: Tensor
    feats_btf: Tensor | None = None
    samples_bn: Tensor | None = None
    sample_lens_b: Tensor | None = None
    missing: int = 0  # utterances left out, as their shards cannot be read
    recordings: Recordings | None = None  # for the samples, where the Feed's `waveform` names files

    @property
    def utterances(self) -> list[int]:
        """The rows of all examples, one after the other."""
        return [row for rows in self.rows for row in rows.tolist()]

    @property
    def weight(self) -> float:
        return 1.0 if self.rows else 0.0

    def features(
        self, device: torch.device, spec: FrontendSpec, waveform: WaveformAugment | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Float32 [b, t, f] and frames [b] on the device. Of samples, log-mel is made there.

        With `waveform`, that of the Feed, the samples are changed before: the same seed changes them the same way.
        """
        if self.feats_btf is not None:
            assert waveform is None or not self.rows
            return self.feats_btf.to(device, non_blocking=True).float(), self.lens_b.to(device, non_blocking=True)
        assert self.samples_bn is not None and self.sample_lens_b is not None
        samples_bn = self.samples_bn.to(device, non_blocking=True)
        lens_b = self.sample_lens_b.to(device, non_blocking=True)
        if waveform is not None:
            samples_bn = device_waveform.change(samples_bn, lens_b, spec.sample_rate, waveform, seed, self.recordings)
        return logmel(samples_bn, lens_b, spec)


@dataclass(frozen=True, eq=False)
class Feed:
    """What a rank is fed with in an epoch, as a function of the step, whichever thread asks for it and when.

    Plan rows are positions in `rows`, which are rows of the corpus. Augmentation of a step is seeded by (seed, step,
    rank) and nothing else; no config means none. With `waveform` batches are of samples, to be changed on their device:
    shards must hold audio then, and `augment` nothing for single utterances (see asr.device_waveform.check_waveform).
    """

    corpus: Corpus
    rows: np.ndarray
    plan: Plan
    rank: int
    augment: AugmentConfig | None
    seed: Sequence[int]
    missing: Missing
    device: torch.device = CPU  # that batches go to: for CUDA in pinned memory, so that copies overlap with its work
    waveform: WaveformAugment | None = None

    def planned(self, step: int) -> list[np.ndarray]:
        """Rows of the corpus, of each example."""
        return [self.rows[rows] for rows in self.plan.batch(step, self.rank)]

    def batch(self, step: int) -> Batch:
        """Raises OSError, EOFError or ValueError for a shard that cannot be read and is not allowed to be missing."""
        corpus, planned = self.corpus, self.planned(step)
        plain = self.augment is None or not augment.of_utterances(self.augment)
        assert plain or self.waveform is None
        has_features = corpus.shards.content.features is not None
        alone = all(len(rows) == 1 for rows in planned)
        as_samples = self.waveform is not None or (plain and not has_features and alone)
        read = corpus.samples if as_samples else corpus.stored if plain and has_features else corpus.features
        rows, pieces, texts = self._read(planned, read)
        missing = sum(map(len, planned)) - sum(map(len, rows))
        seed = [*self.seed, step, self.rank]
        if not plain and self.augment is not None:
            rng = np.random.default_rng(seed)
            # for all of the batch or for none: one long example would make padding of all others
            pause = rng.random() < PAUSED
            pieces = [_augmented(example, self.augment, corpus.spec, rng, pause) for example in pieces]
        if not rows:
            as_samples, pieces, texts = False, [[np.zeros((1, corpus.spec.mels), np.float32)]], [[]]
        pinned = self.device.type == "cuda"
        targets_bu, target_lens_b = _padded(self._tokens(texts), pinned)
        inputs, lens_b = _padded(pieces, pinned)
        if not as_samples:
            return Batch(rows, lens_b, targets_bu, target_lens_b, feats_btf=inputs, missing=missing)
        lens, recordings = lens_b.tolist(), None
        if self.waveform is not None:
            recordings = waveform_recordings.read(self.waveform, lens, corpus.spec.sample_rate, seed, pinned)
        frames_b = torch.tensor([corpus.spec.num_frames(n) for n in lens])
        return Batch(rows, frames_b, targets_bu, target_lens_b, None, inputs, lens_b, missing, recordings)

    def _read(
        self, planned: list[np.ndarray], read: Callable[[int], np.ndarray]
    ) -> tuple[list[np.ndarray], list[list[np.ndarray]], list[list[str]]]:
        """Rows, input and texts of the examples, without the rows that lie in missing shards."""
        text, shard, lost = self.corpus.text, self.corpus.shards.shard, self.missing.lost
        examples = []
        for rows in planned:
            found = []
            for row in rows.tolist():
                if lost[shard[row]]:
                    continue
                try:
                    found.append((row, read(row), text(row)))
                except (OSError, EOFError, AudioError) as err:
                    self.missing.add(int(shard[row]), err)
            if found:
                examples.append(tuple(zip(*found, strict=True)))
        return ([np.array(rows) for rows, _, _ in examples], [list(pieces) for _, pieces, _ in examples],
                [list(texts) for _, _, texts in examples])  # fmt: skip

    def _tokens(self, texts: list[list[str]]) -> list[list[np.ndarray]]:
        flat = iter(self.corpus.tokens([text for example in texts for text in example]))
        return [[np.array(next(flat), np.int64) for _ in example] or [np.zeros(0, np.int64)] for example in texts]


def _augmented(
    pieces: list[np.ndarray], config: AugmentConfig, spec: FrontendSpec, rng: np.random.Generator, pause: bool
) -> list[np.ndarray]:
    """The utterances [t, f] of an example, changed, and what comes before, between and after them."""
    pieces = [augment.utterance(piece, config, spec, rng) for piece in pieces]
    if config.gap_s or (pause and config.pause_s):
        beside = [pieces[0], *pieces]
        gaps = [augment.gap(p, config.gap_s, spec, rng) for p in beside]
        if pause and config.pause_s:
            place = int(rng.integers(len(gaps)))
            gaps[place] = augment.gap(beside[place], config.pause_s, spec, rng)
        pieces = [gaps[0], *itertools.chain.from_iterable(zip(pieces, gaps[1:], strict=True))]
    return pieces


def _padded(examples: list[list[np.ndarray]], pinned: bool) -> tuple[Tensor, Tensor]:
    """Each example's pieces one behind the other and zeros after them: [b, longest, ...], and the lengths [b].

    numpy copies float16 at 2,000,000 x real time; copying and casting in one go takes 9 (torch) to 27 times as long.
    """
    lens = [sum(map(len, pieces)) for pieces in examples]
    first = examples[0][0]
    shape = (len(examples), max(1, *lens), *first.shape[1:])
    padded = torch.empty(shape, dtype=_DTYPES[first.dtype], pin_memory=pinned)
    for row, pieces in zip(padded.numpy(), examples, strict=True):
        at = 0
        for piece in pieces:
            row[at : at + len(piece)] = piece
            at += len(piece)
        row[at:] = 0
    lens_b = torch.tensor(lens)
    return padded, lens_b.pin_memory() if pinned else lens_b


def batches(feed: Feed, first_step: int, threads: int = 1) -> Generator[Batch, None, None]:
    """The batches from `first_step` on, in order. What goes wrong in a thread is raised here.

    Who stops earlier, by an error or Ctrl-C, is not kept waiting: a thread may hang in a transfer for minutes. Each
    ends after the batch that it is at.
    """
    remote = not all(storage.is_local(file.url) for file in feed.corpus.shards.files)

    def work(step: int) -> Batch:
        if remote and (step - first_step) % PREFETCH_STEPS == 0:
            needed = feed.plan.shards_needed(step, feed.rank)
            feed.corpus.prefetch(list(itertools.islice(needed, PREFETCH_SHARDS)))
        return feed.batch(step)

    def begin() -> None:
        if feed.device.type == "cuda":  # else it pins memory for the first GPU, of which each process takes a part then
            torch.cuda.set_device(feed.device)

    pool = ThreadPoolExecutor(threads, "loader", initializer=begin)
    waiting: deque[Future[Batch]] = deque()
    try:
        for step in range(first_step, feed.plan.steps):
            waiting.append(pool.submit(work, step))
            if len(waiting) == AHEAD + threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
