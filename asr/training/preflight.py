"""What a training finds out before its first step: from the index, the token lengths and the plan, and two samples.

Wrong transcripts are the commonest fault of corpora, and a vocabulary of another language, silence, or an encoder that
leaves fewer frames than there are tokens are seen in minutes here, and in days by a WER that stays high. Samples are
seeded and bounded, so that a million utterances take no longer than a thousand.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from asr.formats.source import AudioError
from asr.tokenizer import Tokenizer
from asr.training import memory
from asr.training.resume import Position
from configs.wording import counted
from manifests import storage
from shards.columns import open_index
from shards.index import ShardSet
from shards.plan import Plan

if TYPE_CHECKING:
    from asr.training.session import Session

TEXTS, TEXT_PLACES = 2048, 16  # texts that are looked at, in so many runs of neighbours: an index is read in pieces
UTTERANCES, READ_S = 200, 2.0  # utterances that are listened to, for so long at most
# From the 5 % softest to the 5 % loudest frames, mean over the mels, in nats of power: white noise has 0.44, dither
# 0.25, a hum 0.28. Of 1,600 recordings of speech one had less (0.53, a digit of 0.15 s); but digits, the least was 3.3.
NARROW = 0.6
# In MADs from the median of the logarithm, scaled to a normal's deviation, and twice the rate at least. Of 1,600
# recordings 10 are beyond, all single words in much silence.
FAR = 4.0
NAMED = 3  # utterances of each fault that are named
SHOWN = 60  # characters of a text
PLANNED = 1_000_000  # utterances up to which a second epoch is planned, 0.5 s
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the vocabulary covers a sample of the texts: characters, not tokens, as several unknown ones in a row are one
    token.
    """

    characters: int
    lacking: Counter[str]
    in_bytes: bool  # what lacks is spelled in bytes

    @property
    def share(self) -> float:
        """Of the characters, those that lack."""
        return sum(self.lacking.values()) / self.characters if self.characters else 0.0


def check(session: Session) -> Coverage:
    """Raises ValueError for what makes the training senseless, and says what mends it. The same on all ranks."""
    total, kept = len(session.corpus.shards), len(session.rows)
    if 2 * kept < total:
        reason = max(session.left_out, key=lambda name: session.left_out[name])
        raise ValueError(f"{total - kept:,} of {counted(total, 'utterance')} are left out, "
                         f"{session.left_out[reason]:,} for {reason!r}: {_mend(session, reason)}")  # fmt: skip
    coverage = _coverage(session)
    if not coverage.in_bytes and coverage.share > 0.5:
        raise ValueError(f"--vocab: lacks {coverage.share:.0%} of the characters of these texts "
                         f"({_most(coverage.lacking)}); it is of another language or writing, make one of this corpus "
                         "with build-vocab")  # fmt: skip
    return coverage


def lines(session: Session) -> list[str]:
    """What to say before the first step of a new run, in some lines."""
    return [*_plan_lines(session), _memory_line(session), *_crowded_lines(session), *_rate_lines(session),
            *_vocab_lines(session), *_silence_lines(session)]  # fmt: skip


def _mend(session: Session, reason: str) -> str:
    model, data = session.bundle.model, session.config.data
    if reason == "too long":
        return f"raise data.max_s ({data.max_s:g}), or cut them when the corpus is prepared"
    if reason == "no frames":
        return "write the shards again"
    frames_ms = model.encoder.reduction * session.bundle.spec.frame_s * 1e3
    return f"take a larger vocabulary, or an encoder with frames shorter than {frames_ms:g} ms"


def _plan_lines(session: Session) -> list[str]:
    plan, config = session.plan, session.config
    if plan is None or not plan.steps:
        return []
    batches = config.optim.accumulate
    audio_s = float(session.lengths.frames[plan.rows].sum(dtype=np.int64)) * session.bundle.spec.frame_s
    steps = -(-plan.steps // batches)
    later = _later_plan(session, plan)
    first_epochs = config.epochs if later is plan else config.shortest_first
    total = first_epochs * steps
    if later is not None:
        total += (config.epochs - first_epochs) * -(-later.steps // batches)
    more = "" if later is not None else " and those of spliced epochs"
    # what is spliced, which utterances a mix brings, and which lie in one window differs from epoch to epoch
    about = "about " if config.epochs > 1 else ""
    examples = int(plan.batch_sizes.sum()) / steps
    warmup = config.optim.warmup_steps
    short = [] if total > warmup else [
        f"warm-up: optim.warmup_steps={warmup} is as long as the training or longer, so that optim.lr is hardly "
        f"reached; say for instance optim.warmup_steps={max(1, total // 10)}"
    ]  # fmt: skip
    in_all = f"in all {counted(config.epochs, 'epoch')}, {about}{counted(total, 'step')}{more}"
    each = f"{examples:.1f} examples and {audio_s / steps:.1f} s"
    return [f"an epoch: {audio_s / 3600:.2f} h in {counted(steps, 'step')} of {each}, padding {plan.padding:.1%}; "
            f"{in_all}", *short]  # fmt: skip


def _later_plan(session: Session, plan: Plan) -> Plan | None:
    """Of the epochs after the shortest-first ones, which splice; None where it would take too long."""
    from asr.training.session import epoch_plan

    config = session.config
    alike = config.data.splice == 1 or not config.shortest_first
    if alike or config.epochs <= config.shortest_first:
        return plan
    if len(session.rows) > PLANNED:
        return None
    return epoch_plan(replace(session, position=Position(epoch=config.shortest_first, world=session.world)))


def _memory_line(session: Session) -> str:
    """Of what is there all the time: weights, gradients, and what the optimisers and the mean of weights keep."""
    weights = sum(p.numel() * p.element_size() for p in session.bundle.model.parameters())
    taken = 2 * weights + (weights if session.ema is not None else 0)
    for part in session.optimisers.parts:
        for group in part.param_groups:
            kept = 2 if isinstance(part, torch.optim.AdamW) else int(group["momentum"] > 0)
            taken += kept * sum(p.numel() * p.element_size() for p in group["params"])
    return (f"memory: {taken / 1e9:.2f} GB for weights, gradients and the optimiser, of "
            f"{memory.limit_bytes(session.device) / 1e9:.1f} GB; batches come on top")  # fmt: skip


def _crowded_lines(session: Session) -> list[str]:
    shards, spec = session.corpus.shards, session.bundle.spec
    left = np.ones(len(shards), bool)
    left[session.rows] = False
    crowded = np.flatnonzero(left & (shards.frames >= 1) & (shards.frames <= session.config.data.max_s / spec.frame_s))
    if not len(crowded):
        return []
    texts = _columns(shards, crowded[:NAMED], ["id", "text"])
    said = [f"  {id_} ({shards.frames[row] * spec.frame_s:.1f} s): {_short(text)}"
            for row, (id_, text) in zip(crowded, texts, strict=False)]  # fmt: skip
    mend = _mend(session, "more tokens than encoder frames")
    return [f"more tokens than encoder frames: {len(crowded):,} of {counted(len(shards), 'utterance')}; where their "
            f"texts are right, {mend}:", *said]  # fmt: skip


def _rate_lines(session: Session) -> list[str]:
    shards, frame_s = session.corpus.shards, session.bundle.spec.frame_s
    tokens, seconds = session.lengths.tokens, session.lengths.frames * frame_s
    spoken = np.flatnonzero(tokens)
    found = []
    if len(spoken) < len(tokens):
        found.append(f"no text: {len(tokens) - len(spoken):,} of {counted(len(tokens), 'utterance')}")
    if not len(spoken):
        return found
    rate = np.log(tokens[spoken] / seconds[spoken])
    median = float(np.median(rate))
    off = rate - median
    limit = max(np.log(2), FAR * 1.4826 * float(np.median(np.abs(off))))
    far = np.flatnonzero(np.abs(off) > limit)
    if not len(far):
        return found
    found.append(f"tokens a second far from the median of {np.exp(median):.1f}: {len(far):,} of "
                 f"{counted(len(spoken), 'utterance')}; see whether their texts are what is said:")  # fmt: skip
    ordered = far[np.argsort(off[far])]
    slow, fast = ordered[off[ordered] < 0][:NAMED], ordered[off[ordered] > 0][::-1][:NAMED]
    for worst in (fast, slow):
        places = session.rows[spoken[worst]]
        for at, (id_, text) in zip(spoken[worst], _columns(shards, places, ["id", "text"]), strict=True):
            found.append(f"  {id_} ({tokens[at] / seconds[at]:.2g}/s, {seconds[at]:.1f} s): {_short(text)}")
    return found


def _vocab_lines(session: Session) -> list[str]:
    coverage = session.coverage
    if coverage is None or not coverage.lacking:
        return []
    how = "spelled in bytes" if coverage.in_bytes else "unknown"
    return [f"vocabulary: in a sample of up to {TEXTS:,} texts {coverage.share:.2%} of the characters are {how}: "
            f"{_most(coverage.lacking)}"]  # fmt: skip


def _coverage(session: Session) -> Coverage:
    rng = np.random.default_rng(session.config.seed)
    rows, tokenizer = session.rows, session.bundle.tokenizer
    each = -(-TEXTS // TEXT_PLACES)
    starts = (np.arange(TEXT_PLACES) + rng.random(TEXT_PLACES)) * len(rows) / TEXT_PLACES
    places = np.unique((starts[:, None] + np.arange(each)).astype(np.int64).clip(0, len(rows) - 1))
    counts: Counter[str] = Counter()
    for (text,) in _columns(session.corpus.shards, rows[places], ["text"]):
        counts.update(text.replace(" ", ""))
    lacking = Counter({char: count for char, count in counts.items() if not _covers(tokenizer, char)})
    return Coverage(counts.total(), lacking, _has_bytes(tokenizer))


def _covers(tokenizer: Tokenizer, char: str) -> bool:
    ids = tokenizer.encode(char)
    return tokenizer.unknown not in ids and not any(map(BYTE.fullmatch, tokenizer.pieces(ids)))


def _has_bytes(tokenizer: Tokenizer) -> bool:
    return any(map(BYTE.fullmatch, tokenizer.pieces(list(range(tokenizer.size)))))


def _most(lacking: Counter[str]) -> str:
    named = ", ".join(f"{char!r} {counted(count, 'time')}" for char, count in lacking.most_common(8))
    return named + (f" and {len(lacking) - 8:,} more" if len(lacking) > 8 else "")


def _silence_lines(session: Session) -> list[str]:
    """From features, some of which are read here. Where shards are elsewhere, of the one that is needed first."""
    corpus, missing = session.corpus, session.missing
    positions = np.arange(len(session.rows))
    if session.plan is not None and not all(storage.is_local(file.url) for file in corpus.shards.files):
        first = next(session.plan.shards_needed(0), None)
        positions = np.flatnonzero(session.lengths.shard == first)
    order = np.random.default_rng(session.config.seed).permutation(len(positions))[:UTTERANCES]
    looked, silent, broken = 0, [], []
    end_s = time.perf_counter() + READ_S
    for row in session.rows[positions[order]].tolist():
        shard = int(corpus.shards.shard[row])
        if missing.lost[shard]:
            continue
        try:
            feats_tf = corpus.features(row)
        except (OSError, EOFError, AudioError) as err:
            missing.add(shard, err)
            continue
        looked += 1
        if not np.isfinite(feats_tf).all():
            broken.append(row)
        elif np.ptp(np.quantile(feats_tf.mean(1), [0.05, 0.95])) < NARROW:
            silent.append(row)
        if time.perf_counter() > end_s:
            break
    found = []
    for rows, what in ((silent, "silence or one steady sound"), (broken, "numbers that are not finite")):
        if rows:
            names = ", ".join(id_ for (id_,) in _columns(corpus.shards, rows[:NAMED], ["id"]))
            found.append(f"{what}: {len(rows)} of a sample of {counted(looked, 'utterance')}, such as {names}")
    return found


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def _columns(shards: ShardSet, rows: Sequence[int] | np.ndarray, names: list[str]) -> list[tuple[str, ...]]:
    """Columns of a few rows, of which only the row groups that they lie in are read."""
    rows = np.asarray(rows, np.int64)
    found: dict[int, tuple[str, ...]] = {}
    first = 0
    for part in shards.parts:
        with open_index(part.uri) as file:
            sizes = np.array([file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)])
            ends = np.cumsum(sizes)
            kept = np.arange(ends[-1]) if part.keep is None else np.flatnonzero(part.keep)
            mine = rows[(rows >= first) & (rows < first + len(kept))]
            at = kept[mine - first]
            group_of = np.searchsorted(ends, at, side="right")
            for group in np.unique(group_of).tolist():
                inside = np.flatnonzero(group_of == group)
                table = file.read_row_group(group, columns=names, use_threads=False)
                taken = table.take(at[inside] - (ends[group] - sizes[group]))
                values = zip(*(taken.column(name).to_pylist() for name in names), strict=True)
                found |= dict(zip(mine[inside].tolist(), values, strict=True))
            first += len(kept)
    return [found[row] for row in rows.tolist()]
