"""Which of many utterances hold the same recording: their fingerprints joined word by word, in arrays.

Two utterances that share words at one and the same distance in time are a pair. No word leads to more than LINKS pairs
per utterance that has it, so the work grows with the number of words and never with its square.

A hit is a word that two utterances share; it is a row in arrays of one length each.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import fingerprint
from pipelines.fingerprint import STEP_S, Words

Ints = npt.NDArray[np.int64]
Floats64 = npt.NDArray[np.float64]

DEBUG: list = []
LINKS = 8  # an utterance is compared with the first so many that have the same word
_PART = 2_000_000  # words in one go: bounds the memory
_TOLERANCE = 2  # steps by which the distance of one pair's hits may differ to either side


@dataclass(frozen=True, slots=True)
class Rule:
    """How many words must agree: `least`, and per_root * sqrt(n) of two utterances that have n each.

    `n` is the number of the one that has fewer, or more. A word tells of what is around it as far as reach_s.
    """

    fine: bool
    n: np.ufunc
    least: int
    per_root: float
    reach_s: float


COARSE = Rule(False, np.minimum, 3, 0.6, 0.342)
FINE = Rule(True, np.maximum, 6, 1.75, 0.182)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Utterances that share audio, by their rows in the table; first < second, sorted. Arrays of one length.

    What is at t in the first is at t + offset_s in the second. `share` is overlap_s over the shorter one's length.
    """

    first: Ints
    second: Ints
    offset_s: Floats64
    overlap_s: Floats64
    share: Floats64


@dataclass(frozen=True, slots=True)
class _Prints:
    """Words of one kind: of utterance `owner` (ascending), at `step`. `duration_s` is by utterance."""

    words: Words
    owner: Words
    step: Words
    duration_s: Floats64


@dataclass(frozen=True, slots=True)
class _Hits:
    first: Words
    second: Words
    step_first: Ints
    step_second: Ints

    def take(self, rows: npt.NDArray) -> "_Hits":
        return _Hits(self.first[rows], self.second[rows], self.step_first[rows], self.step_second[rows])


def find_duplicates(prints: pa.Table) -> Pairs:
    """All pairs in a table of fingerprints. Of several pairs with a common utterance, those with early rows are found.

    Where one recording occurs more than LINKS times, each of its copies is paired with the first LINKS at least.
    """
    words = prints["words"].combine_chunks().flatten().to_numpy()
    lengths = pc.list_value_length(prints["words"]).to_numpy()
    steps = _steps(prints["gaps"].combine_chunks().flatten().to_numpy(), lengths)
    duration_s = prints["duration_s"].to_numpy().astype(np.float64)
    owner = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)
    fine = fingerprint.is_fine(words)
    found = []
    for rule in (COARSE, FINE):
        rows = np.flatnonzero(fine == rule.fine)
        some = _Prints(words[rows], owner[rows], steps[rows], duration_s)
        found += [_judge(some, hits, rule) for hits in _hits(some, rule)]
    return _best(found)


def _steps(gaps: Words, lengths: npt.NDArray) -> Words:
    """The sums of gaps, anew for each utterance. uint32 may overflow on the way and comes out right all the same."""
    sums = np.cumsum(gaps, dtype=np.uint32)
    ends = np.cumsum(lengths)
    before = np.concatenate((np.zeros(1, np.uint32), sums))[ends - lengths]
    return sums - np.repeat(before, lengths)


def _hits(prints: _Prints, rule: Rule) -> Iterator[_Hits]:
    """Shared words, all those of a pair in one batch; only pairs with enough of them."""
    keys = prints.words.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()
    order = keys.astype(np.uint32)
    keys >>= np.uint64(32)
    new = np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)]
    del keys
    group = np.maximum.accumulate(np.where(new, np.arange(len(new), dtype=np.uint32), np.uint32(0)))
    owner = prints.owner[order]
    for low, high in _parts(prints.owner):
        later = np.flatnonzero((owner >= low) & (owner < high) & ~new).astype(np.uint32)
        pairs = []
        for link in range(LINKS):
            later = later[group[later] + np.uint32(link) < later]
            early = group[later] + np.uint32(link)
            other = owner[early] != owner[later]
            pairs.append((early[other], later[other]))
        early, later = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        enough = _in_frequent_pair(owner[early], owner[later], rule.least)
        early, later = early[enough], later[enough]
        step = prints.step
        yield _Hits(owner[early], owner[later], step[order[early]].astype(np.int64), step[order[later]].astype(np.int64))


def _parts(owner: Words) -> Iterator[tuple[int, int]]:
    """Ranges of utterances that have about _PART words each."""
    if len(owner) == 0:
        return
    cuts = np.unique(np.concatenate((owner[::_PART], [owner[-1] + 1])))
    yield from zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)


def _in_frequent_pair(first: Words, second: Words, least: int) -> npt.NDArray[np.bool_]:
    """Which hits belong to a pair that has at least so many."""
    pairs = (first.astype(np.uint64) << np.uint64(32)) | second
    ordered = np.sort(pairs)
    frequent = ordered[: len(ordered) - least + 1][ordered[least - 1 :] == ordered[: len(ordered) - least + 1]]
    if len(frequent) == 0:
        return np.zeros(len(pairs), np.bool_)
    place = np.minimum(np.searchsorted(frequent, pairs), len(frequent) - 1)
    return frequent[place] == pairs


def _judge(prints: _Prints, hits: _Hits, rule: Rule) -> Pairs:
    """Of each pair the hits at one distance, the most frequent; the pair itself when these are enough."""
    offset = hits.step_second - hits.step_first
    order = np.lexsort((offset, hits.second, hits.first))
    hits, offset = hits.take(order), offset[order]
    begin, end = _clusters(hits, offset)
    enough = end - begin >= rule.least
    begin, end = begin[enough], end[enough]
    if len(begin) == 0:
        return _none()
    first, second = hits.first[begin].astype(np.int64), hits.second[begin].astype(np.int64)
    cluster, rows = _ranges(begin, end)
    starts = np.flatnonzero(np.diff(cluster, prepend=-1))
    steps = hits.step_first[rows]
    count = np.minimum(_distinct(cluster, steps), _distinct(cluster, hits.step_second[rows]))
    span = np.maximum.reduceat(steps, starts) - np.minimum.reduceat(steps, starts)
    offset = np.round(np.add.reduceat(offset[rows], starts) / (end - begin)).astype(np.int64)
    duration_s = prints.duration_s
    low = np.maximum(0, -offset)
    high = np.minimum(duration_s[first] / STEP_S, duration_s[second] / STEP_S - offset).astype(np.int64)
    words_in = np.bincount(prints.owner, minlength=len(duration_s))
    n = rule.n(words_in[first], words_in[second])
    reach_s = 2 * (rule.reach_s + span * STEP_S / np.maximum(count - 1, 1))
    overlap_s = np.minimum((high - low) * STEP_S, span * STEP_S + reach_s)
    share = overlap_s / np.minimum(duration_s[first], duration_s[second])
    pairs = Pairs(first, second, offset * STEP_S, overlap_s, share)
    DEBUG.append((rule.fine, first, second, count, n, span, share))
    return _take(pairs, (count >= rule.least) & (count >= rule.per_root * np.sqrt(n)))


def _clusters(hits: _Hits, offset: Ints) -> tuple[Ints, Ints]:
    """For each pair the rows [begin, end) with most hits within 2 * _TOLERANCE + 1 steps of distance."""
    if len(offset) == 0:
        return offset, offset
    new = (np.diff(hits.first, prepend=hits.first[:1]) != 0) | (np.diff(hits.second, prepend=hits.second[:1]) != 0)
    pair = np.cumsum(new)
    place = pair * (int(np.ptp(offset)) + 2 * _TOLERANCE + 1) + (offset - offset.min())
    end = np.searchsorted(place, place + 2 * _TOLERANCE, side="right")
    count = end - np.arange(len(end))
    most = np.maximum.reduceat(count, np.flatnonzero(np.diff(pair, prepend=-1)))
    full = np.flatnonzero(count == most[pair])
    begin = full[np.flatnonzero(np.diff(pair[full], prepend=-1))]
    return begin, end[begin]


def _ranges(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All rows of the ranges one after another, and which range each belongs to."""
    size = end - begin
    which = np.repeat(np.arange(len(size)), size)
    return which, np.arange(size.sum()) + np.repeat(begin - (np.cumsum(size) - size), size)


def _distinct(cluster: Ints, steps: Ints) -> Ints:
    """Different values of `steps` in each cluster."""
    pairs = np.unique(np.stack((cluster, steps), axis=1), axis=0)
    return np.bincount(pairs[:, 0])


def _none() -> Pairs:
    return Pairs(*(np.empty(0, np.int64) for _ in range(2)), *(np.empty(0) for _ in range(3)))


def _take(pairs: Pairs, rows: npt.NDArray) -> Pairs:
    return Pairs(pairs.first[rows], pairs.second[rows], pairs.offset_s[rows], pairs.overlap_s[rows], pairs.share[rows])


def _best(found: list[Pairs]) -> Pairs:
    """All pairs in order; of one that was found by both kinds of words the longer overlap."""
    names = ("first", "second", "offset_s", "overlap_s", "share")
    pairs = Pairs(*(np.concatenate([getattr(p, name) for p in (_none(), *found)]) for name in names))
    pairs = _take(pairs, np.lexsort((-pairs.overlap_s, pairs.second, pairs.first)))
    again = (np.diff(pairs.first, prepend=-1) == 0) & (np.diff(pairs.second, prepend=-1) == 0)
    return _take(pairs, ~again)
