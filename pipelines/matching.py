"""Which of many utterances hold the same recording: their fingerprints joined word by word, in arrays.

Two utterances that share words at one and the same distance in time are a pair. An utterance is compared through each
of its words with LINKS others at most, so the work grows with the number of words and never with its square.

A hit is a word that two utterances share: a row in arrays of one length, which hold places in the array of all words.
"""

import itertools
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
Mask = npt.NDArray[np.bool_]

LINKS = 8
_PART_WORDS = 1_000_000  # in one go, which bounds the memory
_TOLERANCE_STEPS = 4  # by which the distances of one pair's hits may differ


@dataclass(frozen=True, slots=True)
class _Rule:
    """How many words of a kind two utterances must share: `least`, and per_root * sqrt(n).

    `n` is how many the one with fewer has, or the one with more.
    """

    fine: bool
    n: np.ufunc
    least: int
    per_root: float


# In 5 h of speech (6,021 utterances, 48 of them of the words yes and no by one speaker, 2,500 single digits by five) no
# two unrelated ones came above 0.8 by coarse and 1.6 by fine words. Of forty words Opus at 22 kbit/s leaves 19: 3.0.
_COARSE = _Rule(fine=False, n=np.minimum, least=3, per_root=1.0)
_FINE = _Rule(fine=True, n=np.maximum, least=6, per_root=1.9)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Utterances that share audio, by their rows in the table: first < second, sorted. Arrays of one length.

    What is at t in the first one is at t + offset_s in the second. `share` is overlap_s over the shorter one's length.
    """

    first: Ints
    second: Ints
    offset_s: Floats64
    overlap_s: Floats64
    share: Floats64

    def take(self, rows: npt.NDArray) -> "Pairs":
        """Those in the given places, or where a mask is true."""
        return Pairs(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the words of one kind are: in which utterance (ascending), at which step. The rest is by utterance."""

    owner: Words
    step: Words
    count: Ints
    duration_s: Floats64


def find_duplicates(prints: pa.Table) -> Pairs:
    """The pairs in a table of fingerprints (pipelines.fingerprint.SCHEMA).

    Where one recording occurs more than LINKS times, each of its copies is paired with the first LINKS only.
    """
    pa.default_memory_pool().release_unused()  # reading a million fingerprints leaves 700 MB behind
    return _longest([*_by_words(prints, _COARSE), *_by_words(prints, _FINE)])


def _by_words(prints: pa.Table, rule: _Rule) -> list[Pairs]:
    words, places = _of_kind(prints, rule.fine)
    order, group = _grouped(words)
    del words  # 160 MB of a million utterances
    return [_judge(places, first, second, rule) for first, second in _hits(places, order, group, rule.least)]


def _of_kind(prints: pa.Table, fine: bool) -> tuple[Words, _Places]:
    """The coarse or the fine words, in the order of the table, and where they are."""
    lengths = pc.list_value_length(prints["words"]).to_numpy()
    words = pc.list_flatten(prints["words"]).to_numpy()
    right = fingerprint.is_fine(words) == fine
    owner = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)[right]
    step = _sums(pc.list_flatten(prints["gaps"]).to_numpy(), lengths)[right]
    count = np.bincount(owner, minlength=len(lengths))
    return words[right], _Places(owner, step, count, prints["duration_s"].to_numpy().astype(np.float64))


def _sums(gaps: Words, lengths: Ints) -> Words:
    """The sums of gaps, anew for each utterance. Where uint32 overflows on the way, the differences are right again."""
    sums = np.cumsum(gaps, dtype=np.uint32)
    before = np.concatenate((np.zeros(1, np.uint32), sums))[np.cumsum(lengths) - lengths]
    return sums - np.repeat(before, lengths)


def _grouped(words: Words) -> tuple[Words, Words]:
    """Places in the order of their words, equal ones as they come; and where in that order each one's word begins.

    Words that occur once are left out.
    """
    keys = words.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(keys), dtype=np.uint32)
    keys.sort()
    order = keys.astype(np.uint32)  # the lower half
    keys >>= np.uint64(32)
    again = np.concatenate(([False], keys[1:] == keys[:-1]))[: len(keys)]
    del keys
    shared = again | np.concatenate((again[1:], [False]))[: len(again)]
    order, again = order[shared], again[shared]
    begin = np.arange(len(order), dtype=np.uint32)
    begin[again] = 0
    return order, np.maximum.accumulate(begin, out=begin)


def _hits(places: _Places, order: Words, group: Words, least: int) -> Iterator[tuple[Words, Words]]:
    """Places of shared words, of the pairs that have at least so many; all hits of a pair in one batch."""
    owner = places.owner[order]
    for low, high in _parts(places.owner):
        later = np.flatnonzero((owner >= low) & (owner < high)).astype(np.uint32)
        firsts, seconds = [], []
        for link in range(LINKS):
            later = later[group[later] + np.uint32(link) < later]
            early = group[later] + np.uint32(link)
            others = owner[early] != owner[later]
            firsts.append(early[others])
            seconds.append(later[others])
        first, second = np.concatenate(firsts), np.concatenate(seconds)
        enough = _frequent(owner[first], owner[second], least)
        yield order[first[enough]], order[second[enough]]


def _parts(owner: Words) -> Iterator[tuple[int, int]]:
    """Ranges of utterances that together have about _PART_WORDS each."""
    cuts = np.unique(np.concatenate((owner[::_PART_WORDS], owner[-1:] + 1))).tolist()
    yield from itertools.pairwise(cuts)


def _frequent(first: Words, second: Words, least: int) -> Mask:
    """Which hits belong to a pair of utterances that has at least so many."""
    pairs = (first.astype(np.uint64) << np.uint64(32)) | second
    ordered = np.sort(pairs)
    reach = max(0, len(ordered) - least + 1)
    frequent = np.append(ordered[:reach][ordered[least - 1 :] == ordered[:reach]], np.iinfo(np.uint64).max)
    return frequent[np.searchsorted(frequent, pairs)] == pairs


def _judge(places: _Places, first: Words, second: Words, rule: _Rule) -> Pairs:
    """Of each pair the hits at one distance in time, where there are most; the pair itself when these are enough."""
    distance = places.step[second].astype(np.int64) - places.step[first]
    order = np.lexsort((distance, places.owner[second], places.owner[first]))
    first, second, distance = first[order].astype(np.int64), second[order].astype(np.int64), distance[order]
    begin, end = _clusters(places.owner[first], places.owner[second], distance)
    enough = end - begin >= rule.least
    begin, end = begin[enough], end[enough]
    one, other = places.owner[first[begin]].astype(np.int64), places.owner[second[begin]].astype(np.int64)
    cluster, rows = _ranges(begin, end)
    hits = np.minimum(_distinct(cluster, first[rows], len(begin)), _distinct(cluster, second[rows], len(begin)))
    offset_s = np.bincount(cluster, distance[rows], len(begin)) / (end - begin) * STEP_S
    shorter = np.where(places.duration_s[one] <= places.duration_s[other], one, other)
    at = np.where(shorter[cluster] == one[cluster], first[rows], second[rows])
    covered = _extent(cluster, at) * (1 + 2 / np.maximum(hits, 1))  # on the average that lies beyond the outermost hits
    share = np.minimum(1.0, covered / np.maximum(places.count[shorter], 1))
    common_s = np.minimum(places.duration_s[one], places.duration_s[other] - offset_s) - np.maximum(0.0, -offset_s)
    overlap_s = np.clip(share * places.duration_s[shorter], 0.0, common_s)
    pairs = Pairs(one, other, offset_s, overlap_s, overlap_s / places.duration_s[shorter])
    n = rule.n(places.count[one], places.count[other])
    return pairs.take((hits >= rule.least) & (hits >= rule.per_root * np.sqrt(n)))


def _clusters(first: Words, second: Words, distance: Ints) -> tuple[Ints, Ints]:
    """For each pair the range [begin, end) of most hits whose distances differ by no more than _TOLERANCE_STEPS."""
    if len(distance) == 0:
        return distance, distance
    pair = np.cumsum((np.diff(first, prepend=first[:1]) != 0) | (np.diff(second, prepend=second[:1]) != 0))
    distance = distance - distance.min()
    place = pair * (distance.max() + _TOLERANCE_STEPS + 1) + distance
    end = np.searchsorted(place, place + _TOLERANCE_STEPS, side="right")
    size = end - np.arange(len(end))
    most = np.maximum.reduceat(size, np.flatnonzero(np.diff(pair, prepend=-1)))
    full = np.flatnonzero(size == most[pair])
    begin = full[np.flatnonzero(np.diff(pair[full], prepend=-1))]
    return begin, end[begin]


def _ranges(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All places of the ranges one after another, each with the number of its range."""
    size = end - begin
    which = np.repeat(np.arange(len(size)), size)
    return which, np.arange(size.sum()) + np.repeat(begin - (np.cumsum(size) - size), size)


def _distinct(cluster: Ints, values: npt.NDArray, clusters: int) -> Ints:
    """How many different values, each below 2**32, each cluster has."""
    both = np.sort((cluster << 32) | values)  # np.unique would hash, which takes several times as long
    return np.bincount(both[np.append(True, both[1:] != both[:-1])[: len(both)]] >> 32, minlength=clusters)


def _extent(cluster: Ints, values: Ints) -> Ints:
    """From the least value of each cluster to the greatest, both counted."""
    starts = np.flatnonzero(np.diff(cluster, prepend=-1))
    if len(starts) == 0:
        return starts
    return np.maximum.reduceat(values, starts) - np.minimum.reduceat(values, starts) + 1


def _longest(found: list[Pairs]) -> Pairs:
    """All pairs in order; of one that was found by words of both kinds the longer overlap."""
    none = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0))
    pairs = Pairs(*(np.concatenate([getattr(p, name) for p in (none, *found)]) for name in Pairs.__slots__))
    pairs = pairs.take(np.lexsort((-pairs.overlap_s, pairs.second, pairs.first)))
    return pairs.take((np.diff(pairs.first, prepend=-1) != 0) | (np.diff(pairs.second, prepend=-1) != 0))
