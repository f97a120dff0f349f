"""The largest data.batch_s that fits the device, measured: steps on the costliest batches that plans would hold.

Batches have the lengths of the corpus, spliced and augmented, and noise and random tokens in place of speech, so that
nothing is read. On a CPU each trial is a process of its own: its peak of memory is its own, and one that takes too much
ends alone. On a GPU trials are made here, and undone.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from asr.corpus import Corpus
from asr.data import Batch, Feed
from asr.missing import Missing
from asr.training import memory
from asr.training.budget_search import AS_FAST, Trial, fastest, full, largest, search
from asr.training.resume import Position
from asr.training.session import Session, epoch_plan
from configs import cli
from shards.plan import Lengths, Plan

Take = Callable[[Session, Sequence[Batch]], Any]

SHARE = {"cpu": 0.8, "cuda": 0.9}  # of the memory: what is left is for checkpoints, batches ahead, and other epochs
# What a training on a CPU has beside its steps at least: trainings of `tiny` and 0.3 h took 0.5 to 0.85 GB more than
# trials of their budget, for TensorBoard, libraries' pages, and what oneDNN keeps for each new shape of a batch.
BESIDE_BYTES = {"cpu": 1_000_000_000, "cuda": 0}
TIMED_S = 0.3  # steps are repeated until they took this long, twice at least, and the fastest counts
DRAWS = 4  # of augmentation, where it changes lengths: the longest batch of them is tried
ORPHAN_S = 0.5  # after which a trial notices that nobody waits for it
NOISE_FRAMES = 4096  # made once, and cut from and repeated


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    trials: list[Trial]
    limit_bytes: int
    most_bytes: float  # that steps may take of it

    @property
    def batch_s(self) -> float:
        return largest(self.trials).batch_s

    def text(self) -> str:
        """A table, and as its last line what to type."""
        rows = [
            [f"{t.batch_s:g}", *([f"{t.step_s:.3g}", f"{t.speed:.3g}", f"{t.peak_bytes / 1e9:.2f}"] if t.whole else
             ["", "", "more than there is"])]
            for t in sorted(self.trials, key=lambda t: t.batch_s)
        ]  # fmt: skip
        best, fast = largest(self.trials), fastest(self.trials)
        lines = [cli.table(["data.batch_s", "s a step", "audio-s/s", "peak GB"], rows)]
        lines.append(f"the largest within {self.most_bytes / 1e9:.1f} GB; of {self.limit_bytes / 1e9:.1f} GB the rest "
                     "is for what a training has beside its steps; what to type:")  # fmt: skip
        if full(self.trials):
            lines[-1] = "larger ones change nothing, as data.batch_examples or the corpus is at its end; what to type:"
        elif best.slow:
            lines[-1] = f"larger ones were not tried, as a step takes {best.step_s:.0f} s; what to type:"
        if fast.batch_s < best.batch_s:
            lines.insert(1, f"from data.batch_s={fast.batch_s:g} on, steps are within {1 - AS_FAST:.0%} of the best "
                            "speed; a smaller one takes more of them an epoch")  # fmt: skip
        return "\n".join([*lines, f"data.batch_s={best.batch_s:g}"])


def measure(session: Session, take: Take, limit_bytes: int | None = None) -> Figures:
    """`take` is a step of the training: it may change weights and optimisers, which are afterwards as they were.

    `limit_bytes` is the device's memory where none is given. Raises ValueError when the longest utterance does not fit.
    """
    config, device = session.config, session.device
    limit = memory.limit_bytes(device) if limit_bytes is None else limit_bytes
    most = min(SHARE[device.type] * limit, limit - BESIDE_BYTES[device.type])
    session.optimisers.zero_grad()  # brings in what torch imports at an optimiser's first use, 1.5 s for each process
    later = Position(epoch=min(config.shortest_first, config.epochs - 1))

    def trial(batch_s: float) -> Trial:
        data = replace(config.data, batch_s=batch_s)
        tried = replace(session, config=replace(config, data=data), position=later, ema=None)
        plan = epoch_plan(tried)
        steps, cost = _costliest(plan, session)
        found = {"cpu": _in_process_of_its_own, "cuda": _here}[device.type](
            lambda: _run(tried, take, _batches(tried, plan, steps)), device, limit
        )
        fits = found is not None and found["peak_bytes"] <= most
        figures = Trial(batch_s, cost, fits, **(found or {}))
        said = f"{figures.speed:.3g} audio-s/s, {figures.peak_bytes / 1e9:.2f} GB" if figures.whole else "out of memory"
        print(f"data.batch_s={batch_s:g}: {said}", file=sys.stderr, flush=True)
        return figures

    lengths, weight = session.lengths, config.data.token_weight
    least_s = float((lengths.frames * (1 + lengths.tokens * weight)).max()) * session.bundle.spec.frame_s
    with _undone(session) if device.type == "cuda" else contextlib.nullcontext():
        trials = search(trial, least_s, most)
    if not any(t.fits for t in trials):
        raise ValueError(f"not even a batch of the longest utterance, {least_s:.1f} s, leaves "
                         f"{(limit - most) / 1e9:.1f} GB of {limit / 1e9:.1f} GB; lower data.max_s or take a smaller "
                         "model")  # fmt: skip
    return Figures(trials, limit, most)


def _costliest(plan: Plan, session: Session) -> tuple[list[int], float]:
    """The steps with the largest padded batches: of tokens times frames, which is the lattice's size, and of frames.

    And what they cost, frames and lattice points: a plan with the same numbers has no larger batches.
    """
    lengths: Lengths = session.lengths
    frames, tokens = lengths.frames[plan.rows], lengths.tokens[plan.rows]
    if plan.example_starts is not None:
        frames, tokens = (np.add.reduceat(x, plan.example_starts[:-1]) for x in (frames, tokens))
    order = np.argsort(plan.batch_starts)
    longest, most = (np.maximum.reduceat(x, plan.batch_starts[order]) for x in (frames, tokens))
    padded = plan.batch_sizes[order] * longest.astype(np.int64)
    lattice = padded * (most + 1)
    steps = [int(order[lattice.argmax()]), int(order[padded.argmax()])]
    return steps, float(padded.max() + lattice.max())


def _batches(session: Session, plan: Plan, steps: list[int]) -> list[Batch]:
    """The batches of these steps, in noise."""
    config = session.config
    augmented = session.position.epoch >= config.shortest_first
    augmentation, waveform = (config.augment, session.waveform) if augmented else (None, None)
    corpus, missing = Noise(session), Missing(session.corpus.shards.files)
    draws = DRAWS if augmentation and (augmentation.speed or augmentation.gap_s or augmentation.pause_s) else 1
    feeds = [
        Feed(corpus, session.rows, plan, 0, augmentation, (config.seed, draw), missing, session.device, waveform)
        for draw in range(draws)
    ]
    return [max((feed.batch(step) for feed in feeds), key=lambda batch: int(batch.lens_b.max())) for step in steps]


def _run(session: Session, take: Take, batches: list[Batch]) -> dict[str, float]:
    """Steps on all batches, of which the last is timed.

    At a learning rate of 0: without a warm-up, dozens of steps on one batch of noise may end in numbers that are none.
    """
    session.optimisers.set_lr(0.0)
    for batch in batches:
        take(session, [batch])
    times: list[float] = []
    while (len(times) < 2 and sum(times) < 30 * TIMED_S) or sum(times) < TIMED_S:
        start = time.perf_counter()
        take(session, [batches[-1]])
        times.append(time.perf_counter() - start)
    audio_s = float(batches[-1].lens_b.sum()) * session.bundle.spec.frame_s
    return {"step_s": min(times), "audio_s": audio_s}


def _here(run: Callable[[], dict[str, float]], device: torch.device, limit: int) -> dict[str, Any] | None:
    """What `run` gives and the peak of memory; None when it was out."""
    gc.collect()  # what an earlier trial's error held
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        return run() | {"peak_bytes": memory.peak_bytes(device)}
    except Exception as err:
        if not memory.is_out(err):
            raise
        return None


def _in_process_of_its_own(
    run: Callable[[], dict[str, float]], device: torch.device, limit: int
) -> dict[str, Any] | None:
    """As `_here`, in a copy of this process, which gets no more than `limit` bytes from the system."""
    read_end, write_end = os.pipe()
    parent, child = os.getpid(), os.fork()
    if not child:
        os.close(read_end)
        # In a thread: the threads that OpenMP had in the parent are not in the copy, and the thread that used them
        # would wait for them for ever. A new thread gets new ones.
        thread = threading.Thread(target=_tell, args=(run, device, limit, write_end))
        try:
            thread.start()
            while thread.is_alive() and os.getppid() == parent:  # whoever kills a process means its trials too
                thread.join(ORPHAN_S)
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as pipe:
            said = pipe.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not said:  # killed by the system, which had no memory left
        return None
    told: dict[str, Any] = json.loads(said)
    if "mistake" in told:
        raise ValueError(told["mistake"])
    if "error" in told:
        raise RuntimeError(f"a trial step failed:\n{told['error']}")
    return told or None


def _tell(run: Callable[[], dict[str, float]], device: torch.device, limit: int, pipe: int) -> None:
    told: dict[str, Any]
    try:
        memory.allow_no_more_than(limit)
        told = run() | {"peak_bytes": memory.peak_bytes(device)}
    except Exception as err:
        if memory.is_out(err):
            told = {}
        else:
            told = {"mistake": str(err)} if isinstance(err, ValueError) else {"error": traceback.format_exc()}
    os.write(pipe, json.dumps(told).encode())


@contextlib.contextmanager
def _undone(session: Session) -> Iterator[None]:
    """Weights, optimisers and gradients are afterwards as they were."""
    model, parts = session.bundle.model, session.optimisers.parts
    weights = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    states, scaler = [deepcopy(part.state_dict()) for part in parts], session.scaler.state_dict()
    try:
        yield
    finally:
        model.load_state_dict(weights)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
        session.optimisers.zero_grad()
        session.scaler.load_state_dict(scaler)


class Noise(Corpus):
    """Utterances of the lengths of a session's, in noise of the same mean and variance, with any tokens."""

    def __init__(self, session: Session) -> None:
        shards = session.corpus.shards
        self.shards, self.spec = shards, shards.spec
        self._vocab = session.bundle.tokenizer.size
        self._tokens = np.zeros(len(shards), np.int32)
        self._tokens[session.rows] = session.lengths.tokens
        self._rng = np.random.default_rng(session.config.seed)
        deviation_f = np.sqrt(shards.moments.variance_f)
        noise = self._rng.standard_normal((NOISE_FRAMES, self.spec.mels)) * deviation_f + shards.moments.mean_f
        self._feats_tf = noise.astype(np.float16 if shards.content.features == "float16" else np.float32)
        self._samples = (0.1 * self._rng.standard_normal(NOISE_FRAMES * self.spec.hop_samples)).astype(np.float32)

    def stored(self, row: int) -> np.ndarray:
        return np.resize(self._feats_tf, (int(self.shards.frames[row]), self.spec.mels))

    def features(self, row: int) -> np.ndarray:
        return self.stored(row).astype(np.float32)

    def samples(self, row: int) -> np.ndarray:
        return np.resize(self._samples, self.spec.least_samples(int(self.shards.frames[row])))

    def text(self, row: int) -> str:
        return str(row)

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return [self._rng.integers(1, self._vocab, self._tokens[int(text)]).tolist() for text in texts]
