"""Matching on made-up fingerprints: against a slow search for the same rule, and where a word is in very many."""

import time
from collections import Counter, defaultdict
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.fingerprint import STEP_S, Fingerprint, is_fine, to_table
from pipelines.matching import LINKS, Pairs, find_duplicates

ALL = np.random.default_rng(3).integers(0, 2**32, 200_000, dtype=np.uint32)
COARSE, FINE = ALL[~is_fine(ALL)], ALL[is_fine(ALL)]


def made(words: np.ndarray, steps: np.ndarray, duration_s: float = 5.0) -> Fingerprint:
    return Fingerprint(words.astype(np.uint32), steps.astype(np.uint32), duration_s)


def recording(seed: int, kind: np.ndarray = COARSE, words: int = 40, duration_s: float = 5.0) -> Fingerprint:
    """Its words are in no other recording, but for one in ten thousand."""
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.choice(round(duration_s / STEP_S), words, replace=False))
    return made(rng.choice(kind, words, replace=False), steps, duration_s)


def lossy(print_: Fingerprint, share: float, seed: int) -> Fingerprint:
    """A copy that has this share of the words, the others changed, each up to a step away."""
    rng = np.random.default_rng(seed)
    kind = FINE if is_fine(print_.words[:1]).any() else COARSE
    words = np.where(rng.random(len(print_.words)) < share, print_.words, rng.choice(kind, len(print_.words)))
    steps = np.maximum(0, print_.steps.astype(np.int64) + rng.integers(-1, 2, len(words)))
    order = np.argsort(steps, kind="stable")
    return made(words[order], steps[order], print_.duration_s)


def stretch(print_: Fingerprint, start_s: float, end_s: float) -> Fingerprint:
    times_s = print_.steps * STEP_S
    inside = (times_s >= start_s) & (times_s < end_s)
    return made(print_.words[inside], print_.steps[inside] - round(start_s / STEP_S), end_s - start_s)


def match(*prints: Fingerprint) -> Pairs:
    return find_duplicates(to_table((str(i), p) for i, p in enumerate(prints)))


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_a_copy_is_paired_with_its_original_only() -> None:
    originals = [recording(i) for i in range(50)]
    pairs = match(*originals, *(lossy(p, 0.4, i) for i, p in enumerate(originals)))
    assert as_set(pairs) == {(i, i + 50) for i in range(50)}
    np.testing.assert_allclose(pairs.offset_s, 0, atol=0.01)
    assert (pairs.share > 0.5).all() and np.median(pairs.share) > 0.95
    assert (pairs.overlap_s == pairs.share * 5).all()


@pytest.mark.parametrize(("common_s", "seed"), [(3.0, 0), (6.0, 1), (9.0, 2)])
def test_offset_and_overlap_of_two_stretches(common_s: float, seed: int) -> None:
    whole = recording(seed, words=200, duration_s=20)
    first, second = stretch(whole, 0, 10), stretch(lossy(whole, 0.5, seed), 10 - common_s, 20 - common_s)
    pairs = match(first, second)
    assert as_set(pairs) == {(0, 1)}
    assert pairs.offset_s[0] == pytest.approx(common_s - 10, abs=0.01)
    assert pairs.overlap_s[0] == pytest.approx(common_s, abs=0.5)
    assert pairs.share[0] == pytest.approx(common_s / 10, abs=0.05)


def test_the_share_is_that_of_the_shorter_one() -> None:
    long = recording(1, words=4800, duration_s=600)
    pairs = match(long, stretch(long, 300, 305), stretch(long, 598, 600))
    assert as_set(pairs) == {(0, 1), (0, 2)}
    np.testing.assert_allclose(pairs.offset_s, [-300, -598], atol=0.01)
    np.testing.assert_allclose(pairs.share, 1, atol=0.1)


def test_a_shared_jingle_is_no_copy_of_the_whole() -> None:
    """Two seconds in common at the beginning of ten: found, and told to be a fifth."""
    jingle = recording(0, words=16, duration_s=2)

    def after_it(seed: int) -> Fingerprint:
        rest = recording(seed, words=64, duration_s=8)
        return made(np.append(jingle.words, rest.words), np.append(jingle.steps, rest.steps + 400), 10)

    pairs = match(after_it(1), after_it(2))
    assert as_set(pairs) == {(0, 1)}
    assert pairs.share[0] == pytest.approx(0.2, abs=0.05)


def test_words_in_another_order_or_at_other_distances_are_no_copy() -> None:
    print_ = recording(0)
    shuffled = made(np.random.default_rng(0).permutation(print_.words), print_.steps)
    slower = made(print_.words, print_.steps * 2, 10)
    assert as_set(match(print_, shuffled, slower)) == set()


def test_short_ones_are_found_by_their_fine_words() -> None:
    digits = [recording(i, FINE, words=40, duration_s=0.5) for i in range(20)]
    pairs = match(*digits, *(lossy(p, 0.6, i) for i, p in enumerate(digits)))
    assert as_set(pairs) == {(i, i + 20) for i in range(20)}
    assert as_set(match(digits[0], lossy(digits[0], 0.15, 0))) == set()  # as much as two takes of a digit share


def test_many_copies_are_all_paired_with_the_first() -> None:
    prints = [recording(i) for i in range(5)]
    pairs = match(*prints[:2], *[prints[2]] * 100, *prints[3:])
    assert {(2, i) for i in range(3, 102)} <= as_set(pairs)
    assert len(pairs.first) <= 100 * LINKS
    assert ((pairs.first >= 2) & (pairs.second < 102)).all()


def test_a_word_in_all_utterances_costs_little_and_hides_nothing() -> None:
    """Compared each with each, 20,000 utterances with ten words in common would make 2,000,000,000 hits."""
    count, rng = 20_000, np.random.default_rng(0)
    common = np.broadcast_to(COARSE[:10], (count, 10))
    words = np.concatenate((rng.choice(COARSE[10:], (count, 20)), common), axis=1)
    steps = np.sort(rng.integers(0, 1600, (count, 30)), axis=1)
    prints = [made(rng.permutation(w), s, 8.0) for w, s in zip(words, steps, strict=True)]
    prints[-1] = prints[count // 2]
    start_s = time.process_time()
    pairs = match(*prints)
    assert time.process_time() - start_s < 20
    assert (count // 2, count - 1) in as_set(pairs)


def test_nothing_to_compare() -> None:
    silent = made(np.empty(0), np.empty(0))
    for prints in ([], [silent], [silent, silent, recording(0)], [recording(0)]):
        assert len(match(*prints).first) == 0


SMALL = st.lists(  # utterances of few and frequent words
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=12).map(
        lambda u: sorted(u, key=lambda hit: hit[1])
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(SMALL, st.integers(0, 40))
def test_the_pairs_are_those_of_a_slow_search(utterances: list[list[tuple[int, int]]], later: int) -> None:
    utterances = utterances + [[(word, step + later) for word, step in u] for u in utterances[:1]]
    assume(max(Counter(word for u in utterances for word, _ in u).values(), default=0) <= LINKS)
    prints = [made(COARSE[[word for word, _ in u]], np.array([step for _, step in u]), 1.0) for u in utterances]
    expected = {
        (i, j)
        for (i, one), (j, other) in combinations(enumerate(utterances), 2)
        if _agreeing(one, other) >= max(3, min(len(one), len(other)) ** 0.5)
    }
    assert as_set(match(*prints)) == expected


def _agreeing(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
    """Words of either that agree where most pairs of words do, at distances that differ by 4 steps at most."""
    at = defaultdict(list)
    for (place, (word, step)), (place_other, (word_other, step_other)) in product(enumerate(one), enumerate(other)):
        if word == word_other:
            at[step_other - step].append((place, place_other))
    windows = [[hit for d in range(first, first + 5) for hit in at.get(d, [])] for first in sorted(at)]
    best = max(windows, key=len, default=[])
    return min(len({a for a, _ in best}), len({b for _, b in best}))
